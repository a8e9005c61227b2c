#include "tests/plugins/vnni_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t bytes_out;
static uint32_t fail_in;

/* Buffers end, rounded up to 64 bytes, at a page that cannot be touched. */
static size_t mapped_bytes(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + 63 + page - 1) / page * page + page;
}

static void *guarded_alloc(size_t bytes)
{
    if (fail_in != 0 && --fail_in == 0)
        return NULL;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = mapped_bytes(bytes);
    uint8_t *p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    memset(p, 0xd0, mapped - page);
    if (mprotect(p + mapped - page, page, PROT_NONE) != 0)
        return NULL;
    bytes_out += bytes;
    return p + mapped - page - (bytes + 63) / 64 * 64;
}

static void guarded_release(void *p, size_t bytes)
{
    if (p == NULL)
        return;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = mapped_bytes(bytes);
    const uint8_t *end = (uint8_t *)p + (bytes + 63) / 64 * 64;
    for (const uint8_t *slack = (uint8_t *)p + bytes; slack < end; slack++) {
        if (*slack != 0xd0) {
            fprintf(stderr, "written past the end of %zu bytes\n", bytes);
            abort();
        }
    }
    bytes_out -= bytes;
    munmap((uint8_t *)p + (bytes + 63) / 64 * 64 + page - mapped, mapped);
}

static void no_log(int level, const char *message)
{
    (void)level;
    (void)message;
}

const char *vnni_fixture_path(uint32_t index)
{
    static const char *const names[] = {"avx2", "avxvnni", "avx512-vnni", "amx-int8"};
    const struct hal_plugin *plugin = hal_plugin_entry();
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct hal_caps caps;
        if (plugin->probe(names[i], &caps) == ERR_NONE && index-- == 0)
            return names[i];
    }
    return NULL;
}

int vnni_fixture_open(struct vnni_fixture *f, const char *path, uint32_t threads)
{
    struct hal_host host = {guarded_alloc, guarded_release, no_log, threads, path};
    memset(f, 0, sizeof *f);
    f->plugin = hal_plugin_entry();
    if (f->plugin->open(&host, &f->dev) != ERR_NONE) {
        f->dev = NULL;
        return 0;
    }
    host.threads = 1;
    host.path = NULL;
    return scalar_plugin.open(&host, &f->reference) == ERR_NONE;
}

void vnni_fixture_close(struct vnni_fixture *f)
{
    if (f->plugin != NULL)
        f->plugin->close(f->dev);
    scalar_plugin.close(f->reference);
}

size_t vnni_fixture_bytes(void)
{
    return bytes_out;
}

void vnni_fixture_fail(uint32_t n)
{
    fail_in = n;
}

int vnni_fixture_new(struct vnni_fixture *f, uint32_t type, uint32_t use, uint32_t rows,
                     uint32_t cols, struct vnni_pair *out)
{
    out->mine = (struct hal_mat){NULL, type, use, rows, cols};
    out->theirs = out->mine;
    return f->plugin->mat_new(f->dev, &out->mine) == ERR_NONE &&
           scalar_plugin.mat_new(f->reference, &out->theirs) == ERR_NONE;
}

void vnni_fixture_free(struct vnni_fixture *f, struct vnni_pair *m)
{
    f->plugin->mat_free(f->dev, &m->mine);
    scalar_plugin.mat_free(f->reference, &m->theirs);
}

int vnni_fixture_put(struct vnni_fixture *f, struct vnni_pair *m, const void *bytes, size_t count)
{
    const uint32_t rows = m->mine.rows;
    return f->plugin->mat_put(f->dev, &m->mine, 0, rows, bytes, count) == ERR_NONE &&
           scalar_plugin.mat_put(f->reference, &m->theirs, 0, rows, bytes, count) == ERR_NONE;
}

static int get_both(struct vnni_fixture *f, struct vnni_pair *m, void *mine, void *theirs,
                    size_t bytes)
{
    const uint32_t rows = m->mine.rows;
    return f->plugin->mat_get(f->dev, &m->mine, 0, rows, mine, bytes) == ERR_NONE &&
           scalar_plugin.mat_get(f->reference, &m->theirs, 0, rows, theirs, bytes) == ERR_NONE;
}

double vnni_fixture_difference(struct vnni_fixture *f, struct vnni_pair *m)
{
    const size_t count = (size_t)m->mine.rows * m->mine.cols;
    float *mine = malloc(count * sizeof *mine), *theirs = malloc(count * sizeof *theirs);
    double worst = INFINITY, most = 0, apart = 0;
    if (mine == NULL || theirs == NULL || !get_both(f, m, mine, theirs, count * sizeof *mine))
        goto out;
    for (size_t i = 0; i < count; i++) {
        if (isnan(mine[i]) != isnan(theirs[i]))
            goto out;
        if (isnan(theirs[i]))
            continue;
        apart = fmax(apart, fabs((double)mine[i] - (double)theirs[i]));
        most = fmax(most, fabs((double)theirs[i]));
    }
    worst = apart == 0 ? 0 : apart / most;
out:
    free(mine);
    free(theirs);
    return worst;
}

int vnni_fixture_equal(struct vnni_fixture *f, struct vnni_pair *m, size_t bytes)
{
    uint8_t *mine = malloc(bytes), *theirs = malloc(bytes);
    const int equal = mine != NULL && theirs != NULL && get_both(f, m, mine, theirs, bytes) &&
                      memcmp(mine, theirs, bytes) == 0;
    free(mine);
    free(theirs);
    return equal;
}

uint32_t vnni_fixture_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    uint32_t x = *state;
    x ^= x >> 16;
    x *= 0x7feb352du;
    return x ^ x >> 15;
}

float vnni_fixture_uniform(uint32_t *state)
{
    return (float)(int32_t)vnni_fixture_random(state) * 0x1p-31f;
}

void vnni_fixture_fill(float *x, size_t count, enum vnni_pattern pattern, uint32_t seed)
{
    uint32_t state = seed;
    const float amax =
        vnni_fixture_random(&state) % 2 == 0 ? 127.0f : 1.0f + fabsf(vnni_fixture_uniform(&state));
    for (size_t i = 0; i < count; i++) {
        const float k = (float)(vnni_fixture_random(&state) % 126u) + 0.5f;
        switch (pattern) {
        case VNNI_PATTERN_NORMAL:
            x[i] = vnni_fixture_uniform(&state) + vnni_fixture_uniform(&state) +
                   vnni_fixture_uniform(&state);
            break;
        case VNNI_PATTERN_MAXIMUM: x[i] = 127.0f; break;
        case VNNI_PATTERN_MINIMUM: x[i] = -127.0f; break;
        case VNNI_PATTERN_TIES: x[i] = i % 4 == 0 ? amax : k * (amax / 127.0f); break;
        default: x[i] = 0; break;
        }
    }
}

/* Offsets of the F16 fields of a block; 0xffff: none. */
static void half_fields(uint32_t type, uint32_t fields[2])
{
    fields[0] = 0;
    fields[1] = 0xffff;
    switch (type) {
    case HAL_Q4_1:
    case HAL_Q5_1:
    case HAL_Q4_K:
    case HAL_Q5_K:
    case HAL_NF4: fields[1] = 2; break;
    case HAL_Q2_K:
        fields[0] = 80;
        fields[1] = 82;
        break;
    case HAL_Q3_K: fields[0] = 108; break;
    case HAL_Q6_K: fields[0] = 208; break;
    default: break;
    }
}

static void put_half(uint8_t *p, float value)
{
    const uint16_t half = half_f32_to_f16(value);
    memcpy(p, &half, sizeof half);
}

void vnni_fixture_blocks(uint32_t type, uint8_t *blocks, size_t bytes, enum vnni_pattern pattern,
                         uint32_t seed)
{
    const struct block_type *block = block_type(type);
    uint32_t state = seed, fields[2];
    if (block->codes == 0) {
        for (size_t i = 0; i < bytes; i += block->bytes) {
            const float value = vnni_fixture_uniform(&state);
            const uint16_t brain = half_f32_to_bf16(value);
            if (type == HAL_F32)
                memcpy(blocks + i, &value, 4);
            else if (type == HAL_F16)
                put_half(blocks + i, value);
            else
                memcpy(blocks + i, &brain, 2);
        }
        return;
    }
    for (size_t i = 0; i < bytes; i++)
        blocks[i] = pattern == VNNI_PATTERN_MAXIMUM   ? 0xff
                    : pattern == VNNI_PATTERN_MINIMUM ? 0
                                                      : (uint8_t)vnni_fixture_random(&state);
    half_fields(type, fields);
    for (size_t i = 0; i < bytes; i += block->bytes) {
        put_half(blocks + i + fields[0], 0.01f * vnni_fixture_uniform(&state));
        if (fields[1] != 0xffff)
            put_half(blocks + i + fields[1], 0.01f * vnni_fixture_uniform(&state));
    }
}
