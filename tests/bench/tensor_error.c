/* tensor_error.c: weighted error of the tensors of quantised files against their base.
 *
 *   tensor_error BASE.gguf PROFILE.gguf|- FILE.gguf...
 *
 * Of a tensor: sum h (x - y)^2 / sum h x^2, with h the mean squared activation of the column (imatrix; - or no
 * entry: 1). Per file the geometric mean over the tensors that every file has in blocks, so that one FILE's figure over
 * another's is the mean ratio.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/profile.h"
#include "hal/block.h"
#include "model/gguf.h"

enum { FILES_MAX = 16 };

struct total {
    double log;
    uint32_t tensors;
};

static int is_compared(const struct gguf *base, struct gguf *const *file, int files, uint32_t i)
{
    const struct gguf_tensor *t = gguf_tensor(base, i);
    for (int f = 0; f < files; f++) {
        const struct gguf_tensor *q = gguf_tensor_find(file[f], t->name);
        const struct block_type *type = q != NULL ? block_type(q->type) : NULL;
        if (type == NULL || type->codes == 0 || q->shape[0] != t->shape[0] || q->rows != t->rows)
            return 0;
    }
    return 1;
}

/* The error of q against t; not above 0: there is none to compare, or it cannot be decoded. */
static double error_of(const struct gguf_tensor *t, const struct gguf_tensor *q, const struct profile *profile)
{
    const uint32_t cols = (uint32_t)t->shape[0];
    const struct profile_entry *h = profile != NULL ? profile_find(profile, t->name) : NULL;
    float *x = malloc(2 * sizeof *x * cols);
    double sum = 0, all = 0;
    if (x == NULL)
        return -1;
    for (uint64_t r = 0; r < t->rows; r++) {
        float *y = x + cols;
        if (block_decode_row(t->type, t->data + r * t->row_bytes, cols, x) != ERR_NONE ||
            block_decode_row(q->type, q->data + r * q->row_bytes, cols, y) != ERR_NONE) {
            free(x);
            return -1;
        }
        for (uint32_t c = 0; c < cols; c++) {
            const double weight = h != NULL && h->cols == cols ? h->sum2[c] : 1;
            const double d = (double)x[c] - (double)y[c];
            sum += weight * d * d;
            all += weight * (double)x[c] * (double)x[c];
        }
    }
    free(x);
    return all > 0 ? sum / all : 0;
}

static int compare(const struct gguf *base, struct gguf *const *file, char **name, int files,
                   const struct profile *profile)
{
    printf("| file | tensors | error, geometric mean | of the first |\n|---|---|---|---|\n");
    double first = 0;
    for (int f = 0; f < files; f++) {
        struct total sum = {0, 0};
        for (uint32_t i = 0; i < gguf_tensors(base); i++) {
            const struct gguf_tensor *t = gguf_tensor(base, i);
            if (!is_compared(base, file, files, i))
                continue;
            const double e = error_of(t, gguf_tensor_find(file[f], t->name), profile);
            if (!(e > 0)) {
                fprintf(stderr, "tensor_error: %s: %s: an error above 0 is expected\n", name[f], t->name);
                return 1;
            }
            sum.log += log(e);
            sum.tensors++;
        }
        if (sum.tensors == 0) {
            fprintf(stderr, "tensor_error: %s: no tensor that every file has in blocks\n", name[f]);
            return 1;
        }
        const double mean = exp(sum.log / sum.tensors);
        first = f == 0 ? mean : first;
        printf("| %s | %u | %.4e | %.4f |\n", name[f], sum.tensors, mean, mean / first);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const int files = argc - 3;
    if (files < 1 || files > FILES_MAX) {
        fprintf(stderr, "usage: tensor_error BASE.gguf PROFILE.gguf|- FILE.gguf...\n");
        return 2;
    }
    struct gguf *base = NULL, *file[FILES_MAX] = {NULL};
    struct profile *profile = NULL;
    struct fault fault = {0};
    char reason[GGUF_REASON_BYTES] = "";
    int status = 0;
    if (gguf_open(argv[1], &base, reason) != ERR_NONE)
        status = 1;
    for (int f = 0; status == 0 && f < files; f++)
        if (gguf_open(argv[3 + f], &file[f], reason) != ERR_NONE)
            status = 1;
    if (status != 0)
        fprintf(stderr, "tensor_error: %s\n", reason);
    if (status == 0 && strcmp(argv[2], "-") != 0 && profile_load(argv[2], &profile, &fault) != ERR_NONE) {
        fprintf(stderr, "tensor_error: %s: %s\n", argv[2], fault.text);
        status = 1;
    }
    if (status == 0)
        status = compare(base, file, argv + 3, files, profile);
    for (int f = 0; f < files; f++)
        gguf_close(file[f]);
    profile_close(profile);
    gguf_close(base);
    return status;
}
