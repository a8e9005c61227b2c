/* gguf_writer.c: the streaming writer. The header is composed in memory, compared when a kept file is to
 * be resumed, and the data goes straight to the file. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/block.h"
#include "model/gguf.h"

struct entry {
    char *key;
    uint32_t kind;
    uint8_t *bytes; /* the value as in the file, after its kind */
    size_t size;
};

struct header {
    char name[GGUF_NAME_BYTES];
    uint32_t type;
    uint32_t dims;
    uint64_t shape[GGUF_DIMS];
    uint64_t offset; /* from the start of the data */
    uint64_t bytes;
};

struct gguf_writer {
    char *path;
    char *part;
    uint32_t alignment;
    struct entry *entry;
    size_t entries, entries_room;
    struct header *tensor;
    size_t tensors, tensors_room;
    int fd; /* -1 until begin */
    bool keeps;
    bool is_committed;
    uint64_t data_start;
    size_t current;   /* tensor being appended */
    uint64_t written; /* of it */
    char reason[GGUF_REASON_BYTES];
};

struct bytes {
    uint8_t *at;
    size_t used, room;
    bool failed;
};

static void put(struct bytes *b, const void *data, size_t size)
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

static void put_u32(struct bytes *b, uint32_t x)
{
    put(b, &x, sizeof x);
}

static void put_u64(struct bytes *b, uint64_t x)
{
    put(b, &x, sizeof x);
}

static void put_string(struct bytes *b, const char *text, size_t size)
{
    put_u64(b, size);
    put(b, text, size);
}

static enum err fail(struct gguf_writer *w, enum err e, const char *what)
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
                    struct bytes *value)
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
        struct entry *entry = realloc(w->entry, room * sizeof *entry);
        if (!entry)
            goto out;
        w->entry = entry;
        w->entries_room = room;
    }
    name = strndup(key, key_bytes);
    if (!name)
        goto out;
    w->entry[w->entries++] = (struct entry){name, kind, value->at, value->used};
    return ERR_NONE;
out:
    free(value->at);
    return fail(w, e, e == ERR_MEMORY ? "no memory for metadata" : "a key came too late or is too long");
}

static enum err set_plain(struct gguf_writer *w, const char *key, uint32_t kind, const void *data,
                          size_t size)
{
    struct bytes value = {0};
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
    struct bytes value = {0};
    put_string(&value, text, bytes);
    return set(w, key, strlen(key), GGUF_STRING, &value);
}

enum err gguf_writer_array(struct gguf_writer *w, const char *key, uint32_t kind, const void *elements,
                           uint64_t count)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (kind > GGUF_F64 || sizes[kind] == 0 || count > GGUF_ARRAY_MAX)
        return fail(w, ERR_ARGUMENT, "an array of strings or arrays, or too long");
    struct bytes value = {0};
    put_u32(&value, kind);
    put_u64(&value, count);
    put(&value, elements, (size_t)count * sizes[kind]);
    return set(w, key, strlen(key), GGUF_ARRAY, &value);
}

enum err gguf_writer_strings(struct gguf_writer *w, const char *key, const struct gguf_text *strings,
                             uint64_t count)
{
    if (count > GGUF_ARRAY_MAX)
        return fail(w, ERR_ARGUMENT, "an array too long");
    struct bytes value = {0};
    put_u32(&value, GGUF_STRING);
    put_u64(&value, count);
    for (uint64_t i = 0; i < count; i++)
        put_string(&value, strings[i].text, strings[i].bytes);
    return set(w, key, strlen(key), GGUF_ARRAY, &value);
}

enum err gguf_writer_copy(struct gguf_writer *w, const struct gguf_value *v)
{
    struct bytes value = {0};
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

static uint64_t padded(const struct gguf_writer *w, uint64_t bytes)
{
    return (bytes + w->alignment - 1) / w->alignment * w->alignment;
}

enum err gguf_writer_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t dims,
                            const uint64_t *shape)
{
    struct header t = {.type = type, .dims = dims};
    const size_t length = strlen(name);
    if (w->fd >= 0 || length == 0 || length >= sizeof t.name || dims < 1 || dims > GGUF_DIMS ||
        w->tensors >= GGUF_TENSORS_MAX || shape[0] > UINT32_MAX)
        return fail(w, ERR_ARGUMENT, "a tensor came too late, or its name or shape is not allowed");
    for (size_t i = 0; i < w->tensors; i++)
        if (strcmp(w->tensor[i].name, name) == 0)
            return fail(w, ERR_ARGUMENT, "a tensor is there twice");
    memcpy(t.name, name, length);
    t.bytes = block_row_bytes(type, (uint32_t)shape[0]);
    for (uint32_t i = 0; i < dims; i++) {
        t.shape[i] = shape[i];
        if (i > 0 && __builtin_mul_overflow(t.bytes, shape[i], &t.bytes))
            t.bytes = 0;
    }
    if (t.bytes == 0)
        return fail(w, ERR_ARGUMENT, "a tensor is empty or its rows are not whole blocks");
    if (w->tensors) {
        const struct header *last = &w->tensor[w->tensors - 1];
        t.offset = padded(w, last->offset + last->bytes);
    }
    if (w->tensors == w->tensors_room) {
        const size_t room = w->tensors_room * 2 + 64;
        struct header *tensor = realloc(w->tensor, room * sizeof *tensor);
        if (!tensor)
            return fail(w, ERR_MEMORY, "no memory for tensors");
        w->tensor = tensor;
        w->tensors_room = room;
    }
    w->tensor[w->tensors++] = t;
    return ERR_NONE;
}

static void compose(const struct gguf_writer *w, struct bytes *b)
{
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, w->tensors);
    put_u64(b, w->entries);
    for (size_t i = 0; i < w->entries; i++) {
        const struct entry *entry = &w->entry[i];
        put_string(b, entry->key, strlen(entry->key));
        put_u32(b, entry->kind);
        put(b, entry->bytes, entry->size);
    }
    for (size_t i = 0; i < w->tensors; i++) {
        const struct header *t = &w->tensor[i];
        put_string(b, t->name, strlen(t->name));
        put_u32(b, t->dims);
        for (uint32_t d = 0; d < t->dims; d++)
            put_u64(b, t->shape[d]);
        put_u32(b, t->type);
        put_u64(b, t->offset);
    }
    static const uint8_t zeros[64];
    for (uint64_t rest = padded(w, b->used) - b->used; rest > 0 && !b->failed;) {
        const size_t n = rest < sizeof zeros ? (size_t)rest : sizeof zeros;
        put(b, zeros, n);
        rest -= n;
    }
}

static enum err write_all(struct gguf_writer *w, const void *data, size_t size)
{
    const uint8_t *p = data;
    while (size > 0) {
        const ssize_t n = write(w->fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(w, ERR_IO, "write");
        p += n;
        size -= (size_t)n;
    }
    return ERR_NONE;
}

/* The kept file must begin with our header and hold all of the tensors to be used again. */
static enum err resume(struct gguf_writer *w, const struct bytes *b, uint32_t tensors)
{
    if (tensors > w->tensors)
        return fail(w, ERR_ARGUMENT, "more tensors to resume than announced");
    const struct header *last = &w->tensor[tensors - 1];
    const uint64_t end = tensors < w->tensors ? w->tensor[tensors].offset : last->offset + last->bytes;
    struct stat status;
    if (fstat(w->fd, &status) != 0)
        return fail(w, ERR_IO, "stat");
    if (status.st_size < 0 || (uint64_t)status.st_size < b->used + last->offset + last->bytes)
        return fail(w, ERR_MISMATCH, "the kept file is shorter than what is to be resumed");
    uint8_t piece[4096];
    for (size_t at = 0; at < b->used;) {
        const size_t n = b->used - at < sizeof piece ? b->used - at : sizeof piece;
        const ssize_t got = pread(w->fd, piece, n, (off_t)at);
        if (got <= 0)
            return fail(w, ERR_IO, "read");
        if (memcmp(piece, b->at + at, (size_t)got) != 0)
            return fail(w, ERR_MISMATCH, "the kept file is of another plan");
        at += (size_t)got;
    }
    const off_t position = (off_t)(b->used + end);
    if (ftruncate(w->fd, position) != 0 || lseek(w->fd, position, SEEK_SET) != position)
        return fail(w, ERR_IO, "truncate");
    w->current = tensors;
    return ERR_NONE;
}

enum err gguf_writer_begin(struct gguf_writer *w, uint32_t resume_tensors)
{
    if (w->fd >= 0)
        return fail(w, ERR_ARGUMENT, "already begun");
    struct bytes b = {0};
    compose(w, &b);
    enum err e = ERR_NONE;
    if (b.failed) {
        e = fail(w, ERR_MEMORY, "no memory for the header");
        goto out;
    }
    w->data_start = b.used;
    w->fd = open(w->part, O_RDWR | O_CLOEXEC | O_CREAT | (resume_tensors ? 0 : O_TRUNC), 0644);
    if (w->fd < 0) {
        e = fail(w, ERR_IO, "open");
        goto out;
    }
    e = resume_tensors ? resume(w, &b, resume_tensors) : write_all(w, b.at, b.used);
    if (e && resume_tensors) { /* not ours: leave it as it is, a begin from 0 may follow */
        close(w->fd);
        w->fd = -1;
    }
out:
    free(b.at);
    return e;
}

static enum err pad(struct gguf_writer *w, uint64_t bytes)
{
    static const uint8_t zeros[4096];
    enum err e = ERR_NONE;
    while (bytes > 0 && !e) {
        const size_t n = bytes < sizeof zeros ? (size_t)bytes : sizeof zeros;
        e = write_all(w, zeros, n);
        bytes -= n;
    }
    return e;
}

enum err gguf_writer_append(struct gguf_writer *w, const void *data, size_t bytes)
{
    if (w->fd < 0 || w->current >= w->tensors || bytes > w->tensor[w->current].bytes - w->written)
        return fail(w, ERR_ARGUMENT, "more tensor data than announced");
    const struct header *t = &w->tensor[w->current];
    enum err e = write_all(w, data, bytes);
    if (e)
        return e;
    w->written += bytes;
    if (w->written < t->bytes)
        return ERR_NONE;
    w->current++;
    w->written = 0;
    return pad(w, padded(w, t->offset + t->bytes) - t->offset - t->bytes);
}

enum err gguf_writer_string_late(struct gguf_writer *w, const char *key, const char *text, size_t bytes)
{
    struct bytes b = {0};
    struct entry *entry = NULL;
    for (size_t i = 0; i < w->entries; i++)
        if (strcmp(w->entry[i].key, key) == 0 && w->entry[i].kind == GGUF_STRING)
            entry = &w->entry[i];
    if (w->fd < 0 || !entry || entry->size != sizeof(uint64_t) + bytes)
        return fail(w, ERR_ARGUMENT, "a late value of another length, or of no key");
    memcpy(entry->bytes + sizeof(uint64_t), text, bytes);
    compose(w, &b);
    enum err e = b.failed ? fail(w, ERR_MEMORY, "no memory for the header") : ERR_NONE;
    if (!e && pwrite(w->fd, b.at, b.used, 0) != (ssize_t)b.used)
        e = fail(w, ERR_IO, "write");
    free(b.at);
    return e;
}

enum err gguf_writer_sync(struct gguf_writer *w)
{
    if (w->fd < 0)
        return fail(w, ERR_ARGUMENT, "not begun");
    return fdatasync(w->fd) == 0 ? ERR_NONE : fail(w, ERR_IO, "sync");
}

/* A rename is durable once its folder is. */
static enum err sync_folder(struct gguf_writer *w)
{
    const char *slash = strrchr(w->path, '/');
    char *folder = slash ? strndup(w->path, slash == w->path ? 1 : (size_t)(slash - w->path))
                         : strdup(".");
    if (!folder)
        return fail(w, ERR_MEMORY, "no memory");
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    const int failed = fd < 0 || fsync(fd) != 0;
    if (fd >= 0)
        close(fd);
    return failed ? fail(w, ERR_IO, "sync the folder") : ERR_NONE;
}

enum err gguf_writer_commit(struct gguf_writer *w)
{
    if (w->fd < 0 || w->current != w->tensors)
        return fail(w, ERR_ARGUMENT, "tensor data is missing");
    if (fsync(w->fd) != 0)
        return fail(w, ERR_IO, "sync");
    if (rename(w->part, w->path) != 0)
        return fail(w, ERR_IO, "rename");
    w->is_committed = true;
    return sync_folder(w);
}
