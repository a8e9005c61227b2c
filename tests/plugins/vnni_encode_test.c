/* Encoding and decoding: byte for byte what scalar does, on every path of this machine. */
#include "tests/harness.h"
#include "tests/plugins/vnni_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, COLS = 2304, KINDS = 9 };

/* Rows of different nature: what a kind does to element i of n. */
static float element(int kind, uint32_t i, uint32_t *state)
{
    const float u = vnni_fixture_uniform(state);
    switch (kind) {
    case 0: return u + vnni_fixture_uniform(state) + vnni_fixture_uniform(state);
    case 1: return i % 4 == 0 ? 8.0f : (float)(vnni_fixture_random(state) % 17) * 0.5f - 4.0f; /* ties */
    case 2: return i % 97 == 0 ? 300.0f * u : u * u * u; /* outliers */
    case 3: return u * 1e-30f;                            /* d rounds to the least half */
    case 4: return u * 1e6f;                              /* d saturates */
    case 5: return i / 256 % 2 == 0 ? 0.0f : fabsf(u);    /* empty blocks, one sign */
    case 6: return i % 50 == 7 ? NAN : i % 50 == 9 ? -INFINITY : u;
    case 7: return (float)(int32_t)(vnni_fixture_random(state) % 3) - 1.0f; /* equal peaks */
    default: return i % 2 == 0 ? -0.0f : u * 0.01f - 0.02f;
    }
}

static void fill(float *x, int kind, uint32_t seed)
{
    uint32_t state = seed;
    for (uint32_t i = 0; i < ROWS * COLS; i++)
        x[i] = element(kind, i, &state);
}

static int same(struct vnni_fixture *f, uint32_t type, uint32_t method, const float *x, uint32_t rows,
                uint32_t cols, const float *importance)
{
    const size_t bytes = block_row_bytes(type, cols) * rows;
    uint8_t *mine = calloc(1, bytes), *theirs = calloc(1, bytes);
    const int ok =
        mine != NULL && theirs != NULL &&
        f->plugin->encode(f->dev, type, method, x, rows, cols, importance, mine, bytes) ==
            ERR_NONE &&
        scalar_plugin.encode(f->reference, type, method, x, rows, cols, importance, theirs,
                             bytes) == ERR_NONE &&
        memcmp(mine, theirs, bytes) == 0;
    free(mine);
    free(theirs);
    return ok;
}

static void check_type(struct vnni_fixture *f, const char *path, const struct block_type *type,
                       float *x, const float *importance)
{
    for (int kind = 0; kind < KINDS; kind++) {
        fill(x, kind, 7u + (uint32_t)kind);
        for (uint32_t method = HAL_RTN; method <= HAL_SEARCH; method++) {
            for (int with = 0; with < 2; with++) {
                const float *weights = with ? importance : NULL;
                const int ok = same(f, type->type, method, x, ROWS, COLS, weights) &&
                               same(f, type->type, method, x + 5, 1, type->values, weights) &&
                               same(f, type->type, method, x + 3, 2, 3 * type->values, weights);
                CU_ASSERT(ok);
                if (!ok)
                    printf("%s %s kind %d method %u importance %d\n", path, type->name, kind,
                           method, with);
            }
        }
    }
}

static void every_type_and_method_has_the_bytes_of_scalar(void)
{
    static float x[ROWS * COLS], importance[COLS];
    uint32_t state = 3, count;
    for (uint32_t i = 0; i < COLS; i++)
        importance[i] = i / 512 == 1 ? 0.0f : fabsf(vnni_fixture_uniform(&state)) * 100.0f;
    const char *path;
    for (uint32_t p = 0; (path = vnni_fixture_path(p)) != NULL; p++) {
        struct vnni_fixture f;
        CU_ASSERT_FATAL(vnni_fixture_open(&f, path, 2));
        const struct block_type *const *types = block_types(&count);
        for (uint32_t t = 0; t < count; t++)
            check_type(&f, path, types[t], x, importance);
        vnni_fixture_close(&f);
    }
}

static void decoding_is_exact(void)
{
    static float mine[4 * 512], theirs[4 * 512];
    static uint8_t bytes[4 * 512 * 4];
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    struct vnni_fixture f;
    CU_ASSERT_FATAL(vnni_fixture_open(&f, NULL, 2));
    for (uint32_t t = 0; t < count; t++) {
        const size_t row = block_row_bytes(types[t]->type, 512);
        vnni_fixture_blocks(types[t]->type, bytes, row * 4, VNNI_PATTERN_NORMAL, t);
        CU_ASSERT(f.plugin->decode(f.dev, types[t]->type, bytes, row * 4, 4, 512, mine) == ERR_NONE);
        CU_ASSERT(scalar_plugin.decode(f.reference, types[t]->type, bytes, row * 4, 4, 512,
                                       theirs) == ERR_NONE);
        CU_ASSERT(memcmp(mine, theirs, sizeof mine) == 0);
        CU_ASSERT(f.plugin->decode(f.dev, types[t]->type, bytes, row * 4 - 1, 4, 512, mine) ==
                  ERR_ARGUMENT);
    }
    vnni_fixture_close(&f);
}

static void what_disagrees_is_refused(void)
{
    struct vnni_fixture f;
    float x[64] = {0};
    uint8_t out[64];
    CU_ASSERT_FATAL(vnni_fixture_open(&f, NULL, 1));
    CU_ASSERT(f.plugin->encode(f.dev, HAL_Q4_0, HAL_RTN, x, 1, 48, NULL, out, 27) == ERR_ARGUMENT);
    CU_ASSERT(f.plugin->encode(f.dev, HAL_Q4_0, HAL_RTN, x, 1, 64, NULL, out, 35) == ERR_ARGUMENT);
    CU_ASSERT(f.plugin->encode(f.dev, HAL_Q4_0, 2, x, 1, 64, NULL, out, 36) == ERR_ARGUMENT);
    CU_ASSERT(f.plugin->encode(f.dev, 99, HAL_RTN, x, 1, 64, NULL, out, 36) == ERR_ARGUMENT);
    vnni_fixture_close(&f);
}

int main(void)
{
    if (vnni_fixture_path(0) == NULL) {
        printf("skipped: this processor has no AVX2\n");
        return HARNESS_SKIPPED;
    }
    CU_TestInfo tests[] = {
        {"every type and method has the bytes of scalar",
         every_type_and_method_has_the_bytes_of_scalar},
        {"decoding is exact", decoding_is_exact},
        {"what disagrees is refused", what_disagrees_is_refused},
        CU_TEST_INFO_NULL};
    return harness_run("vnni_encode", tests);
}
