/* prune_layers.h: layers that go by what the model becomes without them: the one whose absence changes the
 * predicted distributions least (mean KLD against the base on text), then the next of those that are left. */
#ifndef PRUNE_LAYERS_H
#define PRUNE_LAYERS_H

#include "compress/prune_source.h"

struct prune_layers_options {
    const char *base_path;
    struct engine *engine;
    const char *text_path; /* its first windows are scored */
    uint32_t gone;         /* layers that go */
    int (*progress)(void *context); /* non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* layer [layers]: flags of those that stay. source is left without them.
 * Errors: ERR_IO, ERR_ARGUMENT (a text of less than two windows), ERR_CANCELLED, ERR_MEMORY. */
NODISCARD enum err prune_layers_choose(const struct prune_layers_options *options, struct prune_source *source,
                                       uint32_t layers, uint8_t *layer, struct fault *f);

/* The layer adds nothing to the stream any more: as if it were not there. */
void prune_layers_silence(struct prune_source *source, uint32_t layer);

#endif
