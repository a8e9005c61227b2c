#include "cli/quantize_check.h"

#include "compress/finite.h"
#include "compress/prune_choose.h"

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
