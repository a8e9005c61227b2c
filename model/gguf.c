/* gguf.c: the reader. A cursor that cannot leave the map, and an index of what it found. */
#include "model/gguf_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/block.h"

struct cursor {
    const struct gguf *g;
    size_t at;
    char *reason;
};

enum { KEY_BYTES_MIN = 8 + 1 + 4 + 1, TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8 };
enum { ALIGNMENT_MAX = 1 << 20, DIM_MAX = 0x7fffffff };

static const uint8_t kind_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* The end of a long path says more than its beginning. */
static const char *short_path(const struct gguf *g)
{
    const size_t length = strlen(g->path);
    return length > 60 ? g->path + length - 60 : g->path;
}

__attribute__((format(printf, 4, 5))) static enum err refuse(const struct cursor *c, enum err e,
                                                              size_t at, const char *format, ...)
{
    int used = snprintf(c->reason, GGUF_REASON_BYTES, "%s: byte %zu: ", short_path(c->g), at);
    if (used < 0 || used >= GGUF_REASON_BYTES)
        return e;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->reason + used, (size_t)(GGUF_REASON_BYTES - used), format, arguments);
    va_end(arguments);
    for (char *p = c->reason; *p; p++) /* names in the file may hold anything */
        if ((unsigned char)*p < 0x20)
            *p = '?';
    return e;
}

static enum err take(struct cursor *c, size_t bytes, const char *what, const uint8_t **out)
{
    *out = c->g->map + c->at;
    if (bytes > c->g->size - c->at)
        return refuse(c, ERR_FORMAT, c->at, "expected %s of %zu bytes, the file ends after %zu", what,
                      bytes, c->g->size - c->at);
    c->at += bytes;
    return ERR_NONE;
}

static enum err take_u32(struct cursor *c, const char *what, uint32_t *out)
{
    const uint8_t *p;
    const enum err e = take(c, 4, what, &p);
    if (!e)
        memcpy(out, p, 4);
    return e;
}

static enum err take_u64(struct cursor *c, const char *what, uint64_t *out)
{
    const uint8_t *p;
    const enum err e = take(c, 8, what, &p);
    if (!e)
        memcpy(out, p, 8);
    return e;
}

static enum err take_string(struct cursor *c, const char *what, struct gguf_text *out)
{
    const size_t at = c->at;
    uint64_t length;
    enum err e = take_u64(c, what, &length);
    if (e)
        return e;
    if (length > c->g->size - c->at)
        return refuse(c, ERR_FORMAT, at, "expected %s within the file, its length is %" PRIu64, what,
                      length);
    const uint8_t *p;
    e = take(c, (size_t)length, what, &p);
    if (!e)
        *out = (struct gguf_text){(const char *)p, (size_t)length};
    return e;
}

static enum err take_array(struct cursor *c, struct gguf_value *v)
{
    const size_t at = c->at;
    enum err e = take_u32(c, "the element kind of an array", &v->element);
    if (!e)
        e = take_u64(c, "the length of an array", &v->count);
    if (e)
        return e;
    if (v->element > GGUF_F64 || v->element == GGUF_ARRAY)
        return refuse(c, ERR_FORMAT, at, "expected an array element kind, found %" PRIu32, v->element);
    if (v->count > GGUF_ARRAY_MAX)
        return refuse(c, ERR_FORMAT, at + 4, "expected at most %d array elements, found %" PRIu64,
                      GGUF_ARRAY_MAX, v->count);
    v->data = c->g->map + c->at;
    if (v->element == GGUF_STRING) {
        struct gguf_text ignored;
        const size_t start = c->at;
        for (uint64_t i = 0; i < v->count && !e; i++)
            e = take_string(c, "a string of an array", &ignored);
        v->bytes = c->at - start;
        return e;
    }
    v->bytes = (size_t)v->count * kind_bytes[v->element];
    return take(c, v->bytes, "an array", &v->data);
}

static enum err take_value(struct cursor *c, struct gguf_value *v)
{
    size_t at = c->at;
    enum err e = take_string(c, "a key", &v->key);
    if (e)
        return e;
    if (v->key.bytes == 0 || v->key.bytes > 0xffff || memchr(v->key.text, 0, v->key.bytes))
        return refuse(c, ERR_FORMAT, at, "expected a key of 1 to 65535 characters");
    at = c->at;
    e = take_u32(c, "the kind of a value", &v->kind);
    if (e)
        return e;
    if (v->kind > GGUF_F64)
        return refuse(c, ERR_FORMAT, at, "expected a kind of value up to 12, found %" PRIu32, v->kind);
    v->element = v->kind;
    v->count = 1;
    if (v->kind == GGUF_ARRAY)
        return take_array(c, v);
    if (v->kind == GGUF_STRING) {
        struct gguf_text text;
        e = take_string(c, "a string", &text);
        if (e)
            return e;
        v->bytes = 8 + text.bytes;
        v->data = c->g->map + c->at - v->bytes;
        return ERR_NONE;
    }
    v->bytes = kind_bytes[v->kind];
    return take(c, v->bytes, "a value", &v->data);
}

static enum err take_shape(struct cursor *c, struct gguf_tensor *t)
{
    size_t at = c->at;
    enum err e = take_u32(c, "the dimensions of a tensor", &t->dims);
    if (e)
        return e;
    if (t->dims < 1 || t->dims > GGUF_DIMS)
        return refuse(c, ERR_FORMAT, at, "expected 1 to %d dimensions of %s, found %" PRIu32, GGUF_DIMS,
                      t->name, t->dims);
    for (uint32_t i = 0; i < GGUF_DIMS; i++)
        t->shape[i] = 1;
    t->rows = 1;
    for (uint32_t i = 0; i < t->dims; i++) {
        at = c->at;
        e = take_u64(c, "a dimension of a tensor", &t->shape[i]);
        if (e)
            return e;
        if (t->shape[i] < 1 || t->shape[i] > DIM_MAX)
            return refuse(c, ERR_FORMAT, at, "expected a dimension of %s of 1 to %d, found %" PRIu64,
                          t->name, DIM_MAX, t->shape[i]);
        if (i > 0 && __builtin_mul_overflow(t->rows, t->shape[i], &t->rows))
            return refuse(c, ERR_FORMAT, at, "expected a shape of %s that can be counted", t->name);
    }
    at = c->at;
    e = take_u32(c, "the type of a tensor", &t->type);
    if (e)
        return e;
    if (!block_type(t->type))
        return refuse(c, ERR_UNSUPPORTED, at, "%s has element type %" PRIu32 ", unknown to this build",
                      t->name, t->type);
    t->row_bytes = block_row_bytes(t->type, (uint32_t)t->shape[0]);
    if (t->row_bytes == 0)
        return refuse(c, ERR_FORMAT, at, "expected rows of %s in whole %s blocks, found %" PRIu64 " values",
                      t->name, block_type(t->type)->name, t->shape[0]);
    if (__builtin_mul_overflow(t->row_bytes, t->rows, &t->bytes))
        return refuse(c, ERR_FORMAT, at, "expected a size of %s that can be counted", t->name);
    return ERR_NONE;
}

/* data is set to the offset for now: where the data starts is known after the last header. */
static enum err take_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t *offset)
{
    const size_t at = c->at;
    struct gguf_text name;
    enum err e = take_string(c, "the name of a tensor", &name);
    if (e)
        return e;
    if (name.bytes == 0 || name.bytes >= GGUF_NAME_BYTES || memchr(name.text, 0, name.bytes))
        return refuse(c, ERR_FORMAT, at, "expected a tensor name of 1 to %d characters, found %zu",
                      GGUF_NAME_BYTES - 1, name.bytes);
    memcpy(t->name, name.text, name.bytes);
    t->name[name.bytes] = 0;
    e = take_shape(c, t);
    return e ? e : take_u64(c, "the offset of a tensor", offset);
}

static int by_key(const void *a, const void *b, void *context)
{
    const struct gguf *g = context;
    return gguf_compare(g->key[*(const uint32_t *)a].key, g->key[*(const uint32_t *)b].key);
}

static int by_tensor(const void *a, const void *b, void *context)
{
    const struct gguf *g = context;
    return strcmp(g->tensor[*(const uint32_t *)a].name, g->tensor[*(const uint32_t *)b].name);
}

static enum err read_header(struct cursor *c, struct gguf *g)
{
    const uint8_t *magic;
    uint32_t version;
    uint64_t tensors, keys;
    enum err e = take(c, 4, "the magic", &magic);
    if (e)
        return e;
    if (memcmp(magic, "GGUF", 4) != 0)
        return refuse(c, ERR_FORMAT, 0, "expected the magic GGUF, found %02x %02x %02x %02x", magic[0],
                      magic[1], magic[2], magic[3]);
    if ((e = take_u32(c, "the version", &version)))
        return e;
    if (version != 3)
        return refuse(c, ERR_VERSION, 4, "expected version 3 (little-endian), found %" PRIu32, version);
    if ((e = take_u64(c, "the number of tensors", &tensors)) ||
        (e = take_u64(c, "the number of keys", &keys)))
        return e;
    const size_t rest = g->size - c->at;
    if (tensors > GGUF_TENSORS_MAX || tensors > rest / TENSOR_BYTES_MIN)
        return refuse(c, ERR_FORMAT, 8, "expected a number of tensors that fits the file, found %" PRIu64,
                      tensors);
    if (keys > GGUF_KEYS_MAX || keys > rest / KEY_BYTES_MIN)
        return refuse(c, ERR_FORMAT, 16, "expected a number of keys that fits the file, found %" PRIu64,
                      keys);
    g->tensors = (uint32_t)tensors;
    g->keys = (uint32_t)keys;
    g->key = calloc(keys + 1, sizeof *g->key); /* + 1: calloc(0) may be NULL */
    g->tensor = calloc(tensors + 1, sizeof *g->tensor);
    g->key_order = calloc(keys + 1, sizeof *g->key_order);
    g->tensor_order = calloc(tensors + 1, sizeof *g->tensor_order);
    if (!g->key || !g->tensor || !g->key_order || !g->tensor_order)
        return refuse(c, ERR_MEMORY, c->at, "no memory for the index");
    return ERR_NONE;
}

static enum err read_keys(struct cursor *c, struct gguf *g)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < g->keys; i++) {
        if ((e = take_value(c, &g->key[i])))
            return e;
        g->key_order[i] = i;
    }
    qsort_r(g->key_order, g->keys, sizeof *g->key_order, by_key, g);
    for (uint32_t i = 1; i < g->keys; i++)
        if (by_key(&g->key_order[i - 1], &g->key_order[i], g) == 0) {
            const struct gguf_text key = g->key[g->key_order[i]].key;
            return refuse(c, ERR_FORMAT, (size_t)((const uint8_t *)key.text - g->map),
                          "the key %.*s is there twice", (int)key.bytes, key.text);
        }
    const struct gguf_value *v = gguf_find(g, "general.alignment");
    if (!v)
        return ERR_NONE;
    if (gguf_u32(g, "general.alignment", &g->alignment) || g->alignment < 8 ||
        g->alignment > ALIGNMENT_MAX || (g->alignment & (g->alignment - 1)))
        return refuse(c, ERR_FORMAT, (size_t)(v->data - g->map),
                      "expected general.alignment as a power of two of 8 to %d", ALIGNMENT_MAX);
    return ERR_NONE;
}

static enum err read_tensors(struct cursor *c, struct gguf *g)
{
    enum err e = ERR_NONE;
    uint64_t expected = 0;
    for (uint32_t i = 0; i < g->tensors; i++) {
        struct gguf_tensor *t = &g->tensor[i];
        uint64_t offset;
        if ((e = take_tensor(c, t, &offset)))
            return e;
        if (offset != expected)
            return refuse(c, ERR_FORMAT, c->at - 8,
                          "expected %s at offset %" PRIu64 " of the data, found %" PRIu64, t->name, expected,
                          offset);
        if (t->bytes > g->size || offset > g->size - t->bytes)
            return refuse(c, ERR_FORMAT, c->at - 8, "expected %s (%zu bytes) within the file", t->name,
                          t->bytes);
        t->data = g->map + offset;
        expected = (offset + t->bytes + g->alignment - 1) / g->alignment * g->alignment;
        g->tensor_order[i] = i;
    }
    const size_t start = (c->at + g->alignment - 1) / g->alignment * g->alignment;
    for (uint32_t i = 0; i < g->tensors; i++) {
        struct gguf_tensor *t = &g->tensor[i];
        const size_t offset = (size_t)(t->data - g->map);
        if (start > g->size || offset > g->size - start || t->bytes > g->size - start - offset)
            return refuse(c, ERR_FORMAT, start + offset, "expected %s (%zu bytes), the file has %zu",
                          t->name, t->bytes, g->size);
        t->data += start;
    }
    qsort_r(g->tensor_order, g->tensors, sizeof *g->tensor_order, by_tensor, g);
    for (uint32_t i = 1; i < g->tensors; i++)
        if (by_tensor(&g->tensor_order[i - 1], &g->tensor_order[i], g) == 0)
            return refuse(c, ERR_FORMAT, c->at, "the tensor %s is there twice",
                          g->tensor[g->tensor_order[i]].name);
    return ERR_NONE;
}

static enum err parse(struct gguf *g, char *reason)
{
    struct cursor c = {g, 0, reason};
    enum err e = read_header(&c, g);
    if (!e)
        e = read_keys(&c, g);
    return e ? e : read_tensors(&c, g);
}

static enum err map_file(struct gguf *g, char *reason)
{
    enum err e = ERR_IO;
    struct stat status;
    void *map;
    const int fd = open(g->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        e = errno == ENOENT || errno == ENOTDIR || errno == EACCES ? ERR_NOT_FOUND : ERR_IO;
        snprintf(reason, GGUF_REASON_BYTES, "%s: %s", short_path(g), strerror(errno));
        goto out;
    }
    if (!S_ISREG(status.st_mode) || status.st_size < 24) {
        snprintf(reason, GGUF_REASON_BYTES, "%s: byte 0: expected a GGUF file of at least 24 bytes",
                 short_path(g));
        e = ERR_FORMAT;
        goto out;
    }
    map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        snprintf(reason, GGUF_REASON_BYTES, "%s: %s", short_path(g), strerror(errno));
        goto out;
    }
    g->map = map;
    g->size = (size_t)status.st_size;
    g->mapped = true;
    e = ERR_NONE;
out:
    if (fd >= 0)
        close(fd);
    return e;
}

static enum err open_any(const char *path, const void *bytes, size_t size, struct gguf **out,
                         char *reason)
{
    reason[0] = 0;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g || !(g->path = strdup(path))) {
        snprintf(reason, GGUF_REASON_BYTES, "no memory for the index");
        free(g);
        return ERR_MEMORY;
    }
    g->alignment = GGUF_ALIGNMENT_DEFAULT;
    g->map = bytes;
    g->size = size;
    enum err e = bytes ? ERR_NONE : map_file(g, reason);
    if (!e)
        e = parse(g, reason);
    if (e)
        gguf_close(g);
    else
        *out = g;
    return e;
}

enum err gguf_open(const char *path, struct gguf **out, char reason[GGUF_REASON_BYTES])
{
    return open_any(path, NULL, 0, out, reason);
}

enum err gguf_open_bytes(const void *bytes, size_t size, const char *name, struct gguf **out,
                         char reason[GGUF_REASON_BYTES])
{
    return open_any(name, bytes ? bytes : "", bytes ? size : 0, out, reason);
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    if (g->mapped)
        munmap((void *)(uintptr_t)g->map, g->size);
    free(g->key);
    free(g->tensor);
    free(g->key_order);
    free(g->tensor_order);
    free(g->path);
    free(g);
}
