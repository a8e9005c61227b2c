/* split_test.c: encode and decode go to the side that is sooner, type by type, and to the other when what it
 * costs is otherwise; the bytes are the same whoever made them. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hal/block.h"
#include "hal/check_host.h"
#include "hal/fallback.h"
#include "hal/split.h"
#include "plugins/scalar/scalar.h"

enum { ROWS = 600, COLS = 1024, SLOW_MS = 25 };

/* Scalar that sleeps where it is slow, or says that it cannot, and counts its rows. */
struct fake {
    struct scalar_dev scalar; /* first: scalar's functions take it */
    uint64_t slow, cannot;    /* bit (1 << type) */
    uint32_t rows, calls, closed;
};

static void sleep_if(const struct fake *f, uint32_t type)
{
    if (f->slow >> type & 1u)
        nanosleep(&(struct timespec){0, SLOW_MS * 1000000L}, NULL);
}

static enum err encode(void *dev, uint32_t type, uint32_t method, const float *x, uint32_t rows, uint32_t cols,
                       const float *importance, void *out, size_t bytes)
{
    struct fake *f = dev;
    if (f->cannot >> type & 1u)
        return ERR_UNSUPPORTED;
    sleep_if(f, type);
    f->rows += rows;
    f->calls++;
    return scalar_encode(&f->scalar, type, method, x, rows, cols, importance, out, bytes);
}

static enum err decode(void *dev, uint32_t type, const void *in, size_t bytes, uint32_t rows, uint32_t cols, float *x)
{
    struct fake *f = dev;
    sleep_if(f, type);
    f->rows += rows;
    f->calls++;
    return scalar_decode(&f->scalar, type, in, bytes, rows, cols, x);
}

static void close_fake(void *dev)
{
    struct fake *f = dev;
    f->closed++;
}

static struct hal_plugin fake_plugin(void)
{
    struct hal_plugin p = scalar_plugin;
    p.encode = encode;
    p.decode = decode;
    p.close = close_fake;
    return p;
}

static float x[ROWS * COLS], back[ROWS * COLS];
static uint8_t out[ROWS * COLS * 2], wanted[ROWS * COLS * 2];

static size_t bytes_of(uint32_t type)
{
    return block_row_bytes(type, COLS) * ROWS;
}

static void make_fakes(struct fake fakes[2])
{
    memset(fakes, 0, 2 * sizeof *fakes);
    for (int i = 0; i < 2; i++)
        CU_ASSERT_EQUAL_FATAL(scalar_open_into(&check_host_plain, &fakes[i].scalar), ERR_NONE);
    for (int i = 0; i < ROWS * COLS; i++)
        x[i] = (float)(i % 8191 * 7919 % 1000) * 0.001f - 0.5f;
}

static void drop_fakes(struct fake fakes[2])
{
    for (int i = 0; i < 2; i++)
        scalar_close_from(&fakes[i].scalar);
}

/* Encode all rows; which side has done more of them. */
static int sooner(struct split *s, struct fake fakes[2], uint32_t type, void *to)
{
    fakes[0].rows = fakes[1].rows = 0;
    memset(to, 0x55, bytes_of(type));
    CU_ASSERT_EQUAL(split_encode(s, type, HAL_RTN, x, ROWS, COLS, NULL, to, bytes_of(type)), ERR_NONE);
    CU_ASSERT_EQUAL(fakes[0].rows + fakes[1].rows, ROWS);
    CU_ASSERT_EQUAL(scalar_encode(&fakes[0].scalar, type, HAL_RTN, x, ROWS, COLS, NULL, wanted, bytes_of(type)),
                    ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(to, wanted, bytes_of(type)), 0);
    return fakes[1].rows > fakes[0].rows;
}

static void goes_by_cost(void)
{
    static struct split s;
    static struct fake fakes[2];
    const struct hal_plugin p = fake_plugin();
    make_fakes(fakes);
    split_add(&s, &p, &fakes[0]);
    split_add(&s, &p, &fakes[1]);
    fakes[0].slow = 1u << HAL_Q8_0;
    fakes[1].slow = 1u << HAL_Q4_0;
    CU_ASSERT_EQUAL(sooner(&s, fakes, HAL_Q4_0, out), 0);
    CU_ASSERT(fakes[1].rows > 0); /* was tried */
    CU_ASSERT_EQUAL(sooner(&s, fakes, HAL_Q4_0, out), 0);
    CU_ASSERT_EQUAL(fakes[1].rows, 0); /* and is known now */
    CU_ASSERT_EQUAL(sooner(&s, fakes, HAL_Q8_0, out), 1);
    fakes[0].rows = fakes[1].rows = 0;
    CU_ASSERT_EQUAL(split_decode(&s, HAL_Q8_0, out, bytes_of(HAL_Q8_0), ROWS, COLS, back), ERR_NONE);
    CU_ASSERT(fakes[1].rows > fakes[0].rows); /* the other way has costs of its own */
    CU_ASSERT_EQUAL(scalar_decode(&fakes[0].scalar, HAL_Q8_0, out, bytes_of(HAL_Q8_0), ROWS, COLS, x), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(x, back, sizeof x), 0);
    drop_fakes(fakes);
}

/* A side that cannot leaves it to the other; what is wrong is refused by whoever is asked. */
static void goes_where_it_can(void)
{
    static struct split s;
    static struct fake fakes[2];
    const struct hal_plugin p = fake_plugin();
    make_fakes(fakes);
    split_add(&s, &p, &fakes[0]);
    split_add(&s, &p, &fakes[1]);
    fakes[0].cannot = fakes[1].slow = 1u << HAL_Q4_K;
    CU_ASSERT_EQUAL(sooner(&s, fakes, HAL_Q4_K, out), 1);
    CU_ASSERT_EQUAL(fakes[0].rows, 0);
    fakes[0].cannot = fakes[1].cannot = 1u << HAL_Q6_K;
    CU_ASSERT_EQUAL(split_encode(&s, HAL_Q6_K, HAL_RTN, x, ROWS, COLS, NULL, out, bytes_of(HAL_Q6_K)), ERR_UNSUPPORTED);
    CU_ASSERT_EQUAL(split_encode(&s, HAL_Q8_0, HAL_RTN, x, ROWS, COLS, NULL, out, 1), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(split_encode(&s, HAL_Q8_0, 9, x, ROWS, COLS, NULL, out, bytes_of(HAL_Q8_0)), ERR_ARGUMENT);
    drop_fakes(fakes);
}

/* An accelerator without encode gets a helper's, which is closed with it. */
static void helps_an_accelerator(void)
{
    static struct fake fakes[2];
    struct hal_plugin accelerator = fake_plugin(), helper = fake_plugin(), ops;
    void *dev = NULL;
    make_fakes(fakes);
    accelerator.encode = NULL;
    CU_ASSERT_EQUAL_FATAL(fallback_open(&accelerator, &fakes[0], &check_host_plain, &ops, &dev), ERR_NONE);
    CU_ASSERT_EQUAL(ops.encode(dev, HAL_Q4_0, HAL_RTN, x, ROWS, COLS, NULL, out, bytes_of(HAL_Q4_0)), ERR_NONE);
    CU_ASSERT_EQUAL(fakes[0].calls + fakes[1].calls, 0); /* scalar's */
    fallback_help(dev, &helper, &fakes[1]);
    CU_ASSERT_EQUAL(ops.encode(dev, HAL_Q4_0, HAL_RTN, x, ROWS, COLS, NULL, wanted, bytes_of(HAL_Q4_0)), ERR_NONE);
    CU_ASSERT_EQUAL(fakes[1].rows, ROWS);
    CU_ASSERT_EQUAL(memcmp(out, wanted, bytes_of(HAL_Q4_0)), 0);
    ops.close(dev);
    CU_ASSERT(fakes[0].closed == 1 && fakes[1].closed == 1);
    drop_fakes(fakes);
}

RUN_SUITE("hal/split", {"by cost", goes_by_cost}, {"where it can", goes_where_it_can},
          {"an accelerator's helper", helps_an_accelerator})
