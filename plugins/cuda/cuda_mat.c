/* cuda_mat.c: matrices on the device: weights in planes (cuda_format.h), activations and caches as
 * the host lays them out. */
#include "plugins/cuda/cuda.h"

#include <string.h>

#include "hal/block.h"

static_assert((int)FORMAT_F16 == (int)HAL_F16 && (int)FORMAT_Q4_0 == (int)HAL_Q4_0 &&
                  (int)FORMAT_Q4_1 == (int)HAL_Q4_1 && (int)FORMAT_Q5_0 == (int)HAL_Q5_0 &&
                  (int)FORMAT_Q5_1 == (int)HAL_Q5_1 && (int)FORMAT_Q8_0 == (int)HAL_Q8_0 &&
                  (int)FORMAT_Q2_K == (int)HAL_Q2_K && (int)FORMAT_Q3_K == (int)HAL_Q3_K &&
                  (int)FORMAT_Q4_K == (int)HAL_Q4_K && (int)FORMAT_Q5_K == (int)HAL_Q5_K &&
                  (int)FORMAT_Q6_K == (int)HAL_Q6_K && (int)FORMAT_IQ4_NL == (int)HAL_IQ4_NL &&
                  (int)FORMAT_IQ4_XS == (int)HAL_IQ4_XS && (int)FORMAT_BF16 == (int)HAL_BF16 &&
                  (int)FORMAT_NF4 == (int)HAL_NF4 && (int)FORMAT_F32 == (int)HAL_F32,
              "cuda_format.h names the types of hal.h");

enum { PLANES = 5, STAGING_BYTES = 16 << 20 };

/* Bytes of one row in each plane: nibble or byte, pair, single, scale, super. */
struct plane_rows {
    size_t bytes[PLANES];
};

static struct plane_rows plane_rows_of(uint32_t type, uint32_t cols)
{
    struct plane_rows r = {{0}};
    const uint32_t planes = format_planes(type), groups = cols / 32;
    if (planes == 0) {
        r.bytes[0] = block_row_bytes(type, cols);
        return r;
    }
    r.bytes[0] = planes & PLANE_BYTE ? 32 * (size_t)groups : planes & PLANE_NIBBLE ? 16 * (size_t)groups : 0;
    r.bytes[1] = planes & PLANE_PAIR ? 8 * (size_t)groups : 0;
    r.bytes[2] = planes & PLANE_SINGLE ? 4 * (size_t)groups : 0;
    r.bytes[3] = (size_t)format_scale_bytes(type) * groups;
    r.bytes[4] = (size_t)format_super_bytes(type) * (groups / format_super_groups(type));
    return r;
}

/* Planes begin at multiples of 256 bytes. */
static size_t plane_bytes(const struct plane_rows *r, int plane, uint32_t rows)
{
    return (r->bytes[plane] * rows + 255) & ~(size_t)255;
}

static size_t mat_bytes(const struct hal_mat *m)
{
    const size_t row = block_row_bytes(m->type, m->cols);
    if (row == 0 || m->rows == 0 || row > SIZE_MAX / 4 / m->rows)
        return 0;
    if (m->use != HAL_WEIGHT)
        return row * m->rows;
    const struct plane_rows r = plane_rows_of(m->type, m->cols);
    size_t bytes = 0;
    for (int i = 0; i < PLANES; i++)
        bytes += plane_bytes(&r, i, m->rows);
    return bytes;
}

struct cuda_weight cuda_weight_of(const struct hal_mat *m)
{
    const struct plane_rows r = plane_rows_of(m->type, m->cols);
    uint64_t at[PLANES];
    at[0] = (uintptr_t)m->mem;
    for (int i = 1; i < PLANES; i++)
        at[i] = at[i - 1] + plane_bytes(&r, i - 1, m->rows);
    return (struct cuda_weight){at[0], at[1], at[2], at[3], at[4], m->rows, m->cols / 32};
}

/* Room to round the activations of a matrix, or as many of its tokens as the limit holds. */
static enum err reserve_scratch(struct cuda_dev *d, const struct hal_mat *m)
{
    size_t values = (size_t)m->rows * m->cols;
    if (values > CUDA_SCRATCH_VALUES)
        values = m->cols > CUDA_SCRATCH_VALUES ? m->cols : CUDA_SCRATCH_VALUES;
    values = (values + 31) / 32 * 32;
    CUdeviceptr more = 0;
    if (values <= d->scratch_values)
        return ERR_NONE;
    enum err e = cuda_start(d); /* what is queued reads the old one */
    if (e == ERR_NONE)
        e = cuda_alloc(d, values / 32 * 44, &more);
    if (e != ERR_NONE)
        return e;
    cuda_free(d, d->scratch, d->scratch_values / 32 * 44);
    d->scratch = more;
    d->scratch_values = values;
    return ERR_NONE;
}

static int is_use_of_type(const struct hal_mat *m)
{
    switch (m->use) {
    case HAL_WEIGHT: return 1;
    case HAL_ACTIVATION: return m->type == HAL_F32;
    case HAL_CACHE:
        return m->type == HAL_F16 || m->type == HAL_Q8_0 || m->type == HAL_Q4_0 ||
               m->type == HAL_F32;
    default: return 0;
    }
}

enum err cuda_mat_new(void *dev, struct hal_mat *m)
{
    struct cuda_dev *d = dev;
    CUdeviceptr mem = 0;
    const size_t bytes = mat_bytes(m);
    if (bytes == 0 || !is_use_of_type(m))
        return ERR_ARGUMENT;
    enum err e = cuda_enter(d);
    if (e == ERR_NONE && m->use == HAL_ACTIVATION)
        e = reserve_scratch(d, m);
    if (e == ERR_NONE)
        e = cuda_alloc(d, bytes, &mem);
    if (e == ERR_NONE)
        m->mem = (void *)(uintptr_t)mem;
    return e;
}

void cuda_mat_free(void *dev, struct hal_mat *m)
{
    struct cuda_dev *d = dev;
    if (m->mem != NULL) {
        const enum err e = cuda_start(d); /* what is queued may use it */
        if (e != ERR_NONE)
            d->failed = e;
        cuda_free(d, (uintptr_t)m->mem, mat_bytes(m));
    }
    m->mem = NULL;
}

/* ---- repacking ---- */

struct put_job {
    const struct block_type *type;
    const uint8_t *host;
    size_t row_bytes;
    uint32_t cols;
    struct plane_rows rows;
    uint8_t *plane[PLANES]; /* staged rows, plane after plane */
};

/* The codes of one group into its planes, which may be anything before. */
static void put_codes(uint32_t type, const uint8_t *code, uint8_t *nibble, uint8_t *pair,
                      uint8_t *single)
{
    const uint32_t planes = format_planes(type);
    const unsigned low = planes & PLANE_NIBBLE ? 4 : 0, next = planes & PLANE_PAIR ? low + 2 : low;
    if (planes & PLANE_BYTE)
        for (int i = 0; i < 32; i++)
            nibble[i] = code[i] ^ 0x80u;
    if (planes & PLANE_NIBBLE)
        for (int i = 0; i < 16; i++) {
            const int one = format_is_table(type) ? 2 * i : i;
            const int other = format_is_table(type) ? 2 * i + 1 : i + 16;
            nibble[i] = (uint8_t)((code[one] & 15) | (code[other] & 15) << 4);
        }
    if (planes & PLANE_PAIR)
        for (int i = 0; i < 8; i++) { /* byte i % 4 of word i / 4 */
            unsigned bits = 0;
            for (int s = 0; s < 4; s++)
                bits |= ((unsigned)code[4 * (2 * s + i / 4) + i % 4] >> low & 3u) << 2 * s;
            pair[i] = (uint8_t)bits;
        }
    if (planes & PLANE_SINGLE)
        for (int i = 0; i < 4; i++) {
            unsigned bits = 0;
            for (int s = 0; s < 8; s++)
                bits |= ((unsigned)code[4 * s + i] >> next & 1u) << s;
            single[i] = (uint8_t)bits;
        }
}

/* The stored scales of group g of a block. */
static void put_scales(uint32_t type, const struct block_scales *s, uint32_t g, uint8_t *out)
{
    switch (type) {
    case HAL_Q2_K:
        out[0] = (uint8_t)(s->s[2 * g] | s->m[2 * g] << 4);
        out[1] = (uint8_t)(s->s[2 * g + 1] | s->m[2 * g + 1] << 4);
        return;
    case HAL_Q3_K:
    case HAL_Q6_K:
        out[0] = (uint8_t)s->s[2 * g];
        out[1] = (uint8_t)s->s[2 * g + 1];
        return;
    case HAL_Q4_K:
    case HAL_Q5_K:
        out[0] = (uint8_t)s->s[g];
        out[1] = s->m[g];
        return;
    case HAL_IQ4_XS: out[0] = (uint8_t)s->s[g]; return;
    case HAL_NF4: out[0] = (uint8_t)s->s[g / 2]; return;
    default: return;
    }
}

static void put_row(const struct put_job *job, uint32_t row)
{
    const struct block_type *t = job->type;
    const uint8_t *in = job->host + row * job->row_bytes;
    uint8_t *at[PLANES];
    size_t step[PLANES];
    for (int i = 0; i < PLANES; i++) {
        at[i] = job->plane[i] + row * job->rows.bytes[i];
        step[i] = job->rows.bytes[i] / (job->cols / 32);
    }
    for (uint32_t col = 0; col < job->cols; col += t->values, in += t->bytes) {
        uint8_t code[BLOCK_VALUES_MAX];
        struct block_scales scales;
        if (block_get_codes(t->type, in, code) != ERR_NONE ||
            block_get_scales(t->type, in, &scales) != ERR_NONE)
            return; /* cannot be: the type has codes */
        for (uint32_t g = 0; g < t->values / 32; g++) {
            put_codes(t->type, code + 32 * g, at[0], at[1], at[2]);
            put_scales(t->type, &scales, g, at[3]);
            for (int i = 0; i < 4; i++)
                at[i] += step[i];
        }
        memcpy(at[4], &scales.d, 2);
        if (format_super_bytes(t->type) == 4)
            memcpy(at[4] + 2, &scales.dmin, 2);
        at[4] += format_super_bytes(t->type);
    }
}

static void put_rows(void *context, uint32_t first, uint32_t last)
{
    for (uint32_t row = first; row < last; row++)
        put_row(context, row);
}

static enum err send_planes(struct cuda_dev *d, const struct hal_mat *m, const struct put_job *job,
                            uint32_t row, uint32_t rows)
{
    uint64_t at = (uintptr_t)m->mem;
    for (int i = 0; i < PLANES; i++) {
        const size_t bytes = job->rows.bytes[i];
        if (bytes != 0) {
            const enum err e = cuda_result(
                d, "cuMemcpyHtoD",
                d->driver->cuMemcpyHtoD_v2(at + row * bytes, job->plane[i], rows * bytes));
            if (e != ERR_NONE)
                return e;
        }
        at += plane_bytes(&job->rows, i, m->rows);
    }
    return ERR_NONE;
}

/* Repack some rows at a time, on the host's threads, and send them plane by plane. */
static enum err put_weight(struct cuda_dev *d, const struct hal_mat *m, uint32_t row, uint32_t rows,
                           const uint8_t *host)
{
    struct put_job job = {.type = block_type(m->type),
                          .row_bytes = block_row_bytes(m->type, m->cols),
                          .cols = m->cols,
                          .rows = plane_rows_of(m->type, m->cols)};
    size_t staged = 0;
    for (int i = 0; i < PLANES; i++)
        staged += job.rows.bytes[i];
    size_t most = STAGING_BYTES / staged;
    most = most < 1 ? 1 : most > rows ? rows : most;
    uint8_t *staging = d->scalar.host.alloc(staged * most);
    if (staging == NULL)
        return ERR_MEMORY;
    enum err e = ERR_NONE;
    for (uint32_t done = 0; done < rows && e == ERR_NONE; done += (uint32_t)most) {
        const uint32_t now = rows - done < most ? rows - done : (uint32_t)most;
        size_t from = 0;
        for (int i = 0; i < PLANES; i++) {
            job.plane[i] = staging + from;
            from += job.rows.bytes[i] * now;
        }
        job.host = host + done * job.row_bytes;
        scalar_parallel(&d->scalar, now, 1, put_rows, &job);
        e = send_planes(d, m, &job, row + done, now);
    }
    d->scalar.host.release(staging, staged * most);
    return e;
}

static int is_range(const struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                    size_t bytes)
{
    const size_t row_bytes = block_row_bytes(m->type, m->cols);
    return m->mem != NULL && host != NULL && row <= m->rows && rows <= m->rows - row &&
           row_bytes != 0 && bytes == row_bytes * rows;
}

enum err cuda_mat_put(void *dev, struct hal_mat *m, uint32_t row, uint32_t rows, const void *host,
                      size_t bytes)
{
    struct cuda_dev *d = dev;
    if (!is_range(m, row, rows, host, bytes))
        return ERR_ARGUMENT;
    const enum err e = cuda_start(d);
    if (e != ERR_NONE || rows == 0)
        return e;
    if (m->use == HAL_WEIGHT && format_planes(m->type) != 0)
        return put_weight(d, m, row, rows, host);
    const uint64_t to = (uintptr_t)m->mem + row * block_row_bytes(m->type, m->cols);
    return cuda_result(d, "cuMemcpyHtoD", d->driver->cuMemcpyHtoD_v2(to, host, bytes));
}

enum err cuda_mat_get(void *dev, const struct hal_mat *m, uint32_t row, uint32_t rows, void *host,
                      size_t bytes)
{
    struct cuda_dev *d = dev;
    if (!is_range(m, row, rows, host, bytes))
        return ERR_ARGUMENT;
    if (m->use == HAL_WEIGHT && format_planes(m->type) != 0)
        return ERR_UNSUPPORTED; /* nothing asks for it: embed reads the planes */
    const enum err e = cuda_start(d);
    if (e != ERR_NONE || rows == 0)
        return e;
    const uint64_t from = (uintptr_t)m->mem + row * block_row_bytes(m->type, m->cols);
    return cuda_result(d, "cuMemcpyDtoH", d->driver->cuMemcpyDtoH_v2(host, from, bytes));
}
