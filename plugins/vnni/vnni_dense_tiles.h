/* vnni_dense_tiles.h: many tokens times F16 or BF16 weights on the BF16 tiles of AMX, as exactly as in F32.
 * Included by vnni_dense_kernel.c.
 *
 * A BF16 has 8 bits of mantissa, so an F32 activation is the exact sum of three and an F16 weight of two, each
 * the upper half of what is left. Products of BF16 are exact in F32. Of the six partial products the one of
 * the two lowest parts, 2^-24 of the whole, is left out; each order of size is summed in a tile of its own,
 * and the small ones are added first.
 */
#ifndef VNNI_DENSE_TILES_H
#define VNNI_DENSE_TILES_H

#include "plugins/vnni/vnni_kernel.h"
#include "plugins/vnni/vnni_simd.h"

enum {
    DENSE_CHUNK = 32,                           /* columns of one tile */
    DENSE_TILE = 16 * 64,                       /* bytes of one tile */
    DENSE_X = VNNI_SPLIT_PARTS * DENSE_TILE     /* of one chunk of a block of tokens */
};

struct dense_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Tiles 0..2: sums of 16 tokens x 16 rows. 3, 4, 5: tokens x columns, the parts. 6, 7: columns x rows. */
static const struct dense_config dense_shape = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

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

/* Room: [chunk][parts][16 pairs][16 rows] pairs. */
INLINE void dense_unpack(uint32_t type, const uint8_t *panel, uint32_t cols, uint8_t *room)
{
    const size_t tiles = type == HAL_F16 ? 2 : 1;
    for (uint32_t c = 0; c < cols; c += DENSE_CHUNK, room += tiles * DENSE_TILE)
        for (uint32_t pair = 0; pair < 16; pair++)
            dense_unpack_pair(type, panel, c + 2 * pair, cols, room + 64 * (size_t)pair);
}

INLINE void dense_block(uint32_t type, const uint8_t *weights, const uint8_t *x, uint32_t chunks,
                        float sums[3][256])
{
    const size_t tiles = type == HAL_F16 ? 2 : 1;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (uint32_t k = 0; k < chunks; k++, x += DENSE_X, weights += tiles * DENSE_TILE) {
        _tile_loadd(3, x, 64);
        _tile_loadd(6, weights, 64);
        _tile_dpbf16ps(0, 3, 6);
        _tile_loadd(4, x + DENSE_TILE, 64);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(5, x + 2 * DENSE_TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        if (type == HAL_F16) {
            _tile_loadd(7, weights + DENSE_TILE, 64);
            _tile_dpbf16ps(1, 3, 7);
            _tile_dpbf16ps(2, 4, 7);
        }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
}

static void dense_put(const float sums[3][256], uint32_t token, uint32_t tokens, struct vnni_output out)
{
    for (uint32_t t = 0; t < tokens; t++) {
        const __m512 small = _mm512_add_ps(_mm512_loadu_ps(sums[1] + 16 * t), _mm512_loadu_ps(sums[2] + 16 * t));
        vf_store_part(out.y + (size_t)(token + t) * out.stride,
                      _mm512_add_ps(_mm512_loadu_ps(sums[0] + 16 * t), small), out.rows);
    }
}

void VNNI_KERNEL(dense_split)(uint32_t type, const uint8_t *panel, const float *x, const struct vnni_input *in,
                        uint8_t *room, struct vnni_output out)
{
    _Alignas(64) float sums[3][256];
    const uint32_t chunks = (in->cols + DENSE_CHUNK - 1) / DENSE_CHUNK;
    __asm__ volatile("ldtilecfg %0" : : "m"(dense_shape));
    if (type == HAL_F16)
        dense_unpack(HAL_F16, panel, in->cols, room);
    else
        dense_unpack(HAL_BF16, panel, in->cols, room);
    for (uint32_t token = 0; token < in->tokens; token += VNNI_BLOCK) {
        const uint32_t block = token / VNNI_BLOCK, left = in->tokens - token;
        const uint32_t tokens = left < VNNI_BLOCK ? left : VNNI_BLOCK;
        const uint8_t *parts = (const uint8_t *)in->q + (size_t)block * chunks * DENSE_X;
        if (in->info[block] == 0.0f) { /* differences of infinities are not numbers */
            VNNI_KERNEL(dense)(type, panel, x, in->cols, token, token + tokens, out);
            continue;
        }
        if (type == HAL_F16)
            dense_block(HAL_F16, room, parts, chunks, sums);
        else
            dense_block(HAL_BF16, room, parts, chunks, sums);
        dense_put(sums, token, tokens, out);
    }
    _tile_release();
}

#endif
