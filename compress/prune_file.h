/* prune_file.h: the pruned base as a file, from which a variant is then quantised like from any base.
 *
 * Rows and columns are copied; a matrix of blocks that loses columns becomes F16. Tensors of layers are
 * numbered anew; block_count, head counts and feed_forward_length follow, key_length and value_length are
 * stated, tare.pruned says what was done, tare.pruned_id (a digest of base, choice and texts) by what.
 */
#ifndef PRUNE_FILE_H
#define PRUNE_FILE_H

#include "compress/calibrate.h"
#include "compress/prune.h"

struct prune_file_options {
    const char *base_path;
    const char *base_sha256;
    const char *out_path;
    const struct prune *prune;
    const struct profile *profile; /* of the base; for masks by wanda */
    struct engine *engine;
    const struct calibrate_text *text; /* for the recovery */
    uint32_t texts;
    uint64_t memory_bytes; /* for second moments, 0: 1 GiB */
    uint32_t threads;      /* 0: the engine's */
    int (*progress)(void *context); /* now and then; non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* What a recovery was worth, per linear that lost columns or stands behind something that was cut. */
struct prune_file_result {
    bool is_reused;     /* an earlier run's file was of the same base, choice and texts */
    uint32_t linears;
    uint32_t recovered; /* of them; the others were better off as they were */
    double before, after; /* mean relative error of the stream behind them on held-out text */
};

/* Write OUT, or leave it when it is there and of the same id. result may be NULL. Not resumable inside.
 * Errors: ERR_MISMATCH (the choice is for other widths), ERR_UNSUPPORTED (recovery of a base in blocks),
 * ERR_ARGUMENT (recovery without text), ERR_IO, ERR_CANCELLED, ERR_MEMORY. */
NODISCARD enum err prune_file_make(const struct prune_file_options *options, struct prune_file_result *result,
                                   struct fault *f);

/* "OUT.pruned": where a variant's pruned base lies while it is derived. */
void prune_file_path(const char *out_path, char *path, size_t capacity);
void prune_file_discard(const char *out_path); /* removes it and what an interrupted run left of it */

#endif
