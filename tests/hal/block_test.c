/* block_test.c: block formats against blocks decoded by another implementation (make_blocks.py). */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/half.h"

static uint64_t fnv(const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

static int check_format(FILE *file)
{
    uint32_t head[4];
    uint8_t blocks[16][BLOCK_BYTES_MAX];
    uint64_t hash[16];
    float first[BLOCK_VALUES_MAX], out[BLOCK_VALUES_MAX];
    if (fread(head, sizeof head, 1, file) != 1 || head[1] > BLOCK_BYTES_MAX ||
        head[2] > BLOCK_VALUES_MAX || head[3] != 16)
        return -1;
    for (int i = 0; i < 16; i++)
        if (fread(blocks[i], head[1], 1, file) != 1)
            return -1;
    if (fread(hash, sizeof hash, 1, file) != 1 ||
        fread(first, sizeof(float), head[2], file) != head[2])
        return -1;
    const struct block_type *t = block_type(head[0]);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_EQUAL(t->bytes, head[1]);
    CU_ASSERT_EQUAL(t->values, head[2]);
    for (int i = 0; i < 16; i++) {
        CU_ASSERT_EQUAL(block_decode_row(t->type, blocks[i], t->values, out), ERR_NONE);
        if (i == 0)
            for (uint32_t j = 0; j < t->values; j++)
                if (memcmp(&out[j], &first[j], 4) != 0) {
                    printf("%s element %u: got %a wanted %a\n", t->name, j, (double)out[j],
                           (double)first[j]);
                    break;
                }
        CU_ASSERT_EQUAL(fnv(out, t->values * sizeof(float)), hash[i]);
    }
    return 0;
}

static void test_independent(void)
{
    FILE *file = fopen(SOURCE_DIR "/tests/hal/blocks.bin", "rb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    uint32_t formats = 0;
    CU_ASSERT_EQUAL(fread(&formats, sizeof formats, 1, file), 1);
    CU_ASSERT_EQUAL(formats, 12);
    for (uint32_t i = 0; i < formats; i++)
        CU_ASSERT_EQUAL_FATAL(check_format(file), 0);
    fclose(file);
}

static void fill_random(uint8_t *p, size_t bytes, uint32_t *state)
{
    for (size_t i = 0; i < bytes; i++) {
        *state = *state * 1664525u + 1013904223u;
        p[i] = (uint8_t)(*state >> 24);
    }
}

/* pack(unpack(b)) == b for any bytes, and the parts say what decode says. */
static void test_pack_unpack(void)
{
    uint32_t count, state = 7;
    const struct block_type *const *types = block_types(&count);
    for (uint32_t k = 0; k < count; k++) {
        const struct block_type *t = types[k];
        struct block_codes codes;
        uint8_t block[BLOCK_BYTES_MAX], again[BLOCK_BYTES_MAX];
        if (t->codes == 0) {
            CU_ASSERT_EQUAL(block_unpack(t->type, block, &codes), ERR_ARGUMENT);
            continue;
        }
        int wrong = 0;
        for (int round = 0; round < 200; round++) {
            float out[BLOCK_VALUES_MAX];
            struct block_scales scales;
            fill_random(block, t->bytes, &state);
            CU_ASSERT_EQUAL(block_unpack(t->type, block, &codes), ERR_NONE);
            memset(again, 0xd0, sizeof again);
            CU_ASSERT_EQUAL(block_pack(t->type, &codes, again), ERR_NONE);
            wrong += memcmp(block, again, t->bytes) != 0;
            CU_ASSERT_EQUAL(block_decode_row(t->type, block, t->values, out), ERR_NONE);
            for (uint32_t i = 0; i < t->values; i++) {
                const uint32_t g = i / t->group;
                const float v =
                    codes.scale[g] * block_level(t->type, codes.code[i]) - codes.minimum[g];
                wrong += codes.code[i] >= t->codes;
                wrong += v != out[i] && !(isnan(v) && isnan(out[i]));
            }
            memset(again, 0xd0, sizeof again);
            CU_ASSERT_EQUAL(block_get_scales(t->type, block, &scales), ERR_NONE);
            CU_ASSERT_EQUAL(block_put_scales(t->type, &scales, again), ERR_NONE);
            CU_ASSERT_EQUAL(block_put_codes(t->type, codes.code, again), ERR_NONE);
            wrong += memcmp(block, again, t->bytes) != 0;
        }
        CU_ASSERT_EQUAL(wrong, 0);
    }
}

static void test_table_of_types(void)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    double before = 0;
    CU_ASSERT_EQUAL(count, 16);
    for (uint32_t i = 0; i < count; i++) {
        const struct block_type *t = types[i];
        const double bits = 8.0 * t->bytes / t->values;
        CU_ASSERT_TRUE(bits >= before);
        before = bits;
        CU_ASSERT_PTR_EQUAL(block_type(t->type), t);
        CU_ASSERT_PTR_EQUAL(block_type_by_name(t->name), t);
        CU_ASSERT_EQUAL(block_row_bytes(t->type, 256), 256u / t->values * t->bytes);
    }
    CU_ASSERT_PTR_NULL(block_type(4));
    CU_ASSERT_PTR_NULL(block_type_by_name("Q4_7"));
    CU_ASSERT_PTR_EQUAL(block_type_by_name("q4_k"), block_type(HAL_Q4_K));
    CU_ASSERT_EQUAL(block_row_bytes(HAL_Q4_K, 128), 0);
    CU_ASSERT_EQUAL(block_row_bytes(99, 256), 0);
    float out[256];
    const uint8_t zeros[BLOCK_BYTES_MAX] = {0};
    CU_ASSERT_EQUAL(block_decode_row(HAL_Q4_0, zeros, 33, out), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(block_decode_row(5, zeros, 32, out), ERR_ARGUMENT);
}

/* NF4 has no stock decoder: the layout of block.h by hand. */
static void test_nf4(void)
{
    uint8_t block[136] = {0};
    const uint16_t d = half_f32_to_f16(0.25f), m = half_f32_to_f16(2.0f);
    float out[256];
    memcpy(block, &d, 2);
    memcpy(block + 2, &m, 2);
    block[4] = 4;                 /* group 0: 2 + 0.25 * 4 = 3 */
    block[5] = (uint8_t)-4;       /* group 1: 1 */
    block[8] = 0x0f;              /* element 0: 127, element 16: -127 */
    block[8 + 16 * 2 + 3] = 0x18; /* element 64 + 3: 10, element 64 + 19: -88 */
    CU_ASSERT_EQUAL(block_decode_row(HAL_NF4, block, 256, out), ERR_NONE);
    CU_ASSERT_EQUAL(out[0], 3.0f * 127.0f);
    CU_ASSERT_EQUAL(out[16], 3.0f * -127.0f);
    CU_ASSERT_EQUAL(out[67], 10.0f);
    CU_ASSERT_EQUAL(out[83], -88.0f);
    CU_ASSERT_EQUAL(out[255], 2.0f * -127.0f);
}

RUN_SUITE("block", {"independent decoder", test_independent}, {"pack, unpack", test_pack_unpack},
          {"table of types", test_table_of_types}, {"NF4", test_nf4})
