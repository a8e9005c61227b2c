/* check_case.h: what the operations of the check share; for hal/check*.c alone. */
#ifndef CHECK_CASE_H
#define CHECK_CASE_H

#include "hal/check.h"

/* One run: the plugin under check and scalar side by side. */
struct check_run {
    const struct hal_plugin *plugin;
    void *dev;
    void *reference; /* scalar's dev */
    const struct check_options *options;
    struct check_report *report;
    struct hal_caps caps;
    uint64_t random;
    uint32_t pattern; /* enum check_pattern of the case */
    char shape[96];   /* of the case, for the report */
};

/* A matrix on both sides. */
struct check_pair {
    struct hal_mat mine, theirs; /* the plugin's, scalar's */
};

/* Record the first failure and return its error. */
__attribute__((format(printf, 3, 4))) enum err check_fail(struct check_run *c, enum err e,
                                                          const char *format, ...);

/* Start a case: its shape for the report. */
__attribute__((format(printf, 2, 3))) void check_case(struct check_run *c, const char *format, ...);

uint32_t check_random(struct check_run *c, uint32_t below);
/* Activations by the pattern of the case. */
void check_fill(struct check_run *c, float *x, size_t values);
/* Gaussian-like values whatever the pattern. */
void check_fill_normal(struct check_run *c, float *x, size_t values);
/* Weights of any type by the pattern: every code occurs, scales are sane. out: rows of blocks. */
void check_fill_weights(struct check_run *c, uint32_t type, uint32_t rows, uint32_t cols,
                        uint8_t *out);

/* Make a pair, without contents; NULL errors are reported. */
NODISCARD enum err check_pair_new(struct check_run *c, uint32_t use, uint32_t type, uint32_t rows,
                                  uint32_t cols, struct check_pair *out);
/* Put the same rows on both sides. */
NODISCARD enum err check_pair_put(struct check_run *c, struct check_pair *pair, const void *rows);
/* A pair of activations with the case's pattern, or of weights. */
NODISCARD enum err check_pair_activation(struct check_run *c, uint32_t rows, uint32_t cols,
                                         struct check_pair *out);
NODISCARD enum err check_pair_weight(struct check_run *c, uint32_t type, uint32_t rows,
                                     uint32_t cols, struct check_pair *out);
void check_pair_free(struct check_run *c, struct check_pair *pair);

/* Compare what both sides hold by the tolerance of the operation (report->op). Counts a case. */
NODISCARD enum err check_pair_compare(struct check_run *c, const struct check_pair *pair);
/* Compare what the operation returned on both sides; then bytes. */
NODISCARD enum err check_same_error(struct check_run *c, enum err mine, enum err theirs);
NODISCARD enum err check_same_bytes(struct check_run *c, const void *mine, const void *theirs,
                                    size_t bytes);

struct check_op {
    const char *name;
    double tolerance; /* largest |difference| over largest |value| */
    int (*has)(const struct hal_plugin *plugin);
    enum err (*check)(struct check_run *c);
};

/* All operations, ended by a NULL name; and the table's entry of one. */
extern const struct check_op check_ops[];
const struct check_op *check_op_find(const char *name);

/* The checks, in check_matmul.c, check_rows.c, check_attend.c and check_code.c. */
enum err check_matmul(struct check_run *c);
enum err check_embed(struct check_run *c);
enum err check_rmsnorm(struct check_run *c);
enum err check_layernorm(struct check_run *c);
enum err check_rope(struct check_run *c);
enum err check_store(struct check_run *c);
enum err check_attend(struct check_run *c);
enum err check_glu(struct check_run *c);
enum err check_add(struct check_run *c);
enum err check_scale(struct check_run *c);
enum err check_scatter(struct check_run *c);
enum err check_copy(struct check_run *c);
enum err check_top(struct check_run *c);
enum err check_encode(struct check_run *c);
enum err check_decode(struct check_run *c);

#endif
