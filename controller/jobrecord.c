/* jobrecord.c: from a device's report to the record that a rollout decides by. */
#include "controller/jobrecord.h"

#include <stdio.h>
#include <string.h>

#include "controller/doc.h"
#include "protocol/hex.h"
#include "protocol/job.h"

void jobrecord_key(const char *rollout, const char *device, char out[JOBRECORD_KEY])
{
    snprintf(out, JOBRECORD_KEY, "%.40s/%.36s", rollout, device);
}

enum err jobrecord_new(const char *rollout, const char *device, uint32_t stage, json_t **out)
{
    json_t *job = json_pack("{s:s,s:s,s:i,s:i,s:s,s:[]}", "rollout", rollout, "device", device, "stage",
                            (int)stage, "phase_number", ROLLOUT_WAITING, "phase",
                            rollout_phase_name(ROLLOUT_WAITING), "history");
    if (!job)
        return ERR_MEMORY;
    *out = job;
    return ERR_NONE;
}

static void set_phase(json_t *job, enum rollout_phase phase)
{
    doc_set_int(job, "phase_number", phase);
    doc_set_text(job, "phase", rollout_phase_name(phase));
}

void jobrecord_to_device(const json_t *job, bool is_online, struct rollout_device *out)
{
    *out = (struct rollout_device){
        .stage = (uint32_t)doc_int(job, "stage"),
        .attempt = (uint32_t)doc_int(job, "attempt"),
        .phase = (enum rollout_phase)doc_int(job, "phase_number"),
        .is_retryable = doc_bool(job, "retryable"),
        .is_online = is_online,
        .has_cancel = doc_bool(job, "cancel"),
        .has_revert = doc_bool(job, "revert"),
        .offered_s = doc_int(job, "offered"),
        .reported_s = doc_int(job, "reported"),
        .until_s = doc_int(job, "until"),
        .committed_s = doc_int(job, "committed"),
        .is_gate_missed = doc_text(job, "gate")[0] != '\0',
    };
}

void jobrecord_offered(json_t *job, const char *plan, uint64_t version, uint64_t plan_bytes,
                       int64_t now_s)
{
    set_phase(job, ROLLOUT_OFFERED);
    doc_set_int(job, "attempt", doc_int(job, "attempt") + 1);
    doc_set_text(job, "plan", plan);
    doc_set_int(job, "plan_version", (int64_t)version);
    doc_set_int(job, "plan_bytes", (int64_t)plan_bytes);
    doc_set_int(job, "offered", now_s);
    doc_set_int(job, "reported", 0);
    doc_set_int(job, "until", 0);
    doc_set_bool(job, "cancel", false);
    doc_set_bool(job, "retryable", false);
    doc_set_text(job, "state", "");
    doc_set_int(job, "state_number", JOB_IDLE);
    doc_set_text(job, "code", "");
    doc_set_text(job, "reason", "");
    doc_set_int(job, "epoch", 0);
    doc_set_int(job, "seq", 0);
}

static enum rollout_phase phase_of(const struct message_job *m)
{
    switch (m->state) {
    case JOB_IDLE:
        return ROLLOUT_OFFERED;
    case JOB_REJECTED:
        return m->code == JOB_SUPERSEDED || m->code == JOB_CANCELLED ? ROLLOUT_CANCELLED
                                                                     : ROLLOUT_REJECTED;
    case JOB_DEFERRED:
        return ROLLOUT_DEFERRED;
    case JOB_COMMITTED:
        return ROLLOUT_COMMITTED;
    case JOB_ROLLED_BACK:
        if (m->code == JOB_REVERTED)
            return ROLLOUT_RESTORED;
        /* fall through */
    case JOB_FAILED:
        return m->code == JOB_CANCELLED || m->code == JOB_SUPERSEDED ? ROLLOUT_CANCELLED
                                                                     : ROLLOUT_UNDONE;
    default:
        return ROLLOUT_ACTIVE;
    }
}

static void set_measured(json_t *job, const struct message_measured *m)
{
    json_t *doc = json_object();
    if (doc) {
        doc_note_real(doc, "ppl", (double)m->ppl);
        doc_note_real(doc, "ppl_base", (double)m->ppl_base);
        if (m->ppl > 0) { /* measured, so that 0 says something */
            doc_set_real(doc, "dppl_percent", (double)m->dppl_percent);
            doc_set_real(doc, "kld_mean", (double)m->kld_mean);
        } else {
            doc_note_real(doc, "dppl_percent", (double)m->dppl_percent);
            doc_note_real(doc, "kld_mean", (double)m->kld_mean);
        }
        doc_note_real(doc, "kld_99", (double)m->kld_99);
        doc_note_real(doc, "kld_max", (double)m->kld_max);
        doc_note_real(doc, "top1_percent", (double)m->top1_percent);
        doc_note_real(doc, "decode_tok_s", (double)m->decode_tok_s);
        doc_note_real(doc, "prefill_tok_s", (double)m->prefill_tok_s);
        doc_note_int(doc, "rss_bytes", (int64_t)m->rss_bytes);
        doc_note_real(doc, "bits_per_weight", (double)m->bits_per_weight);
        doc_note_int(doc, "variant_bytes", (int64_t)m->variant_bytes);
        doc_note_real(doc, "derive_s", (double)m->derive_s);
        doc_note_real(doc, "energy_j", (double)m->energy_j);
    }
    doc_set(job, "measured", doc);
}

/* The first limit that a measured value is beyond, or NULL. What was not measured is not judged: the
 * device's own gates refuse that. */
static const char *missed(const struct message_measured *m, const struct message_gates *g)
{
    if (g->dppl_percent > 0 && m->dppl_percent > g->dppl_percent)
        return "perplexity";
    if (g->kld_mean > 0 && m->kld_mean > g->kld_mean)
        return "kld_mean";
    if (g->top1_percent > 0 && m->top1_percent > 0 && m->top1_percent < g->top1_percent)
        return "top1";
    if (g->decode_tok_s > 0 && m->decode_tok_s > 0 && m->decode_tok_s < g->decode_tok_s)
        return "decode_tok_s";
    if (g->prefill_tok_s > 0 && m->prefill_tok_s > 0 && m->prefill_tok_s < g->prefill_tok_s)
        return "prefill_tok_s";
    if (g->rss_bytes > 0 && m->rss_bytes > g->rss_bytes)
        return "rss";
    return NULL;
}

static bool is_set(const uint8_t digest[32])
{
    static const uint8_t zero[32];
    return memcmp(digest, zero, 32) != 0;
}

static void note_history(json_t *job, const struct message_job *m, int64_t now_s)
{
    json_t *history = json_object_get(job, "history");
    if (!json_is_array(history))
        return;
    const json_t *last = json_array_get(history, json_array_size(history) - 1);
    if (json_array_size(history) > 0 && strcmp(doc_text(last, "state"), job_state_name(m->state)) == 0 &&
        strcmp(doc_text(last, "code"), job_code_name(m->code)) == 0)
        return; /* progress within a state */
    if (json_array_size(history) >= JOBRECORD_HISTORY_MAX)
        (void)json_array_remove(history, 0);
    doc_append(history, json_pack("{s:I,s:s,s:s}", "time", (json_int_t)now_s, "state",
                                  job_state_name(m->state), "code", job_code_name(m->code)));
}

enum jobrecord_change jobrecord_report(json_t *job, const struct message_job *m,
                                       const uint8_t expected[32], const struct message_gates *gates,
                                       int64_t now_s)
{
    uint64_t epoch = (uint64_t)doc_int(job, "epoch"), seq = (uint64_t)doc_int(job, "seq");
    if (m->epoch < epoch || (m->epoch == epoch && m->seq <= seq))
        return JOBRECORD_OLD;
    enum rollout_phase before = (enum rollout_phase)doc_int(job, "phase_number");
    enum rollout_phase phase = phase_of(m);
    /* A copy of a plan that the device has already taken is a replay to it; the plan it took goes on. */
    if (m->state == JOB_REJECTED && m->code == JOB_REJECT_STALE && before != ROLLOUT_OFFERED)
        return JOBRECORD_OLD;
    doc_set_int(job, "epoch", (int64_t)m->epoch);
    doc_set_int(job, "seq", (int64_t)m->seq);
    doc_set_int(job, "reported", now_s);
    doc_set_text(job, "state", job_state_name(m->state));
    doc_set_int(job, "state_number", m->state);
    doc_set_text(job, "code", job_code_name(m->code));
    doc_set_text(job, "reason", m->reason[0] ? m->reason : m->code ? job_code_text(m->code) : "");
    doc_set_bool(job, "retryable", job_is_retryable(m->code));
    doc_set_real(job, "progress", (double)m->progress_ppm / 1e6);
    note_history(job, m, now_s);
    if (m->plugin[0])
        doc_set_text(job, "plugin", m->plugin);
    if (is_set(m->variant))
        doc_set_hex(job, "variant", m->variant, 32);
    if (m->measured.variant_bytes || m->measured.ppl > 0 || m->measured.decode_tok_s > 0)
        set_measured(job, &m->measured);
    bool is_refused = is_set(expected) && is_set(m->variant) && memcmp(expected, m->variant, 32) != 0;
    if (is_refused && phase != ROLLOUT_CANCELLED && phase != ROLLOUT_RESTORED) {
        doc_set_text(job, "gate", "digest");
        doc_set_text(job, "reason", "the variant has another digest than the controller predicted");
        doc_set_bool(job, "retryable", false);
        set_phase(job, phase == ROLLOUT_COMMITTED ? ROLLOUT_COMMITTED : ROLLOUT_UNDONE);
        return JOBRECORD_REFUSED;
    }
    set_phase(job, phase);
    if (phase != ROLLOUT_COMMITTED)
        return JOBRECORD_PROGRESS;
    if (!doc_int(job, "committed"))
        doc_set_int(job, "committed", now_s);
    const char *gate = missed(&m->measured, gates);
    if (!gate)
        return JOBRECORD_PROGRESS;
    doc_set_text(job, "gate", gate);
    return JOBRECORD_MISSED;
}
