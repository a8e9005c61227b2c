/* vnni_dense_tiles.h: many tokens times F16 or BF16 weights on the BF16 tiles of AMX, as exactly as in F32.
 * Included by vnni_dense_kernel.c.
 *
 * A BF16 has 8 bits of mantissa, so an F32 activation is the exact sum of three and an F16 weight of two, each
 * the upper half of what is left. Products of BF16 are exact in F32. Of the six partial products the one of
 * the two lowest parts, 2^-24 of the whole, is left out. Four tiles of sums, 32 tokens x 32 rows, share what
 * is loaded; columns are taken in slabs that fit the first cache, of which the small products are added first.
 */
#ifndef VNNI_DENSE_TILES_H
#define VNNI_DENSE_TILES_H

#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_simd.h"
#include "plugins/vnni/vnni_tile_config.h"

enum {
    DENSE_CHUNK = 32,                           /* columns of one tile */
    DENSE_TILE = 16 * 64,                       /* bytes of one tile */
    DENSE_X = VNNI_SPLIT_PARTS * DENSE_TILE,    /* of one chunk of a block of tokens */
    DENSE_SLAB = 4,                             /* chunks */
    DENSE_TOGETHER = 8,                         /* panels whose results stay in the second cache */
    DENSE_PANEL = VNNI_DENSE_ROOM / 2           /* bytes of a slab of one panel */
};

INLINE size_t dense_panel_bytes(uint32_t cols) /* by vnni_layout.h */
{
    return ((size_t)cols * VNNI_ROWS * 2 + 63) / 64 * 64;
}

/* Tiles 0..3: sums, [2 blocks of tokens][2 panels]. 4, 5: tokens x columns. 6, 7: columns x rows. */

INLINE __m512 dense_upper(__m512 a) /* as BF16, rounded to 0 */
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0xffff0000)));
}

INLINE __m256i dense_halves(__m512 a) /* the upper half of each */
{
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(a), 16));
}

/* One token's row of each part; returns 0 when a value is no finite number. */
static int dense_split_row(const float *x, uint32_t cols, uint8_t *to)
{
    __mmask16 strange = 0;
    for (uint32_t c = 0; c < cols; c += 16) {
        const __m512 v = vf_load_part(x + c, cols - c);
        strange |= _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(3.402823466e+38f), _CMP_NLE_UQ);
        uint8_t *at = to + c / DENSE_CHUNK * DENSE_X + c % DENSE_CHUNK * 2;
        const __m512 first = dense_upper(v), left = _mm512_sub_ps(v, first);
        const __m512 second = dense_upper(left);
        _mm256_storeu_si256((__m256i *)(void *)at, dense_halves(first));
        _mm256_storeu_si256((__m256i *)(void *)(at + DENSE_TILE), dense_halves(second));
        _mm256_storeu_si256((__m256i *)(void *)(at + 2 * DENSE_TILE),
                            dense_halves(_mm512_sub_ps(left, second)));
    }
    return strange == 0;
}

void VNNI_KERNEL(split)(const struct vnni_input *in, const float *x, uint32_t block)
{
    const uint32_t chunks = (in->cols + DENSE_CHUNK - 1) / DENSE_CHUNK;
    uint8_t *to = (uint8_t *)in->q + (size_t)block * chunks * DENSE_X;
    int is_finite = 1;
    if (in->cols % DENSE_CHUNK != 0 || (block + 1) * VNNI_BLOCK > in->tokens)
        memset(to, 0, (size_t)chunks * DENSE_X);
    for (uint32_t t = 0; t < VNNI_BLOCK && block * VNNI_BLOCK + t < in->tokens; t++)
        is_finite &= dense_split_row(x + ((size_t)block * VNNI_BLOCK + t) * in->cols, in->cols, to + 64 * t);
    in->info[block] = (float)is_finite;
}

/* Columns c and c + 1 of 16 rows as pairs; parts: 2 for F16, 1 for BF16. */
INLINE void dense_unpack_pair(uint32_t type, const uint8_t *panel, uint32_t c, uint32_t cols, uint8_t *to)
{
    const uint8_t *at = panel + (size_t)c * VNNI_ROWS * 2;
    const __m256i none = _mm256_setzero_si256();
    const __m256i even = c < cols ? _mm256_loadu_si256((const __m256i *)(const void *)at) : none;
    const __m256i odd = c + 1 < cols ? _mm256_loadu_si256((const __m256i *)(const void *)(at + 32)) : none;
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    if (type == HAL_BF16) {
        const __m512i b = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
        vi_store(to, _mm512_or_si512(_mm512_cvtepu16_epi32(even), b));
        return;
    }
    const __m512 a = _mm512_cvtph_ps(even), b = _mm512_cvtph_ps(odd);
    const __m512 a_left = _mm512_sub_ps(a, dense_upper(a)), b_left = _mm512_sub_ps(b, dense_upper(b));
    vi_store(to, _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(a), 16),
                                 _mm512_and_si512(_mm512_castps_si512(b), high)));
    vi_store(to + DENSE_TILE, _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(a_left), 16),
                                              _mm512_and_si512(_mm512_castps_si512(b_left), high)));
}

/* Chunks first.. of a panel to [chunk][parts][16 pairs][16 rows] pairs. */
INLINE void dense_unpack(uint32_t type, const uint8_t *panel, uint32_t cols, uint32_t first, uint32_t chunks,
                         uint8_t *to)
{
    const size_t tiles = type == HAL_F16 ? 2 : 1;
    for (uint32_t k = 0; k < chunks; k++, to += tiles * DENSE_TILE)
        for (uint32_t pair = 0; pair < 16; pair++)
            dense_unpack_pair(type, panel, (first + k) * DENSE_CHUNK + 2 * pair, cols, to + 64 * (size_t)pair);
}

/* Some blocks of tokens (1 or 2), some panels (1 or 2), one slab. */
struct dense_slab {
    const uint8_t *x;
    size_t x_stride; /* from one block to the next */
    const uint8_t *weights;
    const uint8_t *next; /* resident weights that are taken apart next, `next_bytes` of each panel */
    size_t next_stride;
    size_t next_bytes;
    uint32_t chunks;
    uint32_t blocks;
    uint32_t panels;
};

/* The share of blocks block, block + 1 in asking for the next weights. */
INLINE void dense_prefetch(const struct dense_slab *s, uint32_t block, uint32_t blocks)
{
    const size_t from = s->next_bytes * block / blocks, to = s->next_bytes * (block + s->blocks) / blocks;
    for (size_t at = from / 64 * 64; at < to; at += 64) {
        _mm_prefetch((const char *)s->next + at, _MM_HINT_T0);
        _mm_prefetch((const char *)s->next + s->next_stride + at, _MM_HINT_T0);
    }
}

INLINE void dense_load_x(const struct dense_slab *s, const uint8_t *x)
{
    _tile_loadd(4, x, 64);
    if (s->blocks == 2)
        _tile_loadd(5, x + s->x_stride, 64);
}

INLINE void dense_load_weights(const struct dense_slab *s, const uint8_t *weights)
{
    _tile_loadd(6, weights, 64);
    if (s->panels == 2)
        _tile_loadd(7, weights + DENSE_PANEL, 64);
}

INLINE void dense_multiply(const struct dense_slab *s)
{
    _tile_dpbf16ps(0, 4, 6);
    if (s->panels == 2)
        _tile_dpbf16ps(1, 4, 7);
    if (s->blocks == 2)
        _tile_dpbf16ps(2, 5, 6);
    if (s->blocks == 2 && s->panels == 2)
        _tile_dpbf16ps(3, 5, 7);
}

INLINE void dense_sum(uint32_t type, struct dense_slab s, float sums[4][256])
{
    const size_t step = type == HAL_F16 ? 2 * DENSE_TILE : DENSE_TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t k = 0; k < s.chunks; k++) {
        const uint8_t *x = s.x + k * DENSE_X, *weights = s.weights + k * step;
        dense_load_weights(&s, weights);
        dense_load_x(&s, x + 2 * DENSE_TILE);
        dense_multiply(&s);
        dense_load_x(&s, x + DENSE_TILE);
        dense_multiply(&s);
        if (type == HAL_F16) {
            dense_load_weights(&s, weights + DENSE_TILE);
            dense_multiply(&s);
            dense_load_x(&s, x);
            dense_multiply(&s);
        }
    }
    for (uint32_t k = 0; k < s.chunks; k++) {
        dense_load_weights(&s, s.weights + k * step);
        dense_load_x(&s, s.x + k * DENSE_X);
        dense_multiply(&s);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
}

static void dense_sum_any(uint32_t type, struct dense_slab s, float sums[4][256])
{
#define DENSE_SUM(t, b, p)                                                                         \
    if (type == (t) && s.blocks == (b) && s.panels == (p)) {                                       \
        s.blocks = (b);                                                                            \
        s.panels = (p);                                                                            \
        dense_sum(t, s, sums);                                                                     \
        return;                                                                                    \
    }
    DENSE_SUM(HAL_F16, 2, 2)
    DENSE_SUM(HAL_F16, 2, 1)
    DENSE_SUM(HAL_F16, 1, 2)
    DENSE_SUM(HAL_F16, 1, 1)
    DENSE_SUM(HAL_BF16, 2, 2)
    DENSE_SUM(HAL_BF16, 2, 1)
    DENSE_SUM(HAL_BF16, 1, 2)
    DENSE_SUM(HAL_BF16, 1, 1)
}

/* The sums of one slab of a block and a panel, added to those before. */
INLINE void dense_add(const float *sums, uint32_t tokens, int is_first, struct vnni_output out)
{
    const __mmask16 rows = (__mmask16)((1u << out.rows) - 1);
    float *y = out.y;
    if (is_first) {
        for (uint32_t t = 0; t < tokens; t++, y += out.stride)
            _mm512_mask_storeu_ps(y, rows, _mm512_load_ps(sums + 16 * t));
        return;
    }
    for (uint32_t t = 0; t < tokens; t++, y += out.stride)
        _mm512_mask_storeu_ps(y, rows,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), _mm512_load_ps(sums + 16 * t)));
}

static void dense_slab_blocks(uint32_t type, struct dense_slab s, const struct vnni_input *in, int is_first,
                              struct vnni_output out)
{
    _Alignas(64) float sums[4][256];
    const uint32_t blocks = (in->tokens + VNNI_BLOCK - 1) / VNNI_BLOCK;
    for (uint32_t block = 0; block < blocks; block += 2, s.x += 2 * s.x_stride) {
        s.blocks = blocks - block < 2 ? 1 : 2;
        dense_prefetch(&s, block, blocks);
        dense_sum_any(type, s, sums);
        for (uint32_t b = 0; b < s.blocks; b++) {
            const uint32_t token = (block + b) * VNNI_BLOCK, left = in->tokens - token;
            const struct vnni_output at = {out.y + token * out.stride, out.stride, out.rows};
            for (uint32_t p = 0; p < s.panels; p++)
                dense_add(sums[2 * b + p], left < VNNI_BLOCK ? left : VNNI_BLOCK, is_first,
                          vnni_output_panel(at, p));
        }
    }
}

/* Panels that stay together while slabs pass. */
INLINE void dense_panels(uint32_t type, const uint8_t *panel, uint32_t panels, const struct vnni_input *in,
                         uint8_t *room, struct vnni_output out)
{
    const uint32_t chunks = (in->cols + DENSE_CHUNK - 1) / DENSE_CHUNK;
    const size_t panel_bytes = dense_panel_bytes(in->cols);
    for (uint32_t first = 0; first < chunks; first += DENSE_SLAB) {
        struct dense_slab s = {.x = (const uint8_t *)in->q + (size_t)first * DENSE_X,
                               .x_stride = (size_t)chunks * DENSE_X,
                               .weights = room,
                               .next_stride = panel_bytes,
                               .next_bytes = (size_t)DENSE_SLAB * DENSE_CHUNK * VNNI_ROWS * 2,
                               .chunks = chunks - first < DENSE_SLAB ? chunks - first : DENSE_SLAB};
        for (uint32_t p = 0; p < panels; p += 2) {
            s.panels = panels - p < 2 ? 1 : 2;
            for (uint32_t i = 0; i < s.panels; i++)
                dense_unpack(type, panel + (p + i) * panel_bytes, in->cols, first, s.chunks,
                             room + i * DENSE_PANEL);
            s.next = p + 2 < panels ? panel + (p + 2) * panel_bytes + first / DENSE_SLAB * s.next_bytes
                                    : panel + (first / DENSE_SLAB + 1) * s.next_bytes;
            const uint32_t row = p * VNNI_ROWS;
            dense_slab_blocks(type, s, in, first == 0,
                              (struct vnni_output){out.y + row, out.stride, out.rows - row});
        }
    }
}

void VNNI_KERNEL(dense_split)(uint32_t type, const uint8_t *panel, const float *x, const struct vnni_input *in,
                              uint8_t *room, struct vnni_output out)
{
    const uint32_t panels = (out.rows + VNNI_ROWS - 1) / VNNI_ROWS;
    const size_t panel_bytes = dense_panel_bytes(in->cols);
    tile_config_load(&tile_config_full);
    for (uint32_t p = 0; p < panels; p += DENSE_TOGETHER) {
        const uint32_t count = panels - p < DENSE_TOGETHER ? panels - p : DENSE_TOGETHER;
        const uint32_t row = p * VNNI_ROWS;
        const struct vnni_output some = {out.y + row, out.stride, out.rows - row};
        if (type == HAL_F16)
            dense_panels(HAL_F16, panel + p * panel_bytes, count, in, room, some);
        else
            dense_panels(HAL_BF16, panel + p * panel_bytes, count, in, room, some);
    }
    _tile_release();
    for (uint32_t token = 0; token < in->tokens; token += VNNI_BLOCK) {
        const uint32_t left = in->tokens - token, tokens = left < VNNI_BLOCK ? left : VNNI_BLOCK;
        if (in->info[token / VNNI_BLOCK] != 0.0f)
            continue;
        for (uint32_t p = 0; p < panels; p++) /* differences of infinities are not numbers */
            VNNI_KERNEL(dense)(type, panel + p * panel_bytes, x, in->cols, token, token + tokens,
                               vnni_output_panel(out, p));
    }
}

#endif
