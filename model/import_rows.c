/* import_rows.c: rows of source tensors, turned as their kind says, streamed into the file. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "hal/half.h"
#include "hal/hal.h"
#include "model/import_source.h"

enum { STRIP_BYTES = 4 << 20 };

static float element(const struct safetensors_tensor *t, uint64_t i)
{
    if (t->type == HAL_F32) {
        float f;
        memcpy(&f, t->data + 4 * i, sizeof f);
        return f;
    }
    uint16_t h;
    memcpy(&h, t->data + 2 * i, sizeof h);
    return t->type == HAL_F16 ? half_f16_to_f32(h) : half_bf16_to_f32(h);
}

/* Where target row r lies: source tensor, source row. A vector is a column of rows of one value. */
static uint64_t source_row(const struct import_source *s, const struct import_tensor *t, uint64_t r,
                           uint32_t *source)
{
    const uint64_t d = s->head_dim;
    *source = 0;
    switch (t->kind) {
    case IMPORT_PAIRS_Q:
    case IMPORT_PAIRS_K: return r / d * d + r % 2 * (d / 2) + r % d / 2;
    case IMPORT_NEOX_QKV: return (r / d % s->heads * 3 + r / (d * s->heads)) * d + r % d;
    case IMPORT_EXPERTS: *source = (uint32_t)(r / t->shape[1]); return r % t->shape[1];
    case IMPORT_VALUE_UP: return r / s->value_dim * (s->nope_dim + s->value_dim) + s->nope_dim + r % s->value_dim;
    default: return r;
    }
}

/* Element (r, c) of a target whose rows are columns of the source. */
static float turned(const struct import_source *s, const struct import_tensor *t, uint64_t r, uint64_t c)
{
    const struct safetensors_tensor *from = t->source[0];
    if (t->kind == IMPORT_TRANSPOSE)
        return element(from, c * t->shape[1] + r);
    const uint64_t rank = t->shape[1], head = r / rank; /* IMPORT_KEY_UP */
    return element(from, (head * (s->nope_dim + s->value_dim) + c) * rank + r % rank);
}

static void read_row(const struct import_source *s, const struct import_tensor *t, uint64_t r, float *out)
{
    const uint64_t cols = t->dims == 1 ? 1 : t->shape[0];
    const bool is_turned = t->kind == IMPORT_KEY_UP || (t->kind == IMPORT_TRANSPOSE && t->dims == 2);
    uint32_t source;
    if (t->kind == IMPORT_COMPUTED) {
        memcpy(out, t->values + r * cols, cols * sizeof *out);
        return;
    }
    const uint64_t row = source_row(s, t, r, &source);
    for (uint64_t c = 0; c < cols; c++)
        out[c] = is_turned ? turned(s, t, r, c) : element(t->source[source], row * cols + c);
    for (uint64_t c = 0; t->kind == IMPORT_ADD_ONE && c < cols; c++)
        out[c] += 1.0f;
}

static void write_row(uint32_t type, const float *row, uint64_t cols, uint8_t *out)
{
    for (uint64_t c = 0; c < cols; c++) {
        const uint16_t h = type == HAL_F16 ? half_f32_to_f16(row[c]) : half_f32_to_bf16(row[c]);
        if (type == HAL_F32)
            memcpy(out + 4 * c, row + c, 4);
        else
            memcpy(out + 2 * c, &h, 2);
    }
}

static enum err stream_tensor(struct import_source *s, const struct import_tensor *t, uint8_t *strip, float *row)
{
    const uint64_t cols = t->dims == 1 ? 1 : t->shape[0];
    const uint64_t rows = t->dims == 1 ? t->shape[0] : t->shape[1] * t->shape[2];
    const size_t row_bytes = (size_t)cols * (t->type == HAL_F32 ? 4 : 2);
    size_t used = 0;
    enum err e = ERR_NONE;
    for (uint64_t r = 0; r < rows && !e; r++) {
        read_row(s, t, r, row);
        write_row(t->type, row, cols, strip + used);
        used += row_bytes;
        if (used + row_bytes > STRIP_BYTES || r + 1 == rows) {
            e = gguf_writer_append(s->writer, strip, used);
            used = 0;
        }
    }
    for (uint32_t i = 0; i < t->sources; i++)
        safetensors_drop(t->source[i]);
    return e;
}

uint64_t import_bytes(const struct import_tensor *t)
{
    return t->shape[0] * t->shape[1] * t->shape[2] * (t->type == HAL_F32 ? 4 : 2);
}

/* How many whole tensors an interrupted import left: as many as its size covers. */
static uint32_t count_resumable(const struct import_source *s)
{
    char part[4096];
    struct stat st;
    if ((size_t)snprintf(part, sizeof part, "%s.part", s->options->output) >= sizeof part || stat(part, &st) != 0)
        return 0;
    uint64_t bytes = 0;
    uint32_t n = 0;
    for (; n < s->tensors; n++) {
        bytes += (import_bytes(&s->tensor[n]) + GGUF_ALIGNMENT_DEFAULT - 1) & ~(uint64_t)(GGUF_ALIGNMENT_DEFAULT - 1);
        if (bytes > (uint64_t)st.st_size)
            break;
    }
    return n;
}

/* begin checks that the header is the same; a .part that does not match is begun anew. The sizes of the
 * header and of the rest are not told apart above, so fewer tensors are tried until one fits. */
static enum err begin(struct import_source *s, uint32_t *resumed)
{
    enum err e = ERR_MISMATCH;
    uint32_t n = count_resumable(s);
    for (uint32_t tries = 0; n > 0 && tries < 64; tries++, n--)
        if ((e = gguf_writer_begin(s->writer, n)) != ERR_MISMATCH)
            break;
    if (n == 0 || e == ERR_MISMATCH)
        e = gguf_writer_begin(s->writer, n = 0);
    *resumed = e ? 0 : n;
    return e;
}

enum err import_write(struct import_source *s, struct import_report *report)
{
    uint64_t total = 0, done = 0, widest = 1;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < s->tensors && !e; i++) {
        struct import_tensor *t = &s->tensor[i];
        total += import_bytes(t);
        report->parameters += t->shape[0] * t->shape[1] * t->shape[2];
        widest = t->shape[0] > widest ? t->shape[0] : widest;
        e = gguf_writer_tensor(s->writer, t->name, t->type, t->dims, t->shape);
    }
    uint8_t *strip = malloc(STRIP_BYTES + 4 * widest);
    float *row = malloc(4 * widest);
    if (!e && (!strip || !row))
        e = import_fail(s, ERR_MEMORY, "no memory for a strip of rows");
    if (!e)
        e = begin(s, &report->resumed);
    uint32_t whole = 0;
    for (uint32_t i = 0; i < s->tensors && !e; i++) {
        if (i >= report->resumed)
            e = stream_tensor(s, &s->tensor[i], strip, row);
        whole += !e;
        done += import_bytes(&s->tensor[i]);
        if (s->options->progress)
            s->options->progress(s->options->progress_context, done, total);
    }
    if (!e)
        e = gguf_writer_commit(s->writer);
    if ((e == ERR_IO || e == ERR_MEMORY) && whole > 0) { /* a full disk, not a bad input: another run goes on */
        gguf_writer_keep(s->writer);
        if (!s->reason[0] && e == ERR_IO)
            snprintf(s->reason, GGUF_REASON_BYTES, "%.120s; run again to continue", gguf_writer_reason(s->writer));
    }
    free(strip);
    free(row);
    return e;
}
