/* sketch_test.c tests protocol/sketch.c. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/sketch.h"

static uint64_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 24;
}

static void buckets_cover_everything(void)
{
    CU_ASSERT_EQUAL(sketch_bucket_start(0), 0);
    for (uint32_t b = 0; b + 1 < SKETCH_BUCKETS; b++) {
        uint64_t start = sketch_bucket_start(b), next = sketch_bucket_start(b + 1);
        CU_ASSERT_TRUE(next > start);
        CU_ASSERT_EQUAL(sketch_bucket(start), b);
        CU_ASSERT_EQUAL(sketch_bucket(next - 1), b);
        /* at most 1/8 wide: the middle is within 1/16 */
        CU_ASSERT_TRUE(next - start == 1 || (next - start) * 8 <= start);
    }
    CU_ASSERT_EQUAL(sketch_bucket(UINT64_MAX), SKETCH_BUCKETS - 1);
    CU_ASSERT_EQUAL(sketch_bucket_start(SKETCH_BUCKETS), UINT64_C(1) << 40);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void quantiles_are_near(void)
{
    enum { VALUES = 10000 };
    static uint64_t value[VALUES];
    struct sketch s;
    uint64_t state = 3;
    sketch_clear(&s);
    CU_ASSERT_EQUAL(sketch_quantile(&s, 0.5), 0);
    for (int i = 0; i < VALUES; i++) {
        value[i] = draw(&state) >> (draw(&state) % 30);
        sketch_add(&s, value[i]);
    }
    qsort(value, VALUES, sizeof value[0], compare);
    for (int k = 0; k <= 100; k++) {
        double q = k / 100.0;
        uint64_t exact = value[k == 100 ? VALUES - 1 : (int)(q * VALUES)];
        double got = (double)sketch_quantile(&s, q), want = (double)exact;
        CU_ASSERT_TRUE(got >= want * 0.9375 - 1 && got <= want * 1.0625 + 1);
    }
    CU_ASSERT_EQUAL(sketch_quantile(&s, 0), value[0]);
    CU_ASSERT_EQUAL(sketch_quantile(&s, 1), value[VALUES - 1]);
}

static void merges_exactly(void)
{
    struct sketch all, part[3], ab, ba;
    uint64_t state = 9;
    sketch_clear(&all);
    for (int i = 0; i < 3; i++)
        sketch_clear(&part[i]);
    for (int i = 0; i < 3000; i++) {
        uint64_t v = draw(&state) & 0xfffff;
        sketch_add(&all, v);
        sketch_add(&part[i % 3], v);
    }
    sketch_clear(&ab);
    sketch_clear(&ba);
    for (int i = 0; i < 3; i++) {
        sketch_merge(&ab, &part[i]);
        sketch_merge(&ba, &part[2 - i]);
    }
    CU_ASSERT_EQUAL(memcmp(&ab, &all, sizeof all), 0);
    CU_ASSERT_EQUAL(memcmp(&ba, &all, sizeof all), 0);
    struct sketch empty;
    sketch_clear(&empty);
    sketch_merge(&ab, &empty);
    CU_ASSERT_EQUAL(memcmp(&ab, &all, sizeof all), 0);
    sketch_clear(&ab);
    sketch_add(&ab, UINT64_MAX);
    sketch_add(&ab, UINT64_MAX);
    CU_ASSERT_EQUAL(ab.sum, UINT64_MAX);
    CU_ASSERT_EQUAL(sketch_quantile(&ab, 0.5), UINT64_MAX);
}

RUN_SUITE("sketch", {"buckets_cover_everything", buckets_cover_everything},
          {"quantiles_are_near", quantiles_are_near}, {"merges_exactly", merges_exactly})
