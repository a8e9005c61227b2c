/* jobs_make.c: the variant: derived or found, then tested against the plan's gates. */
#include "agent/jobs_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/recipe.h"

/* ---- DERIVING ---- */

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return false;
    return true;
}

static void take_derived(struct jobs *j, const uint8_t digest[32], uint64_t bytes, double seconds)
{
    memcpy(j->now.variant, digest, 32);
    j->now.measured.variant_bytes = bytes;
    j->now.measured.derive_s = (float)seconds;
    if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_DERIVED}))
        jobs_work(j);
}

static void on_derived(void *context, const struct wire *answer)
{
    struct jobs *j = context;
    const char *folder = j->options.settings->state;
    char from[SLOTS_PATH], to[SLOTS_PATH], dir[SLOTS_PATH];
    const void *digest;
    size_t size;
    if (!wire_view(answer, WIRE_K_DIGEST, &digest, &size) || size != 32) {
        jobs_fail(j, JOB_FAIL_DERIVE, ERR_FORMAT, "the worker named no digest");
        return;
    }
    if (!is_zero(j->plan.variant, 32) && memcmp(digest, j->plan.variant, 32) != 0) {
        jobs_fail(j, JOB_FAIL_MISMATCH, ERR_MISMATCH, "the variant has another digest than the plan predicts");
        return;
    }
    slots_work_path(folder, j->now.plan_id, from);
    slots_variant_path(folder, digest, to);
    snprintf(dir, sizeof dir, "%s/variants", folder);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && rename(from, to) == 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (!ok) {
        jobs_fail(j, JOB_FAIL_DISK, ERR_IO, strerror(errno));
        return;
    }
    take_derived(j, digest, wire_u64(answer, WIRE_K_BYTES, 0), wire_f64(answer, WIRE_K_SECONDS, 0));
}

static void on_derive_failed(void *context, enum err error, const char *why)
{
    jobs_fail(context, error == ERR_MISMATCH ? JOB_FAIL_MISMATCH : jobs_code_of(error, JOB_FAIL_DERIVE), error, why);
}

static void on_found_good(void *context, const struct wire *answer)
{
    struct jobs *j = context;
    (void)answer;
    take_derived(j, j->plan.variant, j->plan.variant_bytes, 0);
}

static void on_found_bad(void *context, enum err error, const char *why)
{
    struct jobs *j = context;
    char path[SLOTS_PATH];
    if (error != ERR_MISMATCH && error != ERR_NOT_FOUND) {
        on_derive_failed(j, error, why);
        return;
    }
    slots_variant_path(j->options.settings->state, j->plan.variant, path);
    unlink(path);
    jobs_derive(j);
}

/* Puts the files that derivation and self-test need into m; paths are SLOTS_PATH each, and live on. */
struct inputs {
    char base[SLOTS_PATH], profile[SLOTS_PATH], text[SLOTS_PATH], path[SLOTS_PATH];
};

static void put_inputs(struct jobs *j, struct wire *m, struct inputs *in)
{
    const char *folder = j->options.settings->state;
    slots_blob_path(folder, j->plan.base.digest, in->base);
    wire_put_text(m, WIRE_K_BASE, in->base);
    if (j->plan.profile.bytes) {
        slots_blob_path(folder, j->plan.profile.digest, in->profile);
        wire_put_text(m, WIRE_K_PROFILE, in->profile);
    }
    if (j->plan.text.bytes) {
        slots_blob_path(folder, j->plan.text.digest, in->text);
        wire_put_bytes(m, WIRE_K_TEXTS, in->text, strlen(in->text) + 1);
    }
    wire_put_text(m, WIRE_K_PATH, in->path);
}

void jobs_derive(struct jobs *j)
{
    const char *folder = j->options.settings->state;
    struct inputs in;
    uint8_t *payload = NULL;
    size_t bytes;
    slots_variant_path(folder, j->plan.variant, in.path);
    if (!is_zero(j->plan.variant, 32) && slots_has_file(in.path, j->plan.variant_bytes)) {
        jobs_verify_file(j, in.path, j->plan.variant, j->plan.variant_bytes, on_found_good, on_found_bad);
        return;
    }
    if (jobs_payload(j, &payload, &bytes)) {
        jobs_fail(j, JOB_FAIL_DISK, ERR_IO, "the plan cannot be read back");
        return;
    }
    struct wire m;
    wire_init(&m, WIRE_DERIVE, 1);
    slots_work_path(folder, j->now.plan_id, in.path);
    put_inputs(j, &m, &in);
    wire_put_bytes(&m, WIRE_K_PLAN, payload, bytes);
    jobs_start_task(j, &m, on_derived, on_derive_failed);
    free(payload);
}

/* ---- SELFTEST ---- */

static uint32_t missed_gate(const struct message_plan *p, const struct message_measured *m, const struct wire *answer,
                            char *why, size_t why_bytes)
{
    const struct message_gates *g = &p->gates;
    const struct {
        uint32_t code;
        double limit, value;
        bool is_least;
        const char *name;
    } gates[] = {
        {JOB_GATE_DPPL, (double)g->dppl_percent, (double)m->dppl_percent, false, "dPPL %"},
        {JOB_GATE_KLD, (double)g->kld_mean, wire_f64(answer, WIRE_K_KLD, NAN), false, "mean KLD"},
        {JOB_GATE_TOP1, (double)g->top1_percent, (double)m->top1_percent, true, "top-1 %"},
        {JOB_GATE_DECODE, (double)g->decode_tok_s, (double)m->decode_tok_s, true, "decode tok/s"},
        {JOB_GATE_PREFILL, (double)g->prefill_tok_s, (double)m->prefill_tok_s, true, "prefill tok/s"},
        {JOB_GATE_RSS, (double)g->rss_bytes, (double)m->rss_bytes, false, "RSS bytes"},
    };
    bool is_text_measured = !isnan(wire_f64(answer, WIRE_K_PPL, NAN));
    for (size_t i = 0; i < sizeof gates / sizeof gates[0]; i++) {
        if (!(gates[i].limit > 0))
            continue;
        if (isnan(gates[i].value) || (i < 3 && !is_text_measured)) {
            snprintf(why, why_bytes, "%s could not be measured", gates[i].name);
            return JOB_FAIL_SELFTEST;
        }
        bool ok = gates[i].is_least ? gates[i].value >= gates[i].limit : gates[i].value <= gates[i].limit;
        if (!ok) {
            snprintf(why, why_bytes, "%s is %.6g, the limit is %.6g", gates[i].name, gates[i].value, gates[i].limit);
            return gates[i].code;
        }
    }
    return JOB_OK;
}

/* What the worker held against the recipe's gates itself, those that the signed plan has no field for among
 * them. */
static uint32_t missed_there(const struct wire *answer, char *why, size_t why_bytes)
{
    static const uint32_t code[RECIPE_GATES] = {
        [RECIPE_DPPL_PERCENT] = JOB_GATE_DPPL,
        [RECIPE_KLD_MEAN] = JOB_GATE_KLD,
        [RECIPE_KLD_P99] = JOB_GATE_KLD_P99,
        [RECIPE_TOP1] = JOB_GATE_TOP1,
        [RECIPE_DECODE_TOK_S] = JOB_GATE_DECODE,
        [RECIPE_PREFILL_TOK_S] = JOB_GATE_PREFILL,
        [RECIPE_RSS_MIB] = JOB_GATE_RSS,
        [RECIPE_FILE_MIB] = JOB_GATE_FILE,
        [RECIPE_WORST_DPPL_PERCENT] = JOB_GATE_WORST_DPPL,
        [RECIPE_WORST_KLD_MEAN] = JOB_GATE_WORST_KLD,
        [RECIPE_ENERGY_MJ_TOKEN] = JOB_GATE_ENERGY};
    const uint64_t gate = wire_u64(answer, WIRE_K_GATE, UINT64_MAX);
    if (gate == UINT64_MAX)
        return JOB_OK;
    if (!wire_text(answer, WIRE_K_TEXT, why, why_bytes))
        snprintf(why, why_bytes, "a gate was missed");
    return gate < RECIPE_GATES ? code[gate] : (uint32_t)JOB_FAIL_SELFTEST;
}

static float number(const struct wire *m, uint32_t key)
{
    double v = wire_f64(m, key, 0);
    return isfinite(v) ? (float)v : 0;
}

static enum err also_stage(struct jobs *j, struct store_txn *t, void *context)
{
    uint8_t *payload = NULL;
    const void *value;
    size_t bytes;
    uint32_t spare;
    (void)context;
    enum err e = store_get(t, "job.plan", &value, &bytes);
    if (e)
        return e;
    payload = malloc(bytes ? bytes : 1); /* a view does not outlive the next write */
    if (!payload)
        return ERR_MEMORY;
    memcpy(payload, value, bytes);
    e = slots_spare(t, &spare);
    if (!e)
        e = slots_put(t, spare, j->now.variant, j->now.measured.variant_bytes, payload, bytes);
    free(payload);
    return e;
}

static void on_tested(void *context, const struct wire *answer)
{
    struct jobs *j = context;
    char why[MESSAGE_TEXT_MAX];
    struct message_measured *m = &j->now.measured;
    m->ppl = number(answer, WIRE_K_PPL);
    m->ppl_base = number(answer, WIRE_K_PPL_BASE);
    m->dppl_percent = m->ppl_base > 0 ? 100 * (m->ppl / m->ppl_base - 1) : 0;
    m->kld_mean = number(answer, WIRE_K_KLD);
    m->kld_99 = number(answer, WIRE_K_KLD_99);
    m->kld_max = number(answer, WIRE_K_KLD_MAX);
    m->top1_percent = 100 * number(answer, WIRE_K_TOP1);
    m->decode_tok_s = number(answer, WIRE_K_DECODE);
    m->prefill_tok_s = number(answer, WIRE_K_PREFILL);
    m->rss_bytes = wire_u64(answer, WIRE_K_RSS, 0);
    m->bits_per_weight = number(answer, WIRE_K_BPW);
    m->energy_j = number(answer, WIRE_K_ENERGY);
    if (!wire_text(answer, WIRE_K_PLUGIN, j->now.plugin, sizeof j->now.plugin))
        j->now.plugin[0] = 0;
    uint32_t code = missed_gate(&j->plan, m, answer, why, sizeof why);
    if (!code)
        code = missed_there(answer, why, sizeof why);
    if (code) {
        jobs_fail(j, code, ERR_GATE, why);
        return;
    }
    if (jobs_take(j, &(struct jobs_step){.event = JOB_EVENT_PASSED, .also = also_stage}))
        jobs_work(j);
}

static void on_test_failed(void *context, enum err error, const char *why)
{
    jobs_fail(context, jobs_code_of(error, JOB_FAIL_SELFTEST), error, why);
}

void jobs_selftest(struct jobs *j)
{
    struct inputs in;
    uint8_t *payload = NULL;
    size_t bytes;
    struct wire m;
    if (jobs_payload(j, &payload, &bytes)) {
        jobs_fail(j, JOB_FAIL_DISK, ERR_IO, "the plan cannot be read back");
        return;
    }
    wire_init(&m, WIRE_SELFTEST, 1);
    slots_variant_path(j->options.settings->state, j->now.variant, in.path);
    put_inputs(j, &m, &in);
    wire_put_bytes(&m, WIRE_K_PLAN, payload, bytes);
    jobs_start_task(j, &m, on_tested, on_test_failed);
    free(payload);
}
