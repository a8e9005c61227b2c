/* vnni_fixture.h: scalar and vnni side by side, on memory whose end is guarded. */
#ifndef VNNI_FIXTURE_H
#define VNNI_FIXTURE_H

#include "hal/block.h"
#include "hal/half.h"
#include "plugins/scalar/scalar.h"

/* The entry of the plugin, linked into the test. */
HAL_C hal_entry_fn hal_plugin_entry;

/* Two opened plugins; every matrix is made on both. */
struct vnni_fixture {
    const struct hal_plugin *plugin;
    void *dev;
    void *reference;
};

/* A matrix on both sides. */
struct vnni_pair {
    struct hal_mat mine;
    struct hal_mat theirs;
};

/* The paths of this machine, one after the other; NULL after the last. */
const char *vnni_fixture_path(uint32_t index);

/* 1 when opened. threads for vnni; scalar has one. */
int vnni_fixture_open(struct vnni_fixture *f, const char *path, uint32_t threads);
void vnni_fixture_close(struct vnni_fixture *f);

/* Bytes that are out through the host: 0 after everything was released. */
size_t vnni_fixture_bytes(void);

/* Fail the n-th next allocation; 0: none. */
void vnni_fixture_fail(uint32_t n);

int vnni_fixture_new(struct vnni_fixture *f, uint32_t type, uint32_t use, uint32_t rows,
                     uint32_t cols, struct vnni_pair *out);
void vnni_fixture_free(struct vnni_fixture *f, struct vnni_pair *m);
/* put the same bytes on both sides */
int vnni_fixture_put(struct vnni_fixture *f, struct vnni_pair *m, const void *bytes, size_t count);
/* The greatest |difference| of two F32 matrices over the greatest |reference|; a NaN on one side only
 * is infinitely wrong. */
double vnni_fixture_difference(struct vnni_fixture *f, struct vnni_pair *m);
/* 1 when both sides have the same bytes. */
int vnni_fixture_equal(struct vnni_fixture *f, struct vnni_pair *m, size_t bytes);

/* Seeded numbers. */
uint32_t vnni_fixture_random(uint32_t *state);
float vnni_fixture_uniform(uint32_t *state); /* -1..1 */

enum vnni_pattern {
    VNNI_PATTERN_NORMAL,
    VNNI_PATTERN_MAXIMUM,
    VNNI_PATTERN_MINIMUM,
    VNNI_PATTERN_ZERO,
    VNNI_PATTERN_TIES,
    VNNI_PATTERNS
};
void vnni_fixture_fill(float *x, size_t count, enum vnni_pattern pattern, uint32_t seed);
/* Blocks of `type` with any codes and packed scales, F16 fields of ordinary size; for MAXIMUM and MINIMUM
 * all bits of codes and packed scales are set or clear. */
void vnni_fixture_blocks(uint32_t type, uint8_t *blocks, size_t bytes, enum vnni_pattern pattern,
                         uint32_t seed);

#endif
