/* cuda_attend_kernel.h: kernels: attention over cache slots with a softmax that rescales as it goes.
 *
 * A warp takes CUDA_BATCH slots at a time of the row's spans, in turn with the other warps of its
 * block and, when the batch is too small to fill the GPU, with those of `splits` blocks; what each
 * found is joined at the end (the same sums as arXiv:2205.14135, section 3.1). Floor: the bytes of
 * the slots seen over the bandwidth. */
#ifndef CUDA_ATTEND_KERNEL_H
#define CUDA_ATTEND_KERNEL_H

#include "plugins/cuda/cuda_matmul_kernel.h"

enum { ATTEND_LANE_VALUES = CUDA_VALUES / 32 };

/* What one warp has seen: its lane's values are lane, lane + 32, ... */
struct seen {
    float top, total, sum[ATTEND_LANE_VALUES];
};

#define NOTHING_SEEN float_of(0xff800000u)

/* Value i of a row of cache; head rows begin at whole blocks. */
FN float cache_value(uint type, ulong row, uint i)
{
    if (type == FORMAT_F16)
        return float_of_f16(AT(const ushort, row)[i]);
    if (type == FORMAT_F32)
        return AT(const float, row)[i];
    const ulong block = row + i / 32 * (type == FORMAT_Q8_0 ? 34u : 18u);
    const float d = float_of_f16(AT(const ushort, block)[0]);
    if (type == FORMAT_Q8_0)
        return d * signed_byte(AT(const uchar, block)[2 + i % 32]);
    const uint both = AT(const uchar, block)[2 + i % 16];
    return d * (float)((int)(both >> 4 * (i / 16 % 2) & 15u) - 8);
}

FN uint cache_offset(uint type, uint i)
{
    return type == FORMAT_F32   ? 4 * i
           : type == FORMAT_F16 ? 2 * i
                                : i / 32 * (type == FORMAT_Q8_0 ? 34u : 18u);
}

FN float soft_cap(float score, float cap)
{
    if (cap == 0.0f)
        return score;
    /* tanh by e^2v, from the side that cannot overflow */
    const float v = score / cap, m = v < 0.0f ? -v : v;
    const float e = exponential(-2.0f * m);
    const float t = (1.0f - e) / (1.0f + e);
    return cap * (v < 0.0f ? -t : t);
}

/* Scale what was seen to a new top. */
FN void raise_top(struct seen *s, float top)
{
    if (top == s->top)
        return;
    const float shrink = exponential(s->top - top);
    s->top = top;
    s->total *= shrink;
    UNROLL for (uint i = 0; i < ATTEND_LANE_VALUES; i++)
        s->sum[i] *= shrink;
}

/* Take `count` slots from `slot` on; count <= CUDA_BATCH. */
FN void see_slots(const struct cuda_attend_args *a, ulong query, uint head, uint from, ulong slot,
                  uint count, struct seen *s)
{
    const uint lane = thread_x() % 32, kv = head / (a->heads / a->kv_heads);
    const ulong keys = a->k + slot * a->key_bytes + cache_offset(a->key_type, kv * a->key_dim);
    const ulong values = a->v + slot * a->value_bytes +
                         cache_offset(a->value_type, kv * a->value_stride);
    float score[CUDA_BATCH] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint i = lane; i < a->key_dim; i += 32) {
        const float q = AT(const float, query)[i];
        UNROLL for (uint j = 0; j < CUDA_BATCH; j++)
            if (j < count)
                score[j] = MULTIPLY_ADD(
                    q, cache_value(a->key_type, keys + j * a->key_bytes, i), score[j]);
    }
    float top = s->top;
    UNROLL for (uint j = 0; j < CUDA_BATCH; j++)
        if (j < count) {
            score[j] = soft_cap(warp_sum(score[j]) * a->scale, a->softcap);
            top = score[j] > top ? score[j] : top;
        }
    raise_top(s, top);
    UNROLL for (uint j = 0; j < CUDA_BATCH; j++)
        if (j < count) {
            const float weight = exponential(score[j] - top);
            s->total += weight;
            UNROLL for (uint i = 0; i < ATTEND_LANE_VALUES; i++) {
                const uint at = from + lane + 32 * i;
                if (at < a->value_dim)
                    s->sum[i] = MULTIPLY_ADD(
                        weight, cache_value(a->value_type, values + j * a->value_bytes, at),
                        s->sum[i]);
            }
        }
}

/* Every `units`-th batch of the row's spans, from number `unit` on. */
FN void see_spans(const struct cuda_attend_args *a, uint row, uint head, uint from, uint unit,
                  uint units, struct seen *s)
{
    const ulong query = a->q + ((ulong)row * a->heads + head) * a->key_dim * sizeof(float);
    const uint last = AT(const uint, a->first)[row + 1];
    uint passed = 0; /* batches of the spans before, modulo units */
    for (uint i = AT(const uint, a->first)[row]; i < last; i++) {
        const VECTOR2 span = AT(const VECTOR2, a->spans)[i];
        const uint batches = (span.y + CUDA_BATCH - 1) / CUDA_BATCH;
        for (uint b = (unit + units - passed) % units; b < batches; b += units) {
            const uint left = span.y - b * CUDA_BATCH;
            see_slots(a, query, head, from, (ulong)span.x + b * CUDA_BATCH,
                      left < CUDA_BATCH ? left : CUDA_BATCH, s);
        }
        passed = (passed + batches) % units;
    }
}

/* Grid: heads, rows, splits * pieces of CUDA_VALUES values. */
KERNEL(attend, cuda_attend_args)
{
    SHARED float tops[CUDA_WARPS], totals[CUDA_WARPS];
    SHARED float sums[CUDA_WARPS * CUDA_VALUES];
    const uint head = block_x(), row = block_y(), warp = thread_x() / 32, lane = thread_x() % 32;
    const uint split = block_z() % a.splits, from = block_z() / a.splits * CUDA_VALUES;
    struct seen s;
    s.top = NOTHING_SEEN;
    s.total = 0.0f;
    UNROLL for (uint i = 0; i < ATTEND_LANE_VALUES; i++)
        s.sum[i] = 0.0f;
    see_spans(&a, row, head, from, split * CUDA_WARPS + warp, a.splits * CUDA_WARPS, &s);
    if (lane == 0)
        tops[warp] = s.top;
    block_sync();
    float top = tops[0];
    for (uint i = 1; i < CUDA_WARPS; i++)
        top = tops[i] > top ? tops[i] : top;
    raise_top(&s, top);
    if (lane == 0)
        totals[warp] = s.total;
    UNROLL for (uint i = 0; i < ATTEND_LANE_VALUES; i++)
        sums[warp * CUDA_VALUES + lane + 32 * i] = s.sum[i];
    block_sync();
    float total = 0.0f;
    for (uint i = 0; i < CUDA_WARPS; i++)
        total += totals[i];
    const ulong at = (ulong)row * a.heads + head;
    const ulong part = a.parts + (at * a.splits + split) * (a.value_dim + 2) * sizeof(float);
    if (a.splits > 1 && from == 0 && thread_x() == 0) {
        AT(float, part)[0] = top;
        AT(float, part)[1] = total;
    }
    for (uint i = thread_x(); i < CUDA_VALUES && from + i < a.value_dim; i += CUDA_WARPS * 32) {
        float sum = 0.0f;
        for (uint w = 0; w < CUDA_WARPS; w++)
            sum += sums[w * CUDA_VALUES + i];
        if (a.splits > 1)
            AT(float, part)[2 + from + i] = sum;
        else
            AT(float, a.y)[at * a.value_dim + from + i] = total != 0.0f ? sum / total : sum;
    }
}

/* What the splits found into y. Grid: heads, rows. */
KERNEL(attend_join, cuda_attend_args)
{
    const ulong at = (ulong)block_y() * a.heads + block_x();
    const uint stride = a.value_dim + 2;
    const ulong parts = a.parts + at * a.splits * stride * sizeof(float);
    float top = NOTHING_SEEN;
    for (uint i = 0; i < a.splits; i++) {
        const float one = AT(const float, parts)[i * stride];
        top = one > top ? one : top;
    }
    for (uint k = thread_x(); k < a.value_dim; k += CUDA_WARPS * 32) {
        float total = 0.0f, sum = 0.0f;
        for (uint i = 0; i < a.splits; i++) {
            const float one = AT(const float, parts)[i * stride];
            const float weight = one == top ? 1.0f : exponential(one - top);
            total += weight * AT(const float, parts)[i * stride + 1];
            sum += weight * AT(const float, parts)[i * stride + 2 + k];
        }
        AT(float, a.y)[at * a.value_dim + k] = total != 0.0f ? sum / total : sum;
    }
}

#endif
