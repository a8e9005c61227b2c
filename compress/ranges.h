/* ranges.h: how far the input of each linear reaches, for static activation scales: the four methods of
 * compress/observer.h, for 8 and for 4 bits.
 *
 * Plugins round activations dynamically per 32 values and need none of this; it is for devices whose
 * kernels want one scale per input, and for seeing what such a scale costs (tare eval --ranges).
 *
 * File form: GGUF with general.type "ranges", tare.ranges.percentile (f32), tare.base_sha256, and per linear
 * weight NAME the F32 tensor NAME.in_range [RANGES_VALUES].
 */
#ifndef RANGES_H
#define RANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "compress/fault.h"
#include "compress/observer.h"

enum { RANGES_NAME_MAX = 128, RANGES_ENTRIES_MAX = 1 << 16 };

/* Of one entry, in the order of the file. Limits are of |x|. */
enum ranges_value {
    RANGES_LOW = 0, /* the least value, at most 0 */
    RANGES_HIGH,    /* the largest, at least 0 */
    RANGES_PERCENTILE,
    RANGES_PERCENTILE_LOW, /* Q(1 - p) and Q(p) of x, widened to 0 */
    RANGES_PERCENTILE_HIGH,
    RANGES_MSE_8,
    RANGES_MSE_4,
    RANGES_ENTROPY_8,
    RANGES_ENTROPY_4,
    RANGES_VALUES
};

struct ranges_entry {
    char name[RANGES_NAME_MAX]; /* of the weight */
    float value[RANGES_VALUES];
    struct observer *observer; /* while values are still added */
};

struct ranges {
    struct ranges_entry *entry; /* ascending by name once finished or loaded */
    uint32_t entries;
    uint32_t capacity;
    double percentile; /* of 100 */
    char base_sha256[65];
    bool is_finished;
};

/* Percentiles of `percentile` (90 .. 100). Errors: ERR_ARGUMENT, ERR_MEMORY. */
NODISCARD enum err ranges_open(double percentile, struct ranges **out);
void ranges_close(struct ranges *r); /* NULL is allowed */

/* Add the input of a linear; total: values that may come for this name in all, the same each time.
 * Errors: ERR_ARGUMENT (finished, name too long), ERR_FULL (more than total), ERR_MEMORY. */
NODISCARD enum err ranges_add(struct ranges *r, const char *name, uint64_t total, const float *x, uint64_t n);

/* Find every limit; nothing can be added afterwards. Errors: those of observer_find. */
NODISCARD enum err ranges_finish(struct ranges *r);

const struct ranges_entry *ranges_find(const struct ranges *r, const char *name); /* NULL: none */

/* The largest |x| that a symmetric scale of so many bits spans; mse and entropy know 8 and 4 bits (others
 * take those of 8). 0: unknown name or method. */
float ranges_limit(const struct ranges *r, const char *name, uint32_t method, uint32_t bits);

/* Errors: ERR_IO, ERR_MEMORY; load: ERR_FORMAT too. */
NODISCARD enum err ranges_save(const struct ranges *r, const char *path, struct fault *f);
NODISCARD enum err ranges_load(const char *path, struct ranges **out, struct fault *f);

#endif
