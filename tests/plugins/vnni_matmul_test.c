/* Weights: stored, given back, embedded and multiplied, against scalar, on every path of this
 * machine. */
#include "tests/harness.h"
#include "tests/plugins/vnni_fixture.h"

#include <stdlib.h>
#include <string.h>

static const uint32_t types[] = {HAL_F32,  HAL_F16,  HAL_BF16, HAL_Q4_0,   HAL_Q4_1,
                                 HAL_Q5_0, HAL_Q5_1, HAL_Q8_0, HAL_Q2_K,   HAL_Q3_K,
                                 HAL_Q4_K, HAL_Q5_K, HAL_Q6_K, HAL_IQ4_NL, HAL_IQ4_XS,
                                 HAL_NF4};
static const uint32_t row_counts[] = {1, 15, 16, 17, 31, 33, 80};
static const uint32_t token_counts[] = {1, 2, 5, 9, 17, 48};

enum { TYPES = sizeof types / sizeof *types, TOLERANCE_E7 = 200 };

/* Weights of one type and shape on both sides. */
static int make_weights(struct vnni_fixture *f, uint32_t type, uint32_t rows, uint32_t cols,
                        enum vnni_pattern pattern, uint32_t seed, struct vnni_pair *out)
{
    const size_t bytes = block_row_bytes(type, cols) * rows;
    uint8_t *blocks = malloc(bytes);
    if (blocks == NULL || !vnni_fixture_new(f, type, HAL_WEIGHT, rows, cols, out))
        return 0;
    vnni_fixture_blocks(type, blocks, bytes, pattern, seed);
    const int ok = vnni_fixture_put(f, out, blocks, bytes);
    free(blocks);
    return ok;
}

static int make_input(struct vnni_fixture *f, uint32_t rows, uint32_t cols,
                      enum vnni_pattern pattern, uint32_t seed, struct vnni_pair *out)
{
    const size_t bytes = (size_t)rows * cols * sizeof(float);
    float *x = malloc(bytes);
    if (x == NULL || !vnni_fixture_new(f, HAL_F32, HAL_ACTIVATION, rows, cols, out))
        return 0;
    vnni_fixture_fill(x, (size_t)rows * cols, pattern, seed);
    const int ok = vnni_fixture_put(f, out, x, bytes);
    free(x);
    return ok;
}

static double multiply_case(struct vnni_fixture *f, uint32_t type, uint32_t rows, uint32_t cols,
                            uint32_t tokens, enum vnni_pattern pattern)
{
    struct vnni_pair w, x, y;
    const uint32_t seed = type * 1000 + rows * 10 + tokens;
    const enum vnni_pattern weights = seed % 3 == 0 ? VNNI_PATTERN_NORMAL : pattern;
    if (!make_weights(f, type, rows, cols, weights, seed, &w) ||
        !make_input(f, tokens, cols, pattern, seed + 1, &x) ||
        !vnni_fixture_new(f, HAL_F32, HAL_ACTIVATION, tokens, rows, &y))
        return 1e9;
    const struct hal_mat *mine_y = &y.mine, *mine_w = &w.mine;
    const struct hal_mat *their_y = &y.theirs, *their_w = &w.theirs;
    double difference = 1e9;
    if (f->plugin->matmul(f->dev, &mine_y, &x.mine, &mine_w, 1) == ERR_NONE &&
        scalar_plugin.matmul(f->reference, &their_y, &x.theirs, &their_w, 1) == ERR_NONE)
        difference = vnni_fixture_difference(f, &y);
    vnni_fixture_free(f, &y);
    vnni_fixture_free(f, &x);
    vnni_fixture_free(f, &w);
    return difference;
}

static void check_type(struct vnni_fixture *f, const char *path, uint32_t type)
{
    const struct block_type *block = block_type(type);
    const uint32_t widths[] = {block->values == 256 ? 256 : 32, block->values == 256 ? 768 : 96,
                               block->values == 1 ? 77 : 512};
    for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++) {
        for (size_t n = 0; n < sizeof token_counts / sizeof *token_counts; n++) {
            for (int p = 0; p < VNNI_PATTERNS; p++) {
                const uint32_t cols = widths[(r + n + (size_t)p) % 3];
                const double d = multiply_case(f, type, row_counts[r], cols, token_counts[n],
                                               (enum vnni_pattern)p);
                CU_ASSERT(d <= TOLERANCE_E7 * 1e-7);
                if (!(d <= TOLERANCE_E7 * 1e-7))
                    printf("%s %s rows %u cols %u tokens %u pattern %d: %g\n", path, block->name,
                           row_counts[r], cols, token_counts[n], p, d);
            }
        }
    }
}

static void every_type_shape_pattern_path(void)
{
    const char *path;
    for (uint32_t i = 0; (path = vnni_fixture_path(i)) != NULL; i++) {
        struct vnni_fixture f;
        CU_ASSERT_FATAL(vnni_fixture_open(&f, path, 2));
        for (int t = 0; t < TYPES; t++)
            check_type(&f, path, types[t]);
        vnni_fixture_close(&f);
        CU_ASSERT(vnni_fixture_bytes() == 0);
    }
}

/* Is the row of each of some tokens the same alone as among 21? Prefixes are reused on that promise. */
static int is_same_alone(struct vnni_fixture *f, uint32_t type)
{
    enum { TOKENS = 21, ROWS = 40, COLS = 1536 };
    struct vnni_pair w, x, y, alone;
    if (!make_weights(f, type, ROWS, COLS, VNNI_PATTERN_NORMAL, type, &w) ||
        !make_input(f, TOKENS, COLS, VNNI_PATTERN_NORMAL, type + 1, &x) ||
        !vnni_fixture_new(f, HAL_F32, HAL_ACTIVATION, TOKENS, ROWS, &y) ||
        !vnni_fixture_new(f, HAL_F32, HAL_ACTIVATION, 1, ROWS, &alone))
        return 0;
    const struct hal_mat *many = &y.mine, *one = &alone.mine, *weights = &w.mine;
    int same = f->plugin->matmul(f->dev, &many, &x.mine, &weights, 1) == ERR_NONE;
    for (uint32_t t = 0; t < TOKENS; t += 4) {
        struct hal_mat row = x.mine;
        row.mem = (float *)x.mine.mem + (size_t)t * COLS;
        row.rows = 1;
        same &= f->plugin->matmul(f->dev, &one, &row, &weights, 1) == ERR_NONE &&
                memcmp(alone.mine.mem, (float *)y.mine.mem + (size_t)t * ROWS, ROWS * sizeof(float)) == 0;
    }
    vnni_fixture_free(f, &alone);
    vnni_fixture_free(f, &y);
    vnni_fixture_free(f, &x);
    vnni_fixture_free(f, &w);
    return same;
}

static void a_token_is_the_same_alone_and_in_a_batch(void)
{
    const char *path;
    for (uint32_t p = 0; (path = vnni_fixture_path(p)) != NULL; p++) {
        struct vnni_fixture f;
        CU_ASSERT_FATAL(vnni_fixture_open(&f, path, 2));
        for (uint32_t i = 0; i < TYPES; i++) {
            if (types[i] == HAL_F32 || types[i] == HAL_F16 || types[i] == HAL_BF16 ||
                types[i] == HAL_Q2_K || types[i] == HAL_Q3_K)
                continue; /* not promised */
            if (!is_same_alone(&f, types[i]))
                printf("%s, type %u: differs\n", path, types[i]);
            CU_ASSERT(is_same_alone(&f, types[i]));
        }
        vnni_fixture_close(&f);
    }
}

static void several_weights_share_one_input(void)
{
    struct vnni_fixture f;
    struct vnni_pair w[TYPES], y[TYPES], x;
    const struct hal_mat *my_w[TYPES], *my_y[TYPES], *their_w[TYPES], *their_y[TYPES];
    CU_ASSERT_FATAL(vnni_fixture_open(&f, NULL, 3));
    CU_ASSERT_FATAL(make_input(&f, 7, 512, VNNI_PATTERN_NORMAL, 5, &x));
    for (uint32_t i = 0; i < TYPES; i++) {
        CU_ASSERT_FATAL(make_weights(&f, types[i], 20 + i, 512, VNNI_PATTERN_NORMAL, i, &w[i]));
        CU_ASSERT_FATAL(vnni_fixture_new(&f, HAL_F32, HAL_ACTIVATION, 7, 20 + i, &y[i]));
        my_w[i] = &w[i].mine, my_y[i] = &y[i].mine;
        their_w[i] = &w[i].theirs, their_y[i] = &y[i].theirs;
    }
    CU_ASSERT(f.plugin->matmul(f.dev, my_y, &x.mine, my_w, TYPES) == ERR_NONE);
    CU_ASSERT(scalar_plugin.matmul(f.reference, their_y, &x.theirs, their_w, TYPES) == ERR_NONE);
    for (uint32_t i = 0; i < TYPES; i++) {
        CU_ASSERT(vnni_fixture_difference(&f, &y[i]) <= TOLERANCE_E7 * 1e-7);
        vnni_fixture_free(&f, &w[i]);
        vnni_fixture_free(&f, &y[i]);
    }
    vnni_fixture_free(&f, &x);
    vnni_fixture_close(&f);
}

static void weights_come_back_as_they_were_put(void)
{
    struct vnni_fixture f;
    CU_ASSERT_FATAL(vnni_fixture_open(&f, NULL, 2));
    for (int t = 0; t < TYPES; t++) {
        const size_t row_bytes = block_row_bytes(types[t], 768);
        uint8_t *blocks = malloc(row_bytes * 40), *back = malloc(row_bytes * 40);
        struct hal_mat w = {NULL, types[t], HAL_WEIGHT, 40, 768};
        vnni_fixture_blocks(types[t], blocks, row_bytes * 40, VNNI_PATTERN_NORMAL, 9);
        CU_ASSERT_FATAL(f.plugin->mat_new(f.dev, &w) == ERR_NONE);
        static const uint32_t cuts[] = {0, 3, 16, 21,
                                        40}; /* pieces that begin and end within panels */
        for (int c = 0; c < 4; c++)
            CU_ASSERT(f.plugin->mat_put(f.dev, &w, cuts[c], cuts[c + 1] - cuts[c],
                                        blocks + cuts[c] * row_bytes,
                                        (cuts[c + 1] - cuts[c]) * row_bytes) == ERR_NONE);
        CU_ASSERT(f.plugin->mat_get(f.dev, &w, 0, 40, back, row_bytes * 40) == ERR_NONE);
        CU_ASSERT(memcmp(blocks, back, row_bytes * 40) == 0);
        CU_ASSERT(f.plugin->mat_put(f.dev, &w, 39, 2, blocks, row_bytes * 2) == ERR_ARGUMENT);
        CU_ASSERT(f.plugin->mat_put(f.dev, &w, 0, 1, blocks, row_bytes - 1) == ERR_ARGUMENT);
        f.plugin->mat_free(f.dev, &w);
        free(blocks);
        free(back);
    }
    vnni_fixture_close(&f);
    CU_ASSERT(vnni_fixture_bytes() == 0);
}

static void rows_are_embedded_exactly(void)
{
    struct vnni_fixture f;
    static const uint32_t rows[] = {32, 0, 15, 16, 32};
    CU_ASSERT_FATAL(vnni_fixture_open(&f, NULL, 1));
    for (int t = 0; t < TYPES; t++) {
        struct vnni_pair w, y;
        CU_ASSERT_FATAL(make_weights(&f, types[t], 33, 512, VNNI_PATTERN_NORMAL, 3, &w));
        CU_ASSERT_FATAL(vnni_fixture_new(&f, HAL_F32, HAL_ACTIVATION, 5, 512, &y));
        CU_ASSERT(f.plugin->embed(f.dev, &y.mine, &w.mine, rows) == ERR_NONE);
        CU_ASSERT(scalar_plugin.embed(f.reference, &y.theirs, &w.theirs, rows) == ERR_NONE);
        CU_ASSERT(vnni_fixture_equal(&f, &y, 5 * 512 * sizeof(float)));
        const uint32_t beyond[] = {0, 0, 0, 0, 33};
        CU_ASSERT(f.plugin->embed(f.dev, &y.mine, &w.mine, beyond) == ERR_ARGUMENT);
        vnni_fixture_free(&f, &y);
        vnni_fixture_free(&f, &w);
    }
    vnni_fixture_close(&f);
}

static void a_refused_allocation_leaks_nothing(void)
{
    struct vnni_fixture f;
    for (uint32_t n = 1; n < 12; n++) {
        struct vnni_pair w = {0};
        vnni_fixture_fail(n);
        const int is_open = vnni_fixture_open(&f, NULL, 2);
        if (is_open && f.dev != NULL) {
            w.mine = (struct hal_mat){NULL, HAL_Q4_K, HAL_WEIGHT, 40, 512};
            const enum err e = f.plugin->mat_new(f.dev, &w.mine);
            CU_ASSERT(e == ERR_NONE || e == ERR_MEMORY);
            f.plugin->mat_free(f.dev, &w.mine);
        }
        vnni_fixture_fail(0);
        vnni_fixture_close(&f);
        CU_ASSERT(vnni_fixture_bytes() == 0);
    }
}

static void what_disagrees_is_refused(void)
{
    struct vnni_fixture f;
    struct vnni_pair w, x, y;
    CU_ASSERT_FATAL(vnni_fixture_open(&f, NULL, 1));
    CU_ASSERT_FATAL(make_weights(&f, HAL_Q8_0, 32, 64, VNNI_PATTERN_NORMAL, 1, &w));
    CU_ASSERT_FATAL(make_input(&f, 3, 96, VNNI_PATTERN_NORMAL, 1, &x));
    CU_ASSERT_FATAL(vnni_fixture_new(&f, HAL_F32, HAL_ACTIVATION, 3, 32, &y));
    const struct hal_mat *my_y = &y.mine, *my_w = &w.mine;
    CU_ASSERT(f.plugin->matmul(f.dev, &my_y, &x.mine, &my_w, 1) == ERR_ARGUMENT);
    struct hal_mat ragged = {NULL, HAL_Q4_K, HAL_WEIGHT, 32, 96};
    CU_ASSERT(f.plugin->mat_new(f.dev, &ragged) == ERR_ARGUMENT);
    vnni_fixture_free(&f, &y);
    vnni_fixture_free(&f, &x);
    vnni_fixture_free(&f, &w);
    f.plugin->close(NULL);
    vnni_fixture_close(&f);
}

static void threads_rest_and_come_back(void)
{
    struct vnni_fixture f;
    struct vnni_pair w, x, y;
    uint32_t bad = 0, random = 7;
    CU_ASSERT_FATAL(vnni_fixture_open(&f, NULL, 4));
    CU_ASSERT_FATAL(make_weights(&f, HAL_Q8_0, 256, 256, VNNI_PATTERN_NORMAL, 1, &w));
    CU_ASSERT_FATAL(make_input(&f, 3, 256, VNNI_PATTERN_NORMAL, 1, &x));
    CU_ASSERT_FATAL(vnni_fixture_new(&f, HAL_F32, HAL_ACTIVATION, 3, 256, &y));
    const struct hal_mat *my_y = &y.mine, *my_w = &w.mine, *their_y = &y.theirs, *their_w = &w.theirs;
    CU_ASSERT(scalar_plugin.matmul(f.reference, &their_y, &x.theirs, &their_w, 1) == ERR_NONE);
    for (uint32_t i = 0; i < 2000; i++) {
        bad += f.plugin->limit_threads(f.dev, 1 + vnni_fixture_random(&random) % 4) != ERR_NONE;
        bad += f.plugin->matmul(f.dev, &my_y, &x.mine, &my_w, 1) != ERR_NONE;
        bad += !(vnni_fixture_difference(&f, &y) < 2e-5);
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT(f.plugin->limit_threads(f.dev, 0) == ERR_ARGUMENT);
    CU_ASSERT(f.plugin->limit_threads(f.dev, 5) == ERR_ARGUMENT);
    vnni_fixture_free(&f, &y);
    vnni_fixture_free(&f, &x);
    vnni_fixture_free(&f, &w);
    vnni_fixture_close(&f);
}

int main(void)
{
    if (vnni_fixture_path(0) == NULL) {
        printf("skipped: this processor has no AVX2\n");
        return HARNESS_SKIPPED;
    }
    CU_TestInfo tests[] = {
        {"every type, shape, pattern and path", every_type_shape_pattern_path},
        {"a token is the same alone and in a batch", a_token_is_the_same_alone_and_in_a_batch},
        {"several weights share one input", several_weights_share_one_input},
        {"weights come back as they were put", weights_come_back_as_they_were_put},
        {"rows are embedded exactly", rows_are_embedded_exactly},
        {"a refused allocation leaks nothing", a_refused_allocation_leaks_nothing},
        {"threads rest and come back", threads_rest_and_come_back},
        {"what disagrees is refused", what_disagrees_is_refused},
        CU_TEST_INFO_NULL};
    return harness_run("vnni_matmul", tests);
}
