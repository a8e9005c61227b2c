/* vnni_tiles.h: the product of many tokens on the tile registers of AMX. Included by vnni_matmul_kernel.c.
 *
 * One tile operation multiplies 16 tokens by 16 rows over the 32 columns that share a scale; the exact
 * integers go through a small buffer, from which they are scaled and added up in vector registers, 16
 * sums of 16 rows. Tiles of the next groups run ahead of the scaling of the last ones.
 */
#ifndef VNNI_TILES_H
#define VNNI_TILES_H

#include "plugins/vnni/vnni.h"
#include "plugins/vnni/vnni_simd.h"

enum {
    TILE_VALUES = 256,   /* int32 of one tile */
    TILE_PAIR = 2,       /* groups in flight */
    CHUNK_GROUPS = 32    /* columns taken at once: tokens and their codes stay in the first cache */
};

/* Tiles 0, 1: sums. 2, 3: 16 tokens x 32 columns. 4, 5: 32 columns x 16 rows. 6: 16 tokens x 16 columns.
 * 7: 16 columns x 16 rows. */
struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static const struct tile_config tiles_shape = {
    .palette = 1,
    .row_bytes = {64, 64, 32, 32, 64, 64, 16, 64},
    .rows = {16, 16, 16, 16, 8, 8, 16, 4},
};

/* The whole struct is named as input: the intrinsic of gcc 12 names its first bytes only. */
static inline void tiles_open(void)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(tiles_shape));
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

/* The integer sums of group g: 16 tokens x 16 rows, or two such, one per 16 columns. */
INLINE void tiles_multiply(const struct tile_sums *s, uint32_t scales, uint32_t g, int32_t *sums)
{
    const uint8_t *codes = s->codes + g * s->group_bytes;
    const int8_t *q = s->q + 32 * VNNI_BLOCK * (size_t)g;
    _tile_zero(0);
    if (scales == 1) {
        _tile_loadd(2, q, 32);
        _tile_loadd(4, codes, 64);
        _tile_dpbssd(0, 2, 4);
        _tile_stored(0, sums, 64);
        return;
    }
    _tile_zero(1);
    _tile_loadd(6, q, 32);
    _tile_loadd(7, codes, 64);
    _tile_dpbssd(0, 6, 7);
    _tile_stored(0, sums, 64);
    _tile_loadd(6, q + 16, 32);
    _tile_loadd(7, codes + 256, 64);
    _tile_dpbssd(1, 6, 7);
    _tile_stored(1, sums + TILE_VALUES, 64);
}

/* y += scales and minimums of group g times its integer sums. */
INLINE void tiles_scale(const struct tile_sums *s, struct vnni_shape shape, uint32_t g,
                        const int32_t *sums, __m512 y[16])
{
    const uint8_t *factors = s->codes + g * s->group_bytes + 512;
    const float *info = s->info + (size_t)g * VNNI_INFO * VNNI_BLOCK;
    const __m512 scale = _mm512_loadu_ps(factors);
    const __m512 second = shape.scales == 2 ? _mm512_loadu_ps(factors + 64) : _mm512_setzero_ps();
    const uint8_t *minimums = factors + 64 * shape.scales;
    _Pragma("GCC unroll 16") for (int t = 0; t < 16; t++)
    {
        __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * t)), scale);
        if (shape.scales == 2)
            sum = _mm512_fmadd_ps(
                _mm512_cvtepi32_ps(_mm512_load_si512(sums + TILE_VALUES + 16 * t)), second, sum);
        y[t] = _mm512_fmadd_ps(sum, _mm512_set1_ps(info[VNNI_SCALE * VNNI_BLOCK + t]), y[t]);
        if (shape.minimums == 1)
            y[t] = _mm512_fnmadd_ps(_mm512_loadu_ps(minimums),
                                    _mm512_set1_ps(info[VNNI_SUM * VNNI_BLOCK + t]), y[t]);
        if (shape.minimums == 2) {
            const float *halves = info + VNNI_SUM_HALF * VNNI_BLOCK + t;
            y[t] = _mm512_fnmadd_ps(_mm512_loadu_ps(minimums), _mm512_set1_ps(halves[0]), y[t]);
            y[t] = _mm512_fnmadd_ps(_mm512_loadu_ps(minimums + 64),
                                    _mm512_set1_ps(halves[VNNI_BLOCK]), y[t]);
        }
    }
}

INLINE void tiles_chunk(const struct tile_sums *s, struct vnni_shape shape, __m512 y[16])
{
    _Alignas(64) int32_t sums[2 * TILE_PAIR][2 * TILE_VALUES];
    uint32_t ahead = 0;
    for (; ahead < TILE_PAIR && ahead < s->groups; ahead++)
        tiles_multiply(s, shape.scales, ahead, sums[ahead]);
    for (uint32_t g = 0; g < s->groups; g++) {
        if (ahead < s->groups) {
            tiles_multiply(s, shape.scales, ahead, sums[ahead % (2 * TILE_PAIR)]);
            ahead++;
        }
        tiles_scale(s, shape, g, sums[g % (2 * TILE_PAIR)], y);
    }
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
