/* layer_stream.h: calibration windows through a model, one layer after the other.
 *
 * What a layer gives, rows of F32 [tokens, width], waits for the next one in a file without a name, so that it
 * counts as the kernel's cache and not as memory of the process; of the weights one layer is loaded at a time,
 * anew for every pass: what was written into them in between is seen.
 */
#ifndef LAYER_STREAM_H
#define LAYER_STREAM_H

#include "compress/calibrate_windows.h"

struct engine;
struct layer_stream;

struct layer_stream_options {
    const struct gguf *g;
    struct engine *engine;
    const struct calibrate_windows *windows;
    const char *beside;                 /* path of a file; the stream's lies in the same folder */
    void (*drop)(void *context);        /* now and then: pages of g can go; or NULL */
    int (*progress)(void *context, uint32_t windows, uint32_t of); /* of a pass; non-zero: ERR_CANCELLED; or NULL */
    void *context;
};

/* Who looks on: before each window, and at the inputs of linears (model.h). */
struct layer_stream_watch {
    void (*window)(void *context, uint32_t window);
    struct model_observer observer;
    enum err *error; /* of the observer: ends the pass */
};

/* N of a name "blk.N.", N below PLAN_LAYERS_MAX; else UINT32_MAX. */
uint32_t layer_stream_layer(const char *name);

/* Memory that a pass takes: the largest layer's weights and the activations of a window; UINT64_MAX: it cannot be told
 * for want of memory. */
uint64_t layer_stream_bytes(const struct gguf *g, uint32_t context);

/* Errors: ERR_IO, ERR_MEMORY. */
NODISCARD enum err layer_stream_open(const struct layer_stream_options *options, struct layer_stream **out,
                                     struct fault *f);
void layer_stream_close(struct layer_stream *s); /* NULL is allowed */

uint32_t layer_stream_at(const struct layer_stream *s); /* the layer whose inputs are there */

/* The first `windows` windows through this layer, or as far as the observer wants. Errors: the model's, ERR_IO,
 * ERR_CANCELLED, the watch's. */
NODISCARD enum err layer_stream_look(struct layer_stream *s, uint32_t windows, const struct layer_stream_watch *watch,
                                     struct fault *f);

/* All of them, and on to the next layer; watch may be NULL. After an error the stream is spent. */
NODISCARD enum err layer_stream_advance(struct layer_stream *s, const struct layer_stream_watch *watch,
                                        struct fault *f);

#endif
