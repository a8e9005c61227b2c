/* report.h: what one derivation did, as JSON and as a text for people, both of one structure.
 *
 * JSON: base, rotated (words; then digest and bytes are of the rotated base), base_sha256, base_bytes, profile,
 * profile_sha256, variant, refused (true where a gate was missed: variant is where the file was left), sha256, bytes, predicted_bytes, parameters,
 * bpw, ratio_fp32, ratio_fp16, goal, method, sensitivity, seed, cache, activation_bits, seconds, stages {name: seconds}, peak_rss_bytes,
 * memory_bytes, version, plugin, plugin_version, path, threads, tensors_resumed, tensors [name, from, type,
 * method, fallback, bytes, error, output_error], scheme, scheme_tensor_bytes, scheme_bpw, pruned (words; then
 * parameters, bpw and ratios are of what is left), and where texts were held out: quality and languages, both with
 * the names that devices use for what they measure (ppl, ppl_base, dppl_percent, kld_mean, kld_99, kld_max,
 * top1_percent) and gates [gate, limit, value, language, is_kept].
 */
#ifndef REPORT_H
#define REPORT_H

#include <stdio.h>

#include "compress/judge.h"
#include "compress/quantise.h"

struct engine;
struct json_t; /* jansson's */

enum { REPORT_STAGES_MAX = 12 };

struct report_stage {
    const char *name;
    double seconds; /* wall time */
};

/* Everything is borrowed. */
struct report {
    const char *version; /* of the program */
    const char *base;    /* paths */
    const char *rotated; /* what tare.rotated says of the base; NULL or "": it is as it was */
    const char *variant; /* where it is: OUT, or OUT.refused */
    bool is_refused;     /* a gate was missed */
    const char *profile; /* "" when none */
    const struct plan *plan;
    const struct quantise_result *result; /* NULL: only planned */
    const struct engine *engine;
    const char *goal, *method, *sensitivity;
    const struct judge *judge; /* NULL: nothing was held out */
    const struct judge_verdicts *verdicts; /* NULL: no gates */
    uint64_t memory_bytes;     /* the cap that was asked for, 0: none */
    uint64_t peak_rss_bytes;   /* report_peak_rss at the end */
    uint32_t stages;
    struct report_stage stage[REPORT_STAGES_MAX];
};

/* Add a stage; what does not fit is dropped. */
void report_stage_add(struct report *r, const char *name, double seconds);

/* The most this process ever had resident (VmHWM), in bytes; 0 when the system does not say. */
uint64_t report_peak_rss(void);

/* The caller releases it with json_decref; NULL: no memory. */
struct json_t *report_json(const struct report *r);

/* What a measurement says, with the names of "quality"; for other documents. */
struct json_t *report_quality(const struct eval_result *r);
struct json_t *report_languages(const struct judge *j);
struct json_t *report_gates(const struct judge_verdicts *v);

/* Markdown that reads as text: head, quality, languages, gates, stages and, with has_tensors, the tensors. */
void report_text(const struct report *r, bool has_tensors, FILE *to);
void report_text_judge(const struct judge *j, FILE *to);
void report_text_gates(const struct judge_verdicts *v, FILE *to);

/* Where the text of the report PATH lies. Errors: ERR_ARGUMENT (path too long). */
NODISCARD enum err report_text_path(const char *path, char *out, size_t capacity);

/* PATH as JSON, and the text beside it: PATH with .json replaced by .md, or PATH.md. Each file is complete or
 * not there. Errors: ERR_IO, ERR_MEMORY, ERR_ARGUMENT (path too long). */
NODISCARD enum err report_save(const struct report *r, const char *path, struct fault *f);

/* What the container of the plan's own scheme would take for the tensors; is_held: the file's types hold the
 * scheme's values as codes, else as floats (simulated). */
double report_scheme_bytes(const struct plan *p, bool *is_held);

#endif
