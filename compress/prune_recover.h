/* prune_recover.h: layer by layer, attn_output and ffn_down are solved again for the columns that stay, on what the model
 * with the layers before it already pruned and solved feeds them, and towards what the base's stream is behind them: so
 * they also make up for what earlier layers lost, and for layers that go. What was cut is solved, and all behind it. */
#ifndef PRUNE_RECOVER_H
#define PRUNE_RECOVER_H

#include "compress/prune_file.h"
#include "compress/prune_source.h"

/* The source gets the pruned model's function in the base's shapes: what goes is 0.
 * Errors: ERR_UNSUPPORTED (blocks), ERR_NOT_FOUND (a linear), ERR_ARGUMENT (moments that cannot be solved with), ERR_IO,
 * ERR_CANCELLED, ERR_MEMORY. */
NODISCARD enum err prune_recover(struct prune_source *source, const struct prune *p, uint32_t threads,
                                 struct prune_file_result *result, struct fault *f);

#endif
