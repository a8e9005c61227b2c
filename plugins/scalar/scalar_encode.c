/* scalar_encode.c: block encoding: rows to threads, plain types, and round to nearest. */
#include "plugins/scalar/scalar_encode.h"

#include <string.h>

#include "plugins/scalar/scalar.h"

uint16_t encode_half(float v)
{
    uint16_t h = half_f32_to_f16(v);
    if ((h & 0x7fffu) >= 0x7c00u)
        h = (uint16_t)((h & 0x8000u) | 0x7bffu);
    if ((h & 0x7fffu) == 0 && v != 0.0f)
        h = (uint16_t)(h | 1u);
    return h;
}

/* The middles are halves, so u exceeds one exactly when ceil(2 u) exceeds twice it. */
static void fill_code_of(struct encode_block *b)
{
    for (int twice = -256; b->table != NULL && twice <= 256; twice++) {
        uint8_t code = 0;
        for (int k = 0; k < 15; k++)
            code = (uint8_t)(code + (twice > b->table[k] + b->table[k + 1]));
        b->code_of[twice + 256] = code;
    }
}

static uint8_t table_code(const struct encode_block *b, float u)
{
    const float twice = lanes_clamp(2.0f * u, -256.0f, 256.0f);
    const int down = (int)twice;
    return b->code_of[256 + down + (twice > (float)down)];
}

float encode_level(const struct encode_block *b, float u)
{
    if (b->table != NULL)
        return b->table[table_code(b, u)];
    return lanes_nearest(lanes_clamp(u, b->low, b->high));
}

void encode_codes(struct encode_block *b)
{
    float scale[BLOCK_GROUPS_MAX], minimum[BLOCK_GROUPS_MAX];
    const struct block_type *t = b->type;
    if (block_multiply_scales(t->type, &b->scales, scale, minimum) != ERR_NONE)
        return;
    for (uint32_t g = 0; g < t->values / t->group; g++) {
        const float inverse = encode_inverse(scale[g]);
        for (uint32_t i = g * t->group; i < (g + 1) * t->group; i++) {
            const float u = (b->x[i] + minimum[g]) * inverse;
            if (b->table != NULL)
                b->code[i] = table_code(b, u);
            else
                b->code[i] = (uint8_t)((int32_t)encode_level(b, u) + t->code_zero);
        }
    }
}

static float magnitude(float v)
{
    return v < 0.0f ? -v : v;
}

/* The first of the greatest |x|; NaN counts as 0. By their bits, which order as the magnitudes do: a chain of float
 * comparisons takes as long as the rest of the block's scales. */
static float peak_of(const float *x, uint32_t n)
{
    uint32_t top = 0, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bits = half_to_bits(x[i]) & 0x7fffffffu;
        const uint32_t size = bits > 0x7f800000u ? 0 : bits;
        at = size > top ? i : at;
        top = size > top ? size : top;
    }
    return top > 0 ? x[at] : 0.0f;
}

static void range_of(const float *x, uint32_t n, float *min, float *max)
{
    *min = *max = x[0];
    for (uint32_t i = 1; i < n; i++) {
        *min = x[i] < *min ? x[i] : *min;
        *max = x[i] > *max ? x[i] : *max;
    }
}

static int8_t scale_code(float S, float inverse, float low, float high)
{
    return (int8_t)lanes_nearest(lanes_clamp(S * inverse, low, high));
}

void encode_put_signed(struct encode_block *b, const float *S)
{
    const uint32_t groups = b->type->values / b->type->group;
    const int is_q6 = b->type->type == HAL_Q6_K;
    if (b->type->type == HAL_NF4) {
        float D[4], top = 0.0f;
        b->scales.dmin = encode_half(((S[0] + S[1]) + (S[2] + S[3])) * 0.25f);
        for (int g = 0; g < 4; g++) {
            D[g] = S[g] - half_f16_to_f32(b->scales.dmin);
            top = magnitude(D[g]) > top ? magnitude(D[g]) : top;
        }
        b->scales.d = encode_half(top / 127.0f);
        const float inverse = encode_inverse(half_f16_to_f32(b->scales.d));
        for (int g = 0; g < 4; g++)
            b->scales.s[g] = scale_code(D[g], inverse, -127.0f, 127.0f);
        return;
    }
    b->scales.d = encode_half(peak_of(S, groups) / (is_q6 ? -128.0f : -32.0f));
    const float inverse = encode_inverse(half_f16_to_f32(b->scales.d));
    for (uint32_t g = 0; g < groups; g++)
        b->scales.s[g] =
            scale_code(S[g], inverse, is_q6 ? -128.0f : -32.0f, is_q6 ? 127.0f : 31.0f);
}

void encode_put_ranged(struct encode_block *b, const float *S, const float *M)
{
    const uint32_t groups = b->type->values / b->type->group;
    const float top = b->type->type == HAL_Q2_K ? 15.0f : 63.0f;
    float top_s = 0.0f, top_m = 0.0f;
    for (uint32_t g = 0; g < groups; g++) {
        top_s = S[g] > top_s ? S[g] : top_s;
        top_m = M[g] > top_m ? M[g] : top_m;
    }
    b->scales.d = encode_half(top_s / top);
    b->scales.dmin = encode_half(top_m / top);
    const float inverse_s = encode_inverse(half_f16_to_f32(b->scales.d));
    const float inverse_m = encode_inverse(half_f16_to_f32(b->scales.dmin));
    for (uint32_t g = 0; g < groups; g++) {
        b->scales.s[g] = scale_code(S[g], inverse_s, 0.0f, top);
        b->scales.m[g] = (uint8_t)scale_code(M[g], inverse_m, 0.0f, top);
    }
}

void encode_rtn(struct encode_block *b)
{
    const struct block_type *t = b->type;
    float S[BLOCK_GROUPS_MAX], M[BLOCK_GROUPS_MAX], min, max;
    switch (t->type) {
    case HAL_Q4_1:
    case HAL_Q5_1:
        range_of(b->x, t->values, &min, &max);
        b->scales.d = encode_half((max - min) / b->high);
        b->scales.dmin = encode_half(min);
        return;
    case HAL_Q2_K:
    case HAL_Q4_K:
    case HAL_Q5_K:
        for (uint32_t g = 0; g < t->values / t->group; g++) {
            range_of(b->x + g * t->group, t->group, &min, &max);
            min = min < 0.0f ? min : 0.0f;
            max = max > min ? max : min;
            S[g] = (max - min) / b->high;
            M[g] = -min;
        }
        encode_put_ranged(b, S, M);
        return;
    case HAL_Q8_0: b->scales.d = encode_half(magnitude(peak_of(b->x, 32)) / 127.0f); return;
    case HAL_Q4_0:
    case HAL_Q5_0:
    case HAL_IQ4_NL: b->scales.d = encode_half(peak_of(b->x, 32) / b->low); return;
    case HAL_NF4:
        for (int g = 0; g < 4; g++)
            S[g] = magnitude(peak_of(b->x + 64 * g, 64)) / 127.0f;
        encode_put_signed(b, S);
        return;
    default:
        for (uint32_t g = 0; g < t->values / t->group; g++)
            S[g] = peak_of(b->x + g * t->group, t->group) / b->low;
        encode_put_signed(b, S);
    }
}

struct encoding {
    const struct block_type *type;
    uint32_t method, cols;
    const float *x, *importance;
    uint8_t *out;
    size_t row_bytes;
};

static void encode_plain(uint32_t type, const float *x, uint32_t cols, uint8_t *out)
{
    if (type == HAL_F32) {
        memcpy(out, x, (size_t)cols * sizeof *x);
        return;
    }
    for (uint32_t i = 0; i < cols; i++) {
        const uint16_t h = type == HAL_F16 ? half_f32_to_f16(x[i]) : half_f32_to_bf16(x[i]);
        out[2 * (size_t)i] = (uint8_t)h;
        out[2 * (size_t)i + 1] = (uint8_t)(h >> 8);
    }
}

static void encode_rows(void *context, uint32_t first, uint32_t last)
{
    const struct encoding *e = context;
    const struct block_type *t = e->type;
    struct encode_block b;
    memset(&b, 0, sizeof b);
    b.type = t;
    b.table = block_table(t->type);
    fill_code_of(&b);
    b.low = t->type == HAL_Q8_0 ? -127.0f : block_level(t->type, 0);
    b.high = block_level(t->type, t->codes - 1);
    for (uint32_t r = first; r < last; r++) {
        const float *x = e->x + (size_t)r * e->cols;
        uint8_t *out = e->out + r * e->row_bytes;
        if (t->codes == 0) {
            encode_plain(t->type, x, e->cols, out);
            continue;
        }
        for (uint32_t i = 0; i < e->cols; i += t->values, out += t->bytes) {
            for (uint32_t j = 0; j < t->values; j++) {
                const uint32_t bits = half_to_bits(x[i + j]);
                b.x[j] = (bits & 0x7fffffffu) < 0x7f800000u ? x[i + j] : 0.0f;
            }
            if (e->method == HAL_SEARCH) {
                encode_search(&b, e->importance != NULL ? e->importance + i : NULL);
            } else {
                encode_rtn(&b);
                encode_codes(&b);
            }
            if (block_put_scales(t->type, &b.scales, out) != ERR_NONE ||
                block_put_codes(t->type, b.code, out) != ERR_NONE)
                return; /* cannot be: the type has codes */
        }
    }
}

enum err scalar_encode(void *opened, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                       uint32_t cols, const float *importance, void *out, size_t out_bytes)
{
    struct scalar_dev *dev = opened;
    const struct block_type *t = block_type(type);
    if (t == NULL || cols == 0 || cols % t->values != 0 || method > HAL_SEARCH || x == NULL ||
        out == NULL)
        return ERR_ARGUMENT;
    struct encoding e = {t, method, cols, x, importance, out, block_row_bytes(type, cols)};
    if (out_bytes != e.row_bytes * rows)
        return ERR_ARGUMENT;
    scalar_parallel(dev, rows, 1, encode_rows, &e);
    return ERR_NONE;
}

struct decoding {
    uint32_t type, cols;
    const uint8_t *in;
    float *x;
    size_t row_bytes;
};

static void decode_rows(void *context, uint32_t first, uint32_t last)
{
    const struct decoding *d = context;
    for (uint32_t r = first; r < last; r++)
        if (block_decode_row(d->type, d->in + r * d->row_bytes, d->cols,
                             d->x + (size_t)r * d->cols) != ERR_NONE)
            return;
}

enum err scalar_decode(void *opened, uint32_t type, const void *in, size_t in_bytes, uint32_t rows,
                       uint32_t cols, float *x)
{
    struct scalar_dev *dev = opened;
    struct decoding d = {type, cols, in, x, block_row_bytes(type, cols)};
    if (d.row_bytes == 0 || in == NULL || x == NULL || in_bytes != d.row_bytes * rows)
        return ERR_ARGUMENT;
    scalar_parallel(dev, rows, 8, decode_rows, &d);
    return ERR_NONE;
}
