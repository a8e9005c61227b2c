/* gguf_writer.c: the streaming writer's metadata, and the header composed of it. The file is in
 * gguf_writer_file.c. */
#include "model/gguf_writer_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hal/block.h"

static void put(struct gguf_writer_bytes *b, const void *data, size_t size)
{
    if (b->failed || size == 0)
        return;
    if (size > b->room - b->used) {
        const size_t room = (b->used + size) * 2;
        uint8_t *at = realloc(b->at, room);
        if (!at) {
            b->failed = true;
            return;
        }
        b->at = at;
        b->room = room;
    }
    memcpy(b->at + b->used, data, size);
    b->used += size;
}

static void put_u32(struct gguf_writer_bytes *b, uint32_t x)
{
    put(b, &x, sizeof x);
}

static void put_u64(struct gguf_writer_bytes *b, uint64_t x)
{
    put(b, &x, sizeof x);
}

static void put_string(struct gguf_writer_bytes *b, const char *text, size_t size)
{
    put_u64(b, size);
    put(b, text, size);
}

enum err gguf_writer_fail(struct gguf_writer *w, enum err e, const char *what)
{
    const size_t length = strlen(w->part);
    snprintf(w->reason, sizeof w->reason, "%s: %s%s%s", length > 60 ? w->part + length - 60 : w->part, what,
             e == ERR_IO ? ": " : "", e == ERR_IO ? strerror(errno) : "");
    return e;
}

enum err gguf_writer_open(const char *path, uint32_t alignment, struct gguf_writer **out)
{
    if (alignment < 8 || alignment > (1u << 20) || (alignment & (alignment - 1)))
        return ERR_ARGUMENT;
    struct gguf_writer *w = calloc(1, sizeof *w);
    if (!w)
        return ERR_MEMORY;
    w->fd = -1;
    w->alignment = alignment;
    w->path = strdup(path);
    if (!w->path || asprintf(&w->part, "%s.part", path) < 0) {
        w->part = NULL;
        gguf_writer_close(w);
        return ERR_MEMORY;
    }
    if (alignment != GGUF_ALIGNMENT_DEFAULT) {
        const enum err e = gguf_writer_u32(w, "general.alignment", alignment);
        if (e) {
            gguf_writer_close(w);
            return e;
        }
    }
    *out = w;
    return ERR_NONE;
}

void gguf_writer_close(struct gguf_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0) {
        close(w->fd);
        if (!w->is_committed && !w->keeps)
            unlink(w->part);
    }
    for (size_t i = 0; i < w->entries; i++) {
        free(w->entry[i].key);
        free(w->entry[i].bytes);
    }
    free(w->entry);
    free(w->tensor);
    free(w->path);
    free(w->part);
    free(w);
}

const char *gguf_writer_reason(const struct gguf_writer *w)
{
    return w->reason;
}

void gguf_writer_keep(struct gguf_writer *w)
{
    w->keeps = true;
}

/* Takes value->at in any case. */
static enum err set(struct gguf_writer *w, const char *key, size_t key_bytes, uint32_t kind,
                    struct gguf_writer_bytes *value)
{
    enum err e = ERR_MEMORY;
    char *name = NULL;
    if (value->failed)
        goto out;
    if (w->fd >= 0 || key_bytes == 0 || key_bytes > 0xffff) {
        e = ERR_ARGUMENT;
        goto out;
    }
    for (size_t i = 0; i < w->entries; i++)
        if (strlen(w->entry[i].key) == key_bytes && memcmp(w->entry[i].key, key, key_bytes) == 0) {
            free(w->entry[i].bytes);
            w->entry[i].kind = kind;
            w->entry[i].bytes = value->at;
            w->entry[i].size = value->used;
            return ERR_NONE;
        }
    if (w->entries == w->entries_room) {
        const size_t room = w->entries_room * 2 + 32;
        struct gguf_writer_entry *entry = realloc(w->entry, room * sizeof *entry);
        if (!entry)
            goto out;
        w->entry = entry;
        w->entries_room = room;
    }
    name = strndup(key, key_bytes);
    if (!name)
        goto out;
    w->entry[w->entries++] = (struct gguf_writer_entry){name, kind, value->at, value->used};
    return ERR_NONE;
out:
    free(value->at);
    return gguf_writer_fail(w, e, e == ERR_MEMORY ? "no memory for metadata" : "a key came too late or is too long");
}

static enum err set_plain(struct gguf_writer *w, const char *key, uint32_t kind, const void *data,
                          size_t size)
{
    struct gguf_writer_bytes value = {0};
    put(&value, data, size);
    return set(w, key, strlen(key), kind, &value);
}

enum err gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    return set_plain(w, key, GGUF_U32, &value, sizeof value);
}

enum err gguf_writer_u64(struct gguf_writer *w, const char *key, uint64_t value)
{
    return set_plain(w, key, GGUF_U64, &value, sizeof value);
}

enum err gguf_writer_f32(struct gguf_writer *w, const char *key, float value)
{
    return set_plain(w, key, GGUF_F32, &value, sizeof value);
}

enum err gguf_writer_bool(struct gguf_writer *w, const char *key, bool value)
{
    const uint8_t byte = value;
    return set_plain(w, key, GGUF_BOOL, &byte, sizeof byte);
}

enum err gguf_writer_string(struct gguf_writer *w, const char *key, const char *text, size_t bytes)
{
    struct gguf_writer_bytes value = {0};
    put_string(&value, text, bytes);
    return set(w, key, strlen(key), GGUF_STRING, &value);
}

enum err gguf_writer_array(struct gguf_writer *w, const char *key, uint32_t kind, const void *elements,
                           uint64_t count)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (kind > GGUF_F64 || sizes[kind] == 0 || count > GGUF_ARRAY_MAX)
        return gguf_writer_fail(w, ERR_ARGUMENT, "an array of strings or arrays, or too long");
    struct gguf_writer_bytes value = {0};
    put_u32(&value, kind);
    put_u64(&value, count);
    put(&value, elements, (size_t)count * sizes[kind]);
    return set(w, key, strlen(key), GGUF_ARRAY, &value);
}

enum err gguf_writer_strings(struct gguf_writer *w, const char *key, const struct gguf_text *strings,
                             uint64_t count)
{
    if (count > GGUF_ARRAY_MAX)
        return gguf_writer_fail(w, ERR_ARGUMENT, "an array too long");
    struct gguf_writer_bytes value = {0};
    put_u32(&value, GGUF_STRING);
    put_u64(&value, count);
    for (uint64_t i = 0; i < count; i++)
        put_string(&value, strings[i].text, strings[i].bytes);
    return set(w, key, strlen(key), GGUF_ARRAY, &value);
}

enum err gguf_writer_copy(struct gguf_writer *w, const struct gguf_value *v)
{
    struct gguf_writer_bytes value = {0};
    if (v->kind == GGUF_ARRAY) {
        put_u32(&value, v->element);
        put_u64(&value, v->count);
    }
    put(&value, v->data, v->bytes);
    return set(w, v->key.text, v->key.bytes, v->kind, &value);
}

enum err gguf_writer_copy_all(struct gguf_writer *w, const struct gguf *from)
{
    static const char own[] = "general.alignment";
    for (uint32_t i = 0; i < gguf_keys(from); i++) {
        const struct gguf_value *v = gguf_key(from, i);
        if (v->key.bytes == sizeof own - 1 && memcmp(v->key.text, own, sizeof own - 1) == 0)
            continue;
        const enum err e = gguf_writer_copy(w, v);
        if (e)
            return e;
    }
    return ERR_NONE;
}

void gguf_writer_remove(struct gguf_writer *w, const char *key)
{
    for (size_t i = 0; i < w->entries; i++)
        if (strcmp(w->entry[i].key, key) == 0) {
            free(w->entry[i].key);
            free(w->entry[i].bytes);
            memmove(&w->entry[i], &w->entry[i + 1], (w->entries - i - 1) * sizeof *w->entry);
            w->entries--;
            return;
        }
}

uint64_t gguf_writer_padded(const struct gguf_writer *w, uint64_t bytes)
{
    return (bytes + w->alignment - 1) / w->alignment * w->alignment;
}

enum err gguf_writer_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t dims,
                            const uint64_t *shape)
{
    struct gguf_writer_tensor t = {.type = type, .dims = dims};
    const size_t length = strlen(name);
    if (w->fd >= 0 || length == 0 || length >= sizeof t.name || dims < 1 || dims > GGUF_DIMS ||
        w->tensors >= GGUF_TENSORS_MAX || shape[0] > UINT32_MAX)
        return gguf_writer_fail(w, ERR_ARGUMENT, "a tensor came too late, or its name or shape is not allowed");
    for (size_t i = 0; i < w->tensors; i++)
        if (strcmp(w->tensor[i].name, name) == 0)
            return gguf_writer_fail(w, ERR_ARGUMENT, "a tensor is there twice");
    memcpy(t.name, name, length);
    t.bytes = block_row_bytes(type, (uint32_t)shape[0]);
    for (uint32_t i = 0; i < dims; i++) {
        t.shape[i] = shape[i];
        if (i > 0 && __builtin_mul_overflow(t.bytes, shape[i], &t.bytes))
            t.bytes = 0;
    }
    if (t.bytes == 0)
        return gguf_writer_fail(w, ERR_ARGUMENT, "a tensor is empty or its rows are not whole blocks");
    if (w->tensors) {
        const struct gguf_writer_tensor *last = &w->tensor[w->tensors - 1];
        t.offset = gguf_writer_padded(w, last->offset + last->bytes);
    }
    if (w->tensors == w->tensors_room) {
        const size_t room = w->tensors_room * 2 + 64;
        struct gguf_writer_tensor *tensor = realloc(w->tensor, room * sizeof *tensor);
        if (!tensor)
            return gguf_writer_fail(w, ERR_MEMORY, "no memory for tensors");
        w->tensor = tensor;
        w->tensors_room = room;
    }
    w->tensor[w->tensors++] = t;
    return ERR_NONE;
}

void gguf_writer_compose(const struct gguf_writer *w, struct gguf_writer_bytes *b)
{
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, w->tensors);
    put_u64(b, w->entries);
    for (size_t i = 0; i < w->entries; i++) {
        const struct gguf_writer_entry *entry = &w->entry[i];
        put_string(b, entry->key, strlen(entry->key));
        put_u32(b, entry->kind);
        put(b, entry->bytes, entry->size);
    }
    for (size_t i = 0; i < w->tensors; i++) {
        const struct gguf_writer_tensor *t = &w->tensor[i];
        put_string(b, t->name, strlen(t->name));
        put_u32(b, t->dims);
        for (uint32_t d = 0; d < t->dims; d++)
            put_u64(b, t->shape[d]);
        put_u32(b, t->type);
        put_u64(b, t->offset);
    }
    static const uint8_t zeros[64];
    for (uint64_t rest = gguf_writer_padded(w, b->used) - b->used; rest > 0 && !b->failed;) {
        const size_t n = rest < sizeof zeros ? (size_t)rest : sizeof zeros;
        put(b, zeros, n);
        rest -= n;
    }
}
