/* prune_source.h: a base that may be changed while it is examined, and what its linears see of a text.
 *
 * The changes are in memory (a private map) or in a copy beside the output; the base is never written.
 */
#ifndef PRUNE_SOURCE_H
#define PRUNE_SOURCE_H

#include "compress/calibrate.h"
#include "compress/hessian.h"

struct gguf;
struct prune_source;

enum { PRUNE_SOURCE_CONTEXT = 512 }; /* tokens of a window at most */

struct prune_source_options {
    const char *base_path;
    const char *work_path;  /* the copy; NULL: changes stay in memory */
    struct engine *engine;
    const struct calibrate_text *text;
    uint32_t texts;         /* 0: collect, look and advance are not called */
    uint64_t tokens;        /* of all texts together; 0: 16384 */
    uint32_t threads;
    int (*progress)(void *context); /* after every window; non-zero: ERR_CANCELLED */
    void *progress_context;
};

/* Errors: ERR_IO, ERR_FORMAT, ERR_ARGUMENT (a text shorter than a window), ERR_MEMORY. */
NODISCARD enum err prune_source_open(const struct prune_source_options *options, struct prune_source **out,
                                     struct fault *f);
void prune_source_close(struct prune_source *s); /* removes the copy; NULL is allowed */

/* The base as it is now. */
const struct gguf *prune_source_gguf(const struct prune_source *s);

/* Tensor `name` in F32: *out [rows, cols], the caller frees it. Errors: ERR_NOT_FOUND, ERR_MEMORY. */
NODISCARD enum err prune_source_get(struct prune_source *s, const char *name, float **out);
/* The reverse, rounded to the tensor's own type. */
NODISCARD enum err prune_source_put(struct prune_source *s, const char *name, const float *x);
/* All bytes 0, which is the value 0 in every type; a tensor that is absent is fine. */
void prune_source_zero(struct prune_source *s, const char *name);
/* As many bytes as the tensor has, taken from its data earlier. */
void prune_source_restore(struct prune_source *s, const char *name, const void *bytes);

/* Run the text and sum up the inputs of `count` linears: out [count], the caller closes them; not finished.
 * One window in eight goes to the held-out sample. */
NODISCARD enum err prune_source_collect(struct prune_source *s, char (*name)[64], uint32_t count,
                                        struct hessian **out, struct fault *f);

/* The same for one linear of one layer, with no more than that layer in memory (layer_stream.h), for who changes a
 * layer before the next one sees the text: what look says of layer 0, then, behind each advance, of the next. Only with a
 * copy. Errors: ERR_NOT_FOUND, ERR_IO, ERR_CANCELLED, ERR_MEMORY, the model's; advance is not called after one. */
NODISCARD enum err prune_source_look(struct prune_source *s, const char *name, struct hessian **out, struct fault *f);
NODISCARD enum err prune_source_advance(struct prune_source *s, struct fault *f);

#endif
