#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/ranges.h"
#include "hal/hal.h"
#include "model/gguf.h"

enum { VALUES = 4000 };

static float x[VALUES];
static char path[] = "/tmp/tare-ranges-XXXXXX";

static void fill(float scale)
{
    uint64_t seed = 5;
    for (int i = 0; i < VALUES; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const float v = (float)(seed >> 40) / (1 << 23) - 1.0f;
        x[i] = v * v * v * scale;
    }
}

/* Whatever the pieces, each limit is that of all values; and it comes back from a file. */
static void limits_return(void)
{
    struct ranges *a = NULL, *b = NULL;
    struct fault f = {""};
    struct observer *o = NULL;
    struct observer_range r;
    const struct observer_choice percentile = {
        .method = OBSERVER_PERCENTILE, .percentile = 99, .bits = 8, .is_symmetric = true};
    const int fd = mkstemp(path);
    CU_ASSERT_TRUE_FATAL(fd >= 0);
    close(fd);
    CU_ASSERT_EQUAL_FATAL(ranges_open(99, &a), ERR_NONE);
    fill(2);
    for (int at = 0; at < VALUES; at += 500)
        CU_ASSERT_EQUAL(ranges_add(a, "blk.1.b", VALUES, x + at, 500), ERR_NONE);
    CU_ASSERT_EQUAL(ranges_add(a, "blk.1.b", VALUES, x, 1), ERR_FULL);
    fill(8);
    CU_ASSERT_EQUAL(ranges_add(a, "blk.0.a", VALUES, x, VALUES), ERR_NONE);
    CU_ASSERT_EQUAL(ranges_save(a, path, &f), ERR_ARGUMENT); /* not finished */
    CU_ASSERT_EQUAL_FATAL(ranges_finish(a), ERR_NONE);
    CU_ASSERT_EQUAL(ranges_add(a, "blk.0.a", VALUES, x, 1), ERR_ARGUMENT);
    CU_ASSERT_EQUAL_FATAL(observer_open(VALUES, 99, &o), ERR_NONE);
    CU_ASSERT_EQUAL(observer_add(o, x, VALUES), ERR_NONE);
    CU_ASSERT_EQUAL(observer_find(o, &percentile, &r), ERR_NONE);
    CU_ASSERT_EQUAL(ranges_limit(a, "blk.0.a", OBSERVER_PERCENTILE, 8), (float)r.high);
    observer_close(o);
    CU_ASSERT_EQUAL_FATAL(ranges_save(a, path, &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(ranges_load(path, &b, &f), ERR_NONE);
    CU_ASSERT_EQUAL(b->entries, 2);
    CU_ASSERT_STRING_EQUAL(b->entry[0].name, "blk.0.a");
    for (uint32_t m = 0; m < OBSERVER_METHODS; m++)
        for (uint32_t bits = 4; bits <= 8; bits += 4) {
            const float limit = ranges_limit(b, "blk.1.b", m, bits);
            CU_ASSERT_TRUE(limit > 0 && limit <= ranges_limit(b, "blk.1.b", OBSERVER_MINMAX, 8));
            CU_ASSERT_EQUAL(limit, ranges_limit(a, "blk.1.b", m, bits));
            CU_ASSERT_DOUBLE_EQUAL(4 * (double)limit, (double)ranges_limit(b, "blk.0.a", m, bits), 1e-5);
        }
    CU_ASSERT_TRUE(ranges_limit(b, "blk.1.b", OBSERVER_MSE, 4) < ranges_limit(b, "blk.1.b", OBSERVER_MSE, 8));
    CU_ASSERT_EQUAL(ranges_limit(b, "blk.2.c", OBSERVER_MSE, 8), 0);
    ranges_close(a);
    ranges_close(b);
}

static void write_file(const char *type, const char *name, float value)
{
    struct gguf_writer *w = NULL;
    const uint64_t shape[] = {RANGES_VALUES};
    float values[RANGES_VALUES];
    for (int i = 0; i < RANGES_VALUES; i++)
        values[i] = value;
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(path, GGUF_ALIGNMENT_DEFAULT, &w), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_string(w, "general.type", type, strlen(type)), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_f32(w, "tare.ranges.percentile", 99), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_tensor(w, name, HAL_F32, 1, shape), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_append(w, values, sizeof values), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
}

static void refusals(void)
{
    struct ranges *r = NULL;
    struct fault f = {""};
    write_file("ranges", "a.in_range", 0);
    CU_ASSERT_EQUAL(ranges_load(path, &r, &f), ERR_NONE);
    ranges_close(r);
    write_file("imatrix", "a.in_range", 0);
    CU_ASSERT_EQUAL(ranges_load(path, &r, &f), ERR_FORMAT);
    write_file("ranges", "a.in_rage", 0);
    CU_ASSERT_EQUAL(ranges_load(path, &r, &f), ERR_FORMAT);
    write_file("ranges", "a.in_range", 1); /* a lower end above 0 */
    CU_ASSERT_EQUAL(ranges_load(path, &r, &f), ERR_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "include 0"));
    unlink(path);
    CU_ASSERT_NOT_EQUAL(ranges_load(path, &r, &f), ERR_NONE);
    CU_ASSERT_EQUAL(ranges_open(80, &r), ERR_ARGUMENT);
}

RUN_SUITE("ranges", {"limits_return", limits_return}, {"refusals", refusals})
