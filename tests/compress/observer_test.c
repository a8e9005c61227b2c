#include "tests/harness.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "compress/observer.h"
#include "tests/compress/observer_fixture.h"

enum { VALUES = 20011, VECTORS = 20000, LONGEST = 48 };

static uint64_t seed;

static double uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 40) / (1 << 23) - 1.0;
}

/* As values() of observer_fixture.py. */
static void fill(uint32_t shape, float *x, uint32_t n)
{
    seed = 1;
    for (uint32_t i = 0; i < n; i++) {
        const double v = uniform();
        x[i] = (float)(shape == 1 ? v * v * v * v * v : shape == 2 ? v * v + 0.25 : v);
    }
}

static void as_numpy_says(void)
{
    float *x = malloc(VALUES * sizeof *x), *scratch = malloc(VALUES * sizeof *scratch);
    CU_ASSERT_TRUE_FATAL(x != NULL && scratch != NULL);
    uint32_t wrong = 0;
    for (size_t i = 0; i < sizeof fixture / sizeof *fixture; i++) {
        const struct observer_choice c = {.method = fixture[i].method,
                                          .percentile = fixture[i].percentile,
                                          .bits = fixture[i].bits,
                                          .is_symmetric = fixture[i].is_symmetric};
        const uint32_t n = fixture[i].n;
        struct observer_range r = {0, 0};
        fill(fixture[i].shape, x, n);
        if (fixture[i].is_stream) {
            struct observer *o = NULL;
            CU_ASSERT_EQUAL_FATAL(observer_open(n, 99, &o), ERR_NONE);
            for (uint32_t at = 0; at < n; at += 700)
                CU_ASSERT_EQUAL(observer_add(o, x + at, n - at < 700 ? n - at : 700), ERR_NONE);
            CU_ASSERT_EQUAL(observer_count(o), n);
            CU_ASSERT_EQUAL(observer_find(o, &c, &r), ERR_NONE);
            observer_close(o);
        } else {
            observer_values(&c, x, n, scratch, &r);
        }
        if (!(fabs(r.low - fixture[i].low) <= 1e-12) || !(fabs(r.high - fixture[i].high) <= 1e-12)) {
            fprintf(stderr, "row %zu: [%.17g, %.17g], expected [%.17g, %.17g]\n", i, r.low, r.high, fixture[i].low,
                    fixture[i].high);
            wrong++;
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
    free(x);
    free(scratch);
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* The stream's quantile is that of all values sorted, to the last bit, in whatever order they come. */
static void quantiles_are_exact(void)
{
    float x[LONGEST];
    uint32_t wrong = 0;
    seed = 7;
    for (uint32_t v = 0; v < VECTORS; v++) {
        const uint32_t n = 1 + v % LONGEST;
        const struct observer_choice c = {
            .method = OBSERVER_PERCENTILE, .percentile = 60 + v % 41, .bits = 8, .is_symmetric = true};
        struct observer *o = NULL;
        struct observer_range r = {0, 0};
        for (uint32_t i = 0; i < n; i++)
            x[i] = (float)uniform();
        /* more was announced than comes: what is kept must do */
        CU_ASSERT_EQUAL_FATAL(observer_open(n + v % 3, 60, &o), ERR_NONE);
        const enum err added = observer_add(o, x, n), found = observer_find(o, &c, &r);
        for (uint32_t i = 0; i < n; i++)
            x[i] = fabsf(x[i]);
        qsort(x, n, sizeof *x, ascending);
        wrong += added != ERR_NONE || found != ERR_NONE || r.high != observer_quantile(x, n, c.percentile / 100);
        observer_close(o);
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void refusals(void)
{
    struct observer *o = NULL;
    struct observer_range r;
    const float x[3] = {1, NAN, INFINITY};
    CU_ASSERT_EQUAL(observer_open(0, 99, &o), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(observer_open(10, 40, &o), ERR_ARGUMENT);
    CU_ASSERT_EQUAL_FATAL(observer_open(3, 99, &o), ERR_NONE);
    struct observer_choice c = {.method = OBSERVER_PERCENTILE, .percentile = 98, .bits = 8};
    CU_ASSERT_EQUAL(observer_find(o, &c, &r), ERR_ARGUMENT);
    c.percentile = 99;
    CU_ASSERT_EQUAL(observer_find(o, &c, &r), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(observer_add(o, x, 3), ERR_NONE);
    CU_ASSERT_EQUAL(observer_count(o), 1);
    CU_ASSERT_EQUAL(observer_add(o, x, 3), ERR_FULL);
    CU_ASSERT_EQUAL(observer_find(o, &c, &r), ERR_NONE);
    CU_ASSERT_EQUAL(r.high, 1.0);
    observer_close(o);
    CU_ASSERT_EQUAL(observer_method_parse("mse"), OBSERVER_MSE);
    CU_ASSERT_EQUAL(observer_method_parse("mes"), OBSERVER_METHODS);
}

RUN_SUITE("observer", {"as_numpy_says", as_numpy_says}, {"quantiles_are_exact", quantiles_are_exact},
          {"refusals", refusals})
