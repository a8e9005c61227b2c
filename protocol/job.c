/* job.c: the state machine of a device's job as one table, and what its codes mean. */
#include "protocol/job.h"

#include <stddef.h>

/* An entry is the next state + 1, so that 0 means: not allowed. */
#define TO(state) ((uint8_t)(JOB_##state + 1))

static const uint8_t table[JOB_STATES][JOB_EVENTS] = {
    [JOB_IDLE] = {[JOB_EVENT_OFFER] = TO(OFFERED), [JOB_EVENT_RESTART] = TO(IDLE)},
    [JOB_OFFERED] = {[JOB_EVENT_OFFER] = TO(OFFERED),
                     [JOB_EVENT_ACCEPT] = TO(ACCEPTED),
                     [JOB_EVENT_REJECT] = TO(REJECTED),
                     [JOB_EVENT_DEFER] = TO(DEFERRED),
                     [JOB_EVENT_RESTART] = TO(OFFERED),
                     [JOB_EVENT_CANCEL] = TO(FAILED)},
    [JOB_ACCEPTED] = {[JOB_EVENT_START] = TO(FETCHING),
                      [JOB_EVENT_RETRY] = TO(ACCEPTED),
                      [JOB_EVENT_RESTART] = TO(ACCEPTED),
                      [JOB_EVENT_FAIL] = TO(FAILED),
                      [JOB_EVENT_CANCEL] = TO(FAILED)},
    [JOB_REJECTED] = {[JOB_EVENT_OFFER] = TO(OFFERED),
                      [JOB_EVENT_RESTART] = TO(REJECTED),
                      [JOB_EVENT_CLEAR] = TO(IDLE)},
    [JOB_DEFERRED] = {[JOB_EVENT_OFFER] = TO(OFFERED),
                      [JOB_EVENT_DUE] = TO(OFFERED),
                      [JOB_EVENT_REJECT] = TO(REJECTED),
                      [JOB_EVENT_RESTART] = TO(DEFERRED),
                      [JOB_EVENT_CANCEL] = TO(FAILED)},
    [JOB_FETCHING] = {[JOB_EVENT_FETCHED] = TO(VERIFYING),
                      [JOB_EVENT_RETRY] = TO(FETCHING),
                      [JOB_EVENT_RESTART] = TO(FETCHING),
                      [JOB_EVENT_FAIL] = TO(FAILED),
                      [JOB_EVENT_CANCEL] = TO(FAILED)},
    [JOB_VERIFYING] = {[JOB_EVENT_VERIFIED] = TO(DERIVING),
                       [JOB_EVENT_DAMAGED] = TO(FETCHING),
                       [JOB_EVENT_RETRY] = TO(VERIFYING),
                       [JOB_EVENT_RESTART] = TO(VERIFYING),
                       [JOB_EVENT_FAIL] = TO(FAILED),
                       [JOB_EVENT_CANCEL] = TO(FAILED)},
    [JOB_DERIVING] = {[JOB_EVENT_DERIVED] = TO(SELFTEST),
                      [JOB_EVENT_RETRY] = TO(DERIVING),
                      [JOB_EVENT_RESTART] = TO(DERIVING),
                      [JOB_EVENT_FAIL] = TO(FAILED),
                      [JOB_EVENT_CANCEL] = TO(FAILED)},
    [JOB_SELFTEST] = {[JOB_EVENT_PASSED] = TO(STAGED),
                      [JOB_EVENT_RETRY] = TO(SELFTEST),
                      [JOB_EVENT_RESTART] = TO(SELFTEST),
                      [JOB_EVENT_FAIL] = TO(FAILED),
                      [JOB_EVENT_CANCEL] = TO(FAILED)},
    [JOB_STAGED] = {[JOB_EVENT_SWITCH] = TO(TRIAL),
                    [JOB_EVENT_RETRY] = TO(STAGED),
                    [JOB_EVENT_RESTART] = TO(STAGED),
                    [JOB_EVENT_FAIL] = TO(FAILED),
                    [JOB_EVENT_CANCEL] = TO(FAILED)},
    /* the new variant serves: from here on every way back is a rollback */
    [JOB_TRIAL] = {[JOB_EVENT_PROVED] = TO(COMMITTED),
                   [JOB_EVENT_RETRY] = TO(TRIAL),
                   [JOB_EVENT_RESTART] = TO(TRIAL),
                   [JOB_EVENT_FAIL] = TO(ROLLED_BACK),
                   [JOB_EVENT_CANCEL] = TO(ROLLED_BACK),
                   [JOB_EVENT_REVERT] = TO(ROLLED_BACK)},
    [JOB_COMMITTED] = {[JOB_EVENT_OFFER] = TO(OFFERED),
                       [JOB_EVENT_RESTART] = TO(COMMITTED),
                       [JOB_EVENT_REVERT] = TO(ROLLED_BACK),
                       [JOB_EVENT_CLEAR] = TO(IDLE)},
    [JOB_ROLLED_BACK] = {[JOB_EVENT_OFFER] = TO(OFFERED),
                         [JOB_EVENT_RESTART] = TO(ROLLED_BACK),
                         [JOB_EVENT_CLEAR] = TO(IDLE)},
    [JOB_FAILED] = {[JOB_EVENT_OFFER] = TO(OFFERED),
                    [JOB_EVENT_RESTART] = TO(FAILED),
                    [JOB_EVENT_CLEAR] = TO(IDLE)},
};

enum err job_next(uint32_t state, uint32_t event, uint32_t *next)
{
    if (state >= JOB_STATES || event >= JOB_EVENTS || table[state][event] == 0)
        return ERR_ARGUMENT;
    *next = table[state][event] - 1u;
    return ERR_NONE;
}

bool job_is_ended(uint32_t state)
{
    return state == JOB_REJECTED || state == JOB_COMMITTED || state == JOB_ROLLED_BACK ||
           state == JOB_FAILED;
}

struct code {
    uint32_t code;
    uint32_t attempts; /* 1: never again */
    const char *name;
    const char *text;
};

static const struct code codes[] = {
    {JOB_OK, 1, "ok", "no failure"},
    {JOB_REJECT_FORMAT, 1, "reject-format", "the plan does not parse"},
    {JOB_REJECT_SIGNATURE, 1, "reject-signature", "the plan's signature does not verify"},
    {JOB_REJECT_AUDIENCE, 1, "reject-audience", "the plan is for another device or fleet"},
    {JOB_REJECT_STALE, 1, "reject-stale", "the plan is not newer than the one held: a replay"},
    {JOB_REJECT_EXPIRED, 1, "reject-expired", "the plan has expired"},
    {JOB_REJECT_CRITICAL, 1, "reject-critical", "the plan has a critical field unknown here"},
    {JOB_REJECT_VERSION, 1, "reject-version", "plan and agent are of different versions"},
    {JOB_REJECT_PLUGIN, 1, "reject-plugin",
     "the plan needs a plugin that is not here or was refused"},
    {JOB_REJECT_METHOD, 1, "reject-method",
     "the plan uses a type or method that is not supported here"},
    {JOB_REJECT_SPACE, 1, "reject-space", "the variant can never fit this device"},
    {JOB_REJECT_MODEL, 1, "reject-model", "the plan does not fit the base model"},
    {JOB_DEFER_WINDOW, UINT32_MAX, "defer-window", "the plan's window has not opened"},
    {JOB_DEFER_BUSY, UINT32_MAX, "defer-busy", "the device is busy"},
    {JOB_DEFER_HEAT, UINT32_MAX, "defer-heat", "the device is too hot"},
    {JOB_FAIL_FETCH, 20, "fail-fetch", "a file could not be fetched"},
    {JOB_FAIL_ABSENT, 3, "fail-absent", "the server has no file of this digest"},
    {JOB_FAIL_DIGEST, 3, "fail-digest", "a fetched file has another digest than the plan says"},
    {JOB_FAIL_DERIVE, 2, "fail-derive", "the variant could not be derived"},
    {JOB_FAIL_CRASH, 3, "fail-crash", "the worker crashed"},
    {JOB_FAIL_HANG, 3, "fail-hang", "the worker made no progress"},
    {JOB_FAIL_MEMORY, 2, "fail-memory", "there was not enough memory"},
    {JOB_FAIL_DISK, 5, "fail-disk", "the disk is full or failing"},
    {JOB_FAIL_MISMATCH, 1, "fail-mismatch",
     "the variant has another digest than the plan predicts"},
    {JOB_FAIL_SELFTEST, 2, "fail-selftest", "the gates could not be measured"},
    {JOB_FAIL_CONTACT, 20, "fail-contact", "the controller could not be reached"},
    {JOB_GATE_DPPL, 1, "gate-dppl", "perplexity rose above its limit"},
    {JOB_GATE_KLD, 1, "gate-kld", "KL divergence from the base is above its limit"},
    {JOB_GATE_TOP1, 1, "gate-top1", "top-1 agreement with the base is below its limit"},
    {JOB_GATE_DECODE, 1, "gate-decode", "decoding is slower than its limit"},
    {JOB_GATE_PREFILL, 1, "gate-prefill", "prefill is slower than its limit"},
    {JOB_GATE_RSS, 1, "gate-rss", "resident memory is above its limit"},
    {JOB_GATE_KLD_P99, 1, "gate-kld-p99", "the 99th percentile of KL divergence is above its limit"},
    {JOB_GATE_FILE, 1, "gate-file", "the file is above its limit"},
    {JOB_GATE_WORST_DPPL, 1, "gate-worst-dppl", "perplexity of the worst language rose above its limit"},
    {JOB_GATE_WORST_KLD, 1, "gate-worst-kld", "KL divergence of the worst language is above its limit"},
    {JOB_GATE_ENERGY, 1, "gate-energy", "energy per token is above its limit"},
    {JOB_TRIAL_CRASH, 1, "trial-crash", "the worker crashed while the variant was on trial"},
    {JOB_TRIAL_ERRORS, 1, "trial-errors", "requests failed while the variant was on trial"},
    {JOB_TRIAL_RESTARTS, 1, "trial-restarts", "the agent restarted too often during the trial"},
    {JOB_TRIAL_SILENT, 1, "trial-silent", "the trial could not be proved in time"},
    {JOB_CANCELLED, 1, "cancelled", "the controller withdrew the plan"},
    {JOB_REVERTED, 1, "reverted", "the controller reverted the variant"},
    {JOB_SUPERSEDED, 1, "superseded", "a newer plan took its place"},
};

static const struct code *find(uint32_t code)
{
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i].code == code)
            return &codes[i];
    return NULL;
}

bool job_is_retryable(uint32_t code)
{
    return job_attempts(code) > 1;
}

uint32_t job_attempts(uint32_t code)
{
    const struct code *c = find(code);
    return c ? c->attempts : 1;
}

const char *job_code_name(uint32_t code)
{
    const struct code *c = find(code);
    return c ? c->name : "?";
}

const char *job_code_text(uint32_t code)
{
    const struct code *c = find(code);
    return c ? c->text : "a code that this build does not know";
}

const char *job_state_name(uint32_t state)
{
    static const char *const names[JOB_STATES] = {
        "IDLE",     "OFFERED",  "ACCEPTED", "REJECTED", "DEFERRED",  "FETCHING",    "VERIFYING",
        "DERIVING", "SELFTEST", "STAGED",   "TRIAL",    "COMMITTED", "ROLLED_BACK", "FAILED"};
    return state < JOB_STATES ? names[state] : "?";
}

const char *job_event_name(uint32_t event)
{
    static const char *const names[JOB_EVENTS] = {
        "offer",    "accept",  "reject",  "defer",  "due",    "start",  "fetched",
        "verified", "damaged", "derived", "passed", "switch", "proved", "retry",
        "restart",  "fail",    "cancel",  "revert", "clear"};
    return event < JOB_EVENTS ? names[event] : "?";
}
