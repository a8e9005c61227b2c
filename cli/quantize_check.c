#include "cli/quantize_check.h"

#include "compress/finite.h"
#include "compress/prune_choose.h"
#include "compress/resident.h"

enum err quantize_check_memory(const struct cli_call *call, const char *what, uint64_t bytes, struct fault *f)
{
    const uint64_t memory = (uint64_t)call->common.memory_bytes, needed = resident_now() + bytes + QUANTIZE_MODEL_BYTES;
    if (memory == 0 || needed <= memory)
        return ERR_NONE;
    return fault_set(f, ERR_ARGUMENT, "memory: %.0f MiB is too little to %s, at least %.0f MiB is needed",
                     (double)memory / 1048576, what, (double)needed / 1048576 + 1);
}

int quantize_check_start(struct cli_call *call)
{
    const uint64_t memory = (uint64_t)call->common.memory_bytes, peak = resident_peak();
    if (memory == 0 || peak <= memory)
        return CLI_DONE;
    return cli_fail(call, CLI_USAGE, NULL, "--memory", "%.0f MiB is too little, at least %.0f MiB is needed",
                    (double)memory / 1048576, (double)peak / 1048576 + 1);
}

static int done(struct cli_call *call, enum err e, const struct fault *f)
{
    return e ? cli_fail(call, (enum cli_status)cli_status_of(e), NULL, NULL, "%s", f->text[0] ? f->text : cli_sentence(e))
             : CLI_DONE;
}

int quantize_check_pruning(struct cli_call *call, const struct recipe *r, const struct gguf *base, bool has_text)
{
    struct fault f = {""};
    if (!recipe_prunes(&r->prune))
        return CLI_DONE;
    return done(call, prune_choose_check(&r->prune, base, r->profile[0] || has_text, has_text,
                                         (uint64_t)call->common.memory_bytes, &f), &f);
}

int quantize_check_base(struct cli_call *call, const struct recipe *r, const struct gguf *base, struct engine *engine,
                        bool has_text, bool *is_finite)
{
    const struct quantize_settings *s = call->settings;
    struct fault f = {""};
    if (!has_text && r->goal != RECIPE_BPW && !r->is_left_out && !recipe_prunes(&r->prune) && !s->rotate)
        return CLI_DONE;
    const enum err e = finite_file(base, engine, &f);
    *is_finite = e == ERR_NONE;
    return done(call, e, &f);
}
