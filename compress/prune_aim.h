/* prune_aim.h: what the residual stream of the base was, window for window, for who solves a pruned layer again: the
 * base goes through the text beside it, one layer at a time (layer_stream.h), and what its stream was waits in a file
 * without a name. */
#ifndef PRUNE_AIM_H
#define PRUNE_AIM_H

#include "compress/calibrate_windows.h"

struct engine;
struct prune_aim;

enum prune_aim_place { PRUNE_AIM_ATTENTION = 0, PRUNE_AIM_LAYER, PRUNE_AIM_PLACES }; /* behind attn_output, ffn_down */

struct prune_aim_options {
    const char *base_path;
    struct engine *engine;
    const struct calibrate_windows *windows;
    const char *beside; /* path of a file; those of the aim lie in the same folder */
    int (*progress)(void *context, uint32_t windows, uint32_t of); /* of a pass; non-zero: ERR_CANCELLED */
    void *context;
};

/* Errors: ERR_IO, ERR_FORMAT, ERR_MEMORY. */
NODISCARD enum err prune_aim_open(const struct prune_aim_options *options, struct prune_aim **out, struct fault *f);
void prune_aim_close(struct prune_aim *a); /* NULL is allowed */

/* On through the layers before `until`: behind attn_output of the first of them, behind the last of them. Errors: the
 * model's, ERR_IO, ERR_CANCELLED, ERR_MEMORY. */
NODISCARD enum err prune_aim_advance(struct prune_aim *a, uint32_t until, struct fault *f);

/* Of a window: out [context, width], width as the base has it. Errors: ERR_IO. */
NODISCARD enum err prune_aim_get(const struct prune_aim *a, uint32_t window, enum prune_aim_place place, float *out);
uint32_t prune_aim_width(const struct prune_aim *a);

#endif
