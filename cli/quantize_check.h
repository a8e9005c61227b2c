/* quantize_check.h: what `tare quantize` would refuse after long work is refused before it. */
#ifndef QUANTIZE_CHECK_H
#define QUANTIZE_CHECK_H

#include "cli/quantize_options.h"

struct engine;
struct gguf;

enum { QUANTIZE_MODEL_BYTES = 64 << 20 }; /* activations, cache and logits of a model that runs */

/* With --memory: do models of so many bytes fit beside what is resident? ERR_ARGUMENT. */
NODISCARD enum err quantize_check_memory(const struct cli_call *call, const char *what, uint64_t bytes, struct fault *f);

/* Each of these returns CLI_DONE, or has called cli_fail. */

/* --memory: what the program and its plugins took before any work is the least of all. */
int quantize_check_start(struct cli_call *call);

/* Pruning: shape, profile, texts and memory. */
int quantize_check_pruning(struct cli_call *call, const struct recipe *r, const struct gguf *base, bool has_text);

/* Before anything is measured or learnt from a base that has weights that are no numbers: sets *is_finite. Where nothing
 * is, the strips are looked at as they are encoded, and *is_finite stays. */
int quantize_check_base(struct cli_call *call, const struct recipe *r, const struct gguf *base, struct engine *engine,
                        bool has_text, bool *is_finite);

#endif
