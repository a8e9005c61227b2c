/* profile.h: calibration statistics of a base: per linear input the second moments of its channels.
 *
 * File form: the field's imatrix. GGUF with general.type "imatrix", imatrix.datasets (array of strings),
 * imatrix.chunk_count and imatrix.chunk_size (u32), and per linear weight NAME the F32 tensors
 * NAME.in_sum2 [cols, slices] (sums of squares) and NAME.counts [1, slices] (rows seen). Ours adds
 * provenance keys tare.profile.* that others ignore. The older binary form is read and written as well.
 *
 * A profile is owned by whoever opened it; no function here keeps a pointer to its arguments. One
 * thread at a time per profile.
 */
#ifndef PROFILE_H
#define PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compress/fault.h"

enum {
    PROFILE_NAME_MAX = 128,        /* bytes of a tensor's name, its terminator included */
    PROFILE_ENTRIES_MAX = 1 << 16, /* linear inputs in one profile */
    PROFILE_COLS_MAX = 1 << 20,
    PROFILE_SLICES_MAX = 1 << 12
};

/* Statistics of the input of one linear weight. slices is 1, or the number of experts. */
struct profile_entry {
    char name[PROFILE_NAME_MAX]; /* of the weight: "blk.0.attn_q.weight" */
    uint32_t cols;
    uint32_t slices;
    double *sum2;  /* [slices, cols] */
    double *count; /* [slices] rows of activations seen */
};

struct profile {
    struct profile_entry *entry; /* ascending by name */
    uint32_t entries;
    uint32_t capacity;
    uint32_t chunks;     /* windows of text seen */
    uint32_t chunk_size; /* tokens of one window */
    char **dataset;      /* names of the texts, as imatrix.datasets */
    uint32_t datasets;
    char base_sha256[65];   /* of the model it was taken from, or "" when unknown */
    char method[64];        /* how it was made: "tare calibrate", "cohort merge", or "" */
    char **language;        /* "en=12288" tokens per language, provenance only */
    uint32_t languages;
};

/* An empty profile; profile_close releases it, NULL is allowed. Errors: ERR_MEMORY. */
NODISCARD enum err profile_open(struct profile **out);
void profile_close(struct profile *p);

/* Read a file of any of the three forms. Errors: ERR_IO, ERR_FORMAT (what is wrong is in f),
 * ERR_MEMORY. */
NODISCARD enum err profile_load(const char *path, struct profile **out, struct fault *f);

/* Write the GGUF form to a temporary file beside path, sync it and rename it. sha256 (65 bytes, hex) of
 * the file, or NULL. Errors: ERR_IO, ERR_MEMORY. */
NODISCARD enum err profile_save(const struct profile *p, const char *path, char *sha256,
                                struct fault *f);

/* The same for the older binary form (.dat), which keeps sums as means times calls. */
NODISCARD enum err profile_save_dat(const struct profile *p, const char *path, struct fault *f);

/* Find an entry, or NULL. */
const struct profile_entry *profile_find(const struct profile *p, const char *name);

/* Find or make the entry. Errors: ERR_ARGUMENT (same name, other shape; limits), ERR_MEMORY. */
NODISCARD enum err profile_entry_get(struct profile *p, const char *name, uint32_t cols,
                                     uint32_t slices, struct profile_entry **out);

/* Add rows of activations x [rows, cols] to slice 0..slices-1 of an entry, in ascending order of rows,
 * in double: the same rows in the same order give the same sums everywhere. */
void profile_add_rows(struct profile_entry *e, uint32_t slice, const float *x, uint32_t rows);

/* Add a name to the datasets, or "language=tokens" to the languages. Errors: ERR_MEMORY. */
NODISCARD enum err profile_add_dataset(struct profile *p, const char *name);
NODISCARD enum err profile_add_language(struct profile *p, const char *language, uint64_t tokens);

/* into += weight * from, sums and counts alike (weight 1: as if the rows had been seen together;
 * weight < 1: older statistics fade). Entries that only one has are kept.
 * Errors: ERR_ARGUMENT (weight not in (0, 1e6]), ERR_MISMATCH (shapes differ; nothing changed),
 * ERR_MEMORY. */
NODISCARD enum err profile_merge(struct profile *into, const struct profile *from, double weight,
                                 struct fault *f);

/* Make each of `count` sources weigh `share` of the result: into = sum of share[i] * source[i] /
 * tokens(source[i]) scaled to the total of tokens. For balanced languages and cohorts. */
NODISCARD enum err profile_blend(struct profile *into, const struct profile *const *source,
                                 const double *share, uint32_t count, struct fault *f);

/* The weights h_j = sum2_j / count of one slice, floored at 1e-8 of their mean so that no column is
 * free, as every method takes them. All 1 when nothing was counted. Rounds sums to F32 first, so a
 * profile in memory and the same profile read back give the same bytes.
 *   out [cols] */
void profile_importance(const struct profile_entry *e, uint32_t slice, float *out);

/* How far the statistics `now` have moved from `then`.
 *
 * Per linear input both second moments are made shares p_j = h_j / sum(h) and compared by the
 * Jensen-Shannon divergence in bits, 0 (same) .. 1 (disjoint), sampling noise subtracted
 * ((cols - 1) / cols / (4 ln 2) * (1/n_then + 1/n_now), never below 0); `shift` is the change of the log
 * of the mean energy. The score of a profile is the mean over the inputs that both have, weighted by
 * cols, of divergence + 0.1 * |shift|. */
struct profile_drift {
    double score;      /* 0: none; 0.01 is visible; 0.05 is another kind of text */
    double worst;      /* the largest of one input */
    char worst_name[PROFILE_NAME_MAX];
    uint32_t compared; /* inputs that both have with the same shape */
    uint32_t skipped;  /* inputs that only one has, or without counts */
};

/* Errors: ERR_NOT_FOUND when nothing can be compared. */
NODISCARD enum err profile_compare(const struct profile *then, const struct profile *now,
                                   struct profile_drift *out);

#endif
