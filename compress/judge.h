/* judge.h: a variant against its base on held-out texts, per language and all together, and whether what
 * was measured keeps the gates.
 *
 * All texts of one language are one stream. "All" takes every scored token of every language alike; the
 * worst language is found per measure. A text that begins with a form feed holds several: each line of a
 * form feed and a name ("\fde") begins that language's.
 */
#ifndef JUDGE_H
#define JUDGE_H

#include "compress/calibrate.h"
#include "compress/recipe.h"
#include "model/eval.h"

enum { JUDGE_LANGUAGES_MAX = 64, JUDGE_NAME_MAX = 32 };

struct judge_progress {
    const char *language;
    uint32_t done; /* languages */
    uint32_t languages;
    struct eval_progress eval; /* of the language in work */
};

struct judge_options {
    const struct calibrate_text *text; /* [texts] */
    uint32_t texts;
    uint32_t context;       /* 0: 512, or less where the model takes less */
    uint32_t context_least; /* where a text has less than two windows all are measured in shorter ones, down
                             * to this; 0: never */
    uint32_t windows;       /* per language at most; 0: all */
    uint32_t cache_type;      /* of the variant, for judge_files: enum hal_type; 0: F16. The base keeps F16. */
    uint32_t activation_bits; /* the same; as a plan says them; 0: 8 */
    bool (*progress)(void *context, const struct judge_progress *p); /* false: ERR_CANCELLED; or NULL */
    void *progress_context;
};

struct judge_language {
    char name[JUDGE_NAME_MAX];
    struct eval_result result;
};

struct judge {
    uint32_t context;
    struct eval_result all;
    uint32_t languages; /* in the order of the texts */
    struct judge_language language[JUDGE_LANGUAGES_MAX];
    double seconds; /* wall time */
};

/* How a model must be opened to answer with a plan's cache and activations; the rest of o stays. */
void judge_model_options(uint32_t cache_type, uint32_t activation_bits, struct model_options *o);

/* Measure. reference NULL: no comparison. out is some kilobytes. Errors: ERR_IO, ERR_ARGUMENT (a text that is
 * too short, too many languages), ERR_MISMATCH, ERR_CANCELLED, ERR_MEMORY and those of model_step. */
NODISCARD enum err judge_models(struct model *m, struct model *reference, const struct tokenizer *t,
                                const struct judge_options *options, struct judge *out, struct fault *f);

/* The same from files: both are open at once. */
NODISCARD enum err judge_files(const char *path, const char *base_path, struct engine *engine,
                               const struct judge_options *options, struct judge *out, struct fault *f);

/* One gate as it was held against a measurement. */
struct judge_verdict {
    uint32_t gate; /* enum recipe_gate */
    double limit;
    double value;              /* NAN: not measured here, or measured and not a number: never kept */
    const char *language;      /* of the worst_* gates; "" for the others. In the judge's memory. */
    bool is_measured, is_kept; /* what was not measured is not kept */
};

struct judge_verdicts {
    uint32_t count;
    struct judge_verdict verdict[RECIPE_GATES];
};

/* j NULL: no text was judged; file_bytes 0: unknown. */
void judge_gates(const struct recipe_gates *gates, const struct judge *j, uint64_t file_bytes,
                 struct judge_verdicts *out);

/* What a text against the base measures; and what only a run on the machine does: speed, memory, energy. */
bool judge_gate_is_quality(uint32_t gate);
bool judge_gate_is_machine(uint32_t gate);

/* Fail when a measured gate is not kept: ERR_GATE and "gate worst_kld_mean: zh has 0.0131, the limit is
 * 0.01". NaN is not kept. What was not measured fails too, but for the gates of machines: they are the device's. */
NODISCARD enum err judge_check(const struct judge_verdicts *v, struct fault *f);

/* The language in which a measure is worst: the greatest rise of perplexity, or mean KLD. NULL without a
 * reference. */
const struct judge_language *judge_worst_dppl(const struct judge *j);
const struct judge_language *judge_worst_kld(const struct judge *j);

#endif
