/* cuda_attend.c: how attention is cut: rows to passes of the span list, slots to splits. */
#include "plugins/cuda/cuda.h"

#include "hal/block.h"

enum {
    ROWS_MAX = 65535,       /* of a grid's second dimension */
    SPLIT_SLOTS = 64,       /* fewer are not worth joining */
    BLOCKS_PER_PROCESSOR = 2
};

/* Slots that the longest row of first .. last - 1 sees. */
static uint64_t longest(const struct hal_attend *g, uint32_t first, uint32_t last)
{
    uint64_t most = 0;
    for (uint32_t r = first; r < last; r++) {
        uint64_t slots = 0;
        for (uint32_t s = g->first[r]; s < g->first[r + 1]; s++)
            slots += g->spans[s].slots;
        most = slots > most ? slots : most;
    }
    return most;
}

/* Enough blocks to fill the GPU, as far as the slots and the room for parts go. */
static uint32_t choose_splits(const struct cuda_dev *d, const struct hal_attend *g, uint32_t first,
                              uint32_t last)
{
    const uint64_t blocks = (uint64_t)(last - first) * g->heads;
    const uint64_t room = CUDA_PARTS_BYTES / (blocks * (g->value_dim + 2) * sizeof(float));
    uint64_t splits = (uint64_t)d->processors * BLOCKS_PER_PROCESSOR / blocks;
    if (splits < 2 || room < 2) /* a long prompt: the slots need not be counted */
        return 1;
    const uint64_t worth = longest(g, first, last) / SPLIT_SLOTS;
    splits = splits < worth ? splits : worth;
    splits = splits < room ? splits : room;
    splits = splits < CUDA_SPLITS_MAX ? splits : CUDA_SPLITS_MAX;
    return splits < 1 ? 1 : (uint32_t)splits;
}

static enum err attend_rows(struct cuda_dev *d, const struct cuda_attend_args *whole,
                            const struct hal_attend *g, uint32_t first, uint32_t last)
{
    const uint32_t rows = last - first, spans = g->first[last] - g->first[first];
    const uint32_t values = (g->value_dim + CUDA_VALUES - 1) / CUDA_VALUES;
    struct cuda_attend_args a = *whole;
    const size_t first_bytes = (rows + 1) * sizeof *g->first, span_bytes = spans * sizeof *g->spans;
    enum err e = spans > CUDA_SPANS_MAX
                     ? ERR_MEMORY
                     : cuda_room(d, first_bytes + span_bytes + 2 * CUDA_NOTE_ALIGN);
    if (e != ERR_NONE)
        return e;
    a.first = cuda_note(d, g->first + first, first_bytes);
    a.spans = cuda_note(d, g->spans + g->first[first], span_bytes) -
              g->first[first] * sizeof *g->spans;
    a.parts = d->parts;
    a.splits = choose_splits(d, g, first, last);
    a.q += (uint64_t)first * g->heads * g->key_dim * sizeof(float);
    a.y += (uint64_t)first * g->heads * g->value_dim * sizeof(float);
    e = cuda_launch(d, CUDA_KERNEL_attend, g->heads, rows, a.splits * values, 32 * CUDA_WARPS, &a);
    if (e == ERR_NONE && a.splits > 1)
        e = cuda_launch(d, CUDA_KERNEL_attend_join, g->heads, rows, 1, 32 * CUDA_WARPS, &a);
    return e;
}

enum err cuda_attend(void *dev, const struct hal_mat *y, const struct hal_mat *q,
                     const struct hal_mat *k, const struct hal_mat *v,
                     const struct hal_attend *geometry)
{
    struct cuda_dev *d = dev;
    const struct hal_attend *g = geometry;
    enum err e = scalar_check_attend(y, q, k, v, g);
    if (e != ERR_NONE)
        return e;
    const struct cuda_attend_args a = {
        .y = (uintptr_t)y->mem,
        .q = (uintptr_t)q->mem,
        .k = (uintptr_t)k->mem,
        .v = (uintptr_t)v->mem,
        .heads = g->heads,
        .kv_heads = g->kv_heads,
        .key_dim = g->key_dim,
        .value_dim = g->value_dim,
        .value_stride = v->cols / g->kv_heads,
        .key_type = k->type,
        .value_type = v->type,
        .key_bytes = (uint32_t)block_row_bytes(k->type, k->cols),
        .value_bytes = (uint32_t)block_row_bytes(v->type, v->cols),
        .scale = g->scale,
        .softcap = g->softcap,
    };
    for (uint32_t first = 0, last; first < q->rows && e == ERR_NONE; first = last) {
        last = first + 1; /* one row that names more spans than fit is refused by cuda_send */
        while (last < q->rows && last - first < ROWS_MAX &&
               g->first[last + 1] - g->first[first] <= CUDA_SPANS_MAX)
            last++;
        e = attend_rows(d, &a, g, first, last);
    }
    return e;
}
