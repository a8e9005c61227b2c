/* vnni_tiles.h: the product of many tokens on the tile registers of AMX. Included by vnni_matmul_kernel.c.
 *
 * One tile operation multiplies 16 tokens by 16 rows over the 32 columns that share a scale; the exact
 * integers go through a small buffer, from which they are scaled and added up in vector registers, 16
 * sums of 16 rows. Products run a group ahead of their stores, and those two ahead of the scaling.
 */
#ifndef VNNI_TILES_H
#define VNNI_TILES_H

#include "plugins/vnni/vnni.h"
#include "plugins/vnni/vnni_simd.h"
#include "plugins/vnni/vnni_tile_config.h"

#define TILE_MAGIC 12582912.0f /* 1.5 * 2^23: the last place of its neighbours is 1 */

enum {
    TILE_VALUES = 256,   /* int32 of one tile */
    TILE_RING = 4,       /* groups whose sums are kept */
    TILE_BEHIND = 3,     /* groups from a product to its scaling */
    CHUNK_GROUPS = 32    /* columns taken at once: tokens and their codes stay in the first cache */
};

/* Tiles 0 and 1, or 2 and 3 for odd groups: sums. 4: 16 tokens x 32 columns. 5: 32 columns x 16 rows.
 * 6: 16 tokens x 16 columns. 7: 16 columns x 16 rows. */
static const struct tile_config tiles_shape = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 32, 64, 16, 64},
    .rows = {16, 16, 16, 16, 16, 8, 16, 4},
};

static inline void tiles_open(void)
{
    tile_config_load(&tiles_shape);
}

static inline void tiles_close(void)
{
    _tile_release();
}

struct tile_sums {
    const uint8_t *codes; /* unpacked panel, at the chunk */
    size_t group_bytes;
    const int8_t *q; /* [group][16 tokens][32], at the chunk */
    const float *info;
    uint32_t groups;
};

/* The integer sums of a group, 16 tokens x 16 rows, or two such, one per 16 columns. */
INLINE void tiles_multiply(const struct tile_sums *s, uint32_t scales, uint32_t g, int is_odd)
{
    const uint8_t *codes = s->codes + g * s->group_bytes;
    const int8_t *q = s->q + 32 * VNNI_BLOCK * (size_t)g;
    if (scales == 1) {
        _tile_loadd(4, q, 32);
        _tile_loadd(5, codes, 64);
        if (is_odd) {
            _tile_zero(2);
            _tile_dpbssd(2, 4, 5);
        } else {
            _tile_zero(0);
            _tile_dpbssd(0, 4, 5);
        }
        return;
    }
    _tile_loadd(6, q, 32);
    _tile_loadd(7, codes, 64);
    if (is_odd) {
        _tile_zero(2);
        _tile_dpbssd(2, 6, 7);
        _tile_zero(3);
    } else {
        _tile_zero(0);
        _tile_dpbssd(0, 6, 7);
        _tile_zero(1);
    }
    _tile_loadd(6, q + 16, 32);
    _tile_loadd(7, codes + 256, 64);
    if (is_odd)
        _tile_dpbssd(3, 6, 7);
    else
        _tile_dpbssd(1, 6, 7);
}

INLINE void tiles_store(uint32_t scales, int32_t *sums, int is_odd)
{
    if (is_odd) {
        _tile_stored(2, sums, 64);
        if (scales == 2)
            _tile_stored(3, sums + TILE_VALUES, 64);
        return;
    }
    _tile_stored(0, sums, 64);
    if (scales == 2)
        _tile_stored(1, sums + TILE_VALUES, 64);
}

/* Factors of one group. */
struct tile_factors {
    __m512 scale, second; /* of columns 0..15 (or all) and 16..31 */
    __m512 less;          /* scale times TILE_MAGIC, exact */
    __m512 minimum, second_minimum;
};

INLINE struct tile_factors tiles_factors(const uint8_t *factors, struct vnni_shape shape)
{
    const uint8_t *minimums = factors + 64 * shape.scales;
    struct tile_factors f;
    f.scale = _mm512_loadu_ps(factors);
    f.second = shape.scales == 2 ? _mm512_loadu_ps(factors + 64) : _mm512_setzero_ps();
    f.less = _mm512_mul_ps(f.scale, _mm512_set1_ps(TILE_MAGIC));
    f.minimum = shape.minimums >= 1 ? _mm512_loadu_ps(minimums) : _mm512_setzero_ps();
    f.second_minimum = shape.minimums == 2 ? _mm512_loadu_ps(minimums + 64) : _mm512_setzero_ps();
    return f;
}

/* Integer sums times scale, rounded once. The processor adds floats of 512 bits on one port only while
 * tiles are in use, but integers on two: so a sum becomes a float by adding to the bits of one whose last
 * place counts ones, which the multiplication takes off again. Exact when the scale has 22 bits. */
INLINE __m512 tiles_product(const int32_t *sums, struct vnni_shape shape, struct tile_factors f)
{
    const __m512i sum = _mm512_load_si512(sums);
    if (shape.is_long)
        return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), f.scale);
    const __m512i bits = _mm512_add_epi32(sum, _mm512_castps_si512(_mm512_set1_ps(TILE_MAGIC)));
    return _mm512_fmsub_ps(_mm512_castsi512_ps(bits), f.scale, f.less);
}

/* y + scales and minimums of a group times its integer sums, for one token; info at the token. */
INLINE __m512 tiles_add(const int32_t *sums, const float *info, struct vnni_shape shape,
                        struct tile_factors f, __m512 y)
{
    __m512 sum = tiles_product(sums, shape, f);
    if (shape.scales == 2)
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + TILE_VALUES)), f.second, sum);
    y = _mm512_fmadd_ps(sum, _mm512_set1_ps(info[VNNI_SCALE * VNNI_BLOCK]), y);
    if (shape.minimums == 1)
        y = _mm512_fnmadd_ps(f.minimum, _mm512_set1_ps(info[VNNI_SUM * VNNI_BLOCK]), y);
    if (shape.minimums == 2) {
        const float *halves = info + VNNI_SUM_HALF * VNNI_BLOCK;
        y = _mm512_fnmadd_ps(f.minimum, _mm512_set1_ps(halves[0]), y);
        y = _mm512_fnmadd_ps(f.second_minimum, _mm512_set1_ps(halves[VNNI_BLOCK]), y);
    }
    return y;
}

/* y += group `done`, whose sums were stored. */
INLINE void tiles_scale(const struct tile_sums *s, struct vnni_shape shape, uint32_t done,
                        int32_t (*ring)[2 * TILE_VALUES], __m512 y[16])
{
    const uint8_t *codes = s->codes + done * s->group_bytes;
    const struct tile_factors f = tiles_factors(codes + 512, shape);
    const int32_t *sums = ring[done % TILE_RING];
    const float *info = s->info + (size_t)done * VNNI_INFO * VNNI_BLOCK;
    __asm__("" : "+r"(sums), "+r"(info)); /* two pointers, not two for each token */
    _Pragma("GCC unroll 16") for (int t = 0; t < 16; t++)
        y[t] = tiles_add(sums + 16 * t, info + t, shape, f, y[t]);
}

/* Multiply group g, store the sums of the last one, scale those of TILE_BEHIND groups ago: each waits for
 * what was begun a step before, not for what begins in its own. */
INLINE void tiles_step(const struct tile_sums *s, struct vnni_shape shape, uint32_t g, int is_odd,
                       int32_t (*ring)[2 * TILE_VALUES], __m512 y[16])
{
    tiles_multiply(s, shape.scales, g, is_odd);
    tiles_store(shape.scales, ring[(g - 1) % TILE_RING], !is_odd);
    tiles_scale(s, shape, g - TILE_BEHIND, ring, y);
}

INLINE void tiles_chunk(const struct tile_sums *s, struct vnni_shape shape, __m512 y[16])
{
    _Alignas(64) int32_t ring[TILE_RING][2 * TILE_VALUES];
    const uint32_t groups = s->groups;
    uint32_t g = TILE_BEHIND, done = 0;
    tiles_multiply(s, shape.scales, 0, 0);
    if (groups > 1)
        tiles_multiply(s, shape.scales, 1, 1);
    tiles_store(shape.scales, ring[0], 0);
    if (groups > 2)
        tiles_multiply(s, shape.scales, 2, 0);
    if (groups > 1)
        tiles_store(shape.scales, ring[1], 1);
    for (; g + 1 < groups; g += 2) {
        tiles_step(s, shape, g, 1, ring, y);
        tiles_step(s, shape, g + 1, 0, ring, y);
    }
    if (g < groups) {
        tiles_step(s, shape, g, 1, ring, y);
        tiles_store(shape.scales, ring[g % TILE_RING], 1);
        g++;
    } else if (groups > 2)
        tiles_store(shape.scales, ring[(g - 1) % TILE_RING], 0);
    for (done = g - TILE_BEHIND; done < groups; done++)
        tiles_scale(s, shape, done, ring, y);
}

/* Columns of groups first.. of a block of tokens times one panel, added to y unless first is 0. */
INLINE void tiles_panel(struct vnni_shape shape, const uint8_t *unpacked,
                        const struct vnni_input *in, uint32_t block, uint32_t first,
                        struct vnni_output out)
{
    const uint32_t groups = in->cols / 32, token = block * VNNI_BLOCK;
    const uint32_t left = in->tokens - token, tokens = left < 16 ? left : 16;
    const __mmask16 rows = (__mmask16)((1u << out.rows) - 1);
    struct tile_sums s = {.codes = unpacked + first * vnni_group_bytes(shape),
                          .group_bytes = vnni_group_bytes(shape),
                          .q = in->q + ((size_t)block * groups + first) * VNNI_BLOCK * 32,
                          .info = in->info + ((size_t)block * groups + first) * VNNI_INFO * VNNI_BLOCK,
                          .groups = groups - first < CHUNK_GROUPS ? groups - first : CHUNK_GROUPS};
    float *to = out.y + (size_t)token * out.stride;
    __m512 y[16];
    _Pragma("GCC unroll 16") for (uint32_t t = 0; t < 16; t++) y[t] =
        first == 0 || t >= tokens ? _mm512_setzero_ps()
                                  : _mm512_maskz_loadu_ps(rows, to + t * out.stride);
    for (uint32_t t = 0; t < tokens; t++) /* else the stores below wait for memory, and tiles for them */
        _mm_prefetch((const char *)(to + t * out.stride), _MM_HINT_T0);
    tiles_chunk(&s, shape, y);
    _Pragma("GCC unroll 16") for (uint32_t t = 0; t < 16; t++)
    {
        if (t < tokens)
            _mm512_mask_storeu_ps(to + t * out.stride, rows, y[t]);
    }
}

/* All tokens times `panels` unpacked panels. */
INLINE void tiles_gemm(struct vnni_shape shape, const uint8_t *unpacked, uint32_t panels,
                       const struct vnni_input *in, struct vnni_output out)
{
    const uint32_t groups = in->cols / 32, blocks = (in->tokens + VNNI_BLOCK - 1) / VNNI_BLOCK;
    const size_t panel_bytes = groups * vnni_group_bytes(shape);
    for (uint32_t first = 0; first < groups; first += CHUNK_GROUPS) {
        for (uint32_t block = 0; block < blocks; block++) {
            for (uint32_t p = 0; p < panels; p++)
                tiles_panel(shape, unpacked + p * panel_bytes, in, block, first,
                            vnni_output_panel(out, p));
        }
    }
}

#endif
