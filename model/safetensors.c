/* safetensors.c: map the shards, check their headers. */
#include "model/safetensors.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/hal.h"

enum { SHARDS_MAX = 1024, TENSORS_MAX = 1 << 18, HEADER_MAX = 100 << 20, LENGTH_BYTES = 8 };

struct shard {
    void *map;
    size_t bytes;
};

struct safetensors {
    struct shard *shard;
    uint32_t shards;
    struct safetensors_tensor *tensor; /* by name */
    uint32_t tensors, room;
};

static enum err refuse(enum err e, const char *path, const char *what, char *reason)
{
    const size_t length = strlen(path);
    snprintf(reason, GGUF_REASON_BYTES, "%s: %s", path + (length > 80 ? length - 80 : 0), what);
    return e;
}

static bool element(const char *name, uint32_t *type, size_t *bytes)
{
    static const struct {
        const char *name;
        uint32_t type;
        size_t bytes;
    } known[] = {{"F32", HAL_F32, 4}, {"F16", HAL_F16, 2}, {"BF16", HAL_BF16, 2}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            *type = known[i].type;
            *bytes = known[i].bytes;
            return true;
        }
    return false;
}

/* Whole-number tensors are buffers of the training code, never weights. */
static bool is_buffer(const char *dtype)
{
    return dtype[0] == 'I' || dtype[0] == 'U' || strcmp(dtype, "BOOL") == 0;
}

static enum err read_shape(const json_t *shape, struct safetensors_tensor *t)
{
    t->dims = (uint32_t)json_array_size(shape);
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_DIMS)
        return ERR_FORMAT;
    t->values = 1;
    for (uint32_t i = 0; i < SAFETENSORS_DIMS; i++) {
        t->shape[i] = 1;
        if (i >= t->dims)
            continue;
        const json_int_t n = json_integer_value(json_array_get(shape, i));
        if (n <= 0 || t->values > UINT64_MAX / 8 / (uint64_t)n)
            return ERR_FORMAT;
        t->shape[i] = (uint64_t)n;
        t->values *= t->shape[i];
    }
    return ERR_NONE;
}

static enum err add_tensor(struct safetensors *s, const char *path, const char *name, const json_t *entry,
                           const uint8_t *data, size_t data_bytes, char *reason)
{
    struct safetensors_tensor t = {.dims = 0};
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_int_t begin = json_integer_value(json_array_get(offsets, 0));
    const json_int_t end = json_integer_value(json_array_get(offsets, 1));
    char what[128];
    size_t bytes = 0;
    if (dtype && is_buffer(dtype))
        return ERR_NONE;
    if (!dtype || !element(dtype, &t.type, &bytes)) {
        snprintf(what, sizeof what, "%.60s: expected F32, F16 or BF16, found %.12s", name, dtype ? dtype : "nothing");
        return refuse(ERR_UNSUPPORTED, path, what, reason);
    }
    if (strlen(name) >= sizeof t.name || json_array_size(offsets) != 2 ||
        read_shape(json_object_get(entry, "shape"), &t) || begin < 0 || end < begin ||
        (uint64_t)end > data_bytes || (uint64_t)(end - begin) != t.values * bytes) {
        snprintf(what, sizeof what, "%.60s: expected a shape and offsets that fit the file", name);
        return refuse(ERR_FORMAT, path, what, reason);
    }
    if (s->tensors == s->room) {
        if (s->room >= TENSORS_MAX)
            return refuse(ERR_FORMAT, path, "expected fewer tensors", reason);
        const uint32_t room = s->room * 2 + 64;
        struct safetensors_tensor *more = realloc(s->tensor, room * sizeof *more);
        if (!more)
            return refuse(ERR_MEMORY, path, "no memory for the header", reason);
        s->tensor = more;
        s->room = room;
    }
    strcpy(t.name, name);
    t.data = data + begin;
    s->tensor[s->tensors++] = t;
    return ERR_NONE;
}

static enum err read_header(struct safetensors *s, const char *path, const struct shard *shard, char *reason)
{
    const uint8_t *bytes = shard->map;
    uint64_t length = 0;
    for (int i = LENGTH_BYTES; i-- > 0;)
        length = length << 8 | bytes[i];
    if (length > HEADER_MAX || length > shard->bytes - LENGTH_BYTES)
        return refuse(ERR_FORMAT, path, "byte 0: expected a header length within the file", reason);
    json_error_t error;
    json_t *header = json_loadb((const char *)bytes + LENGTH_BYTES, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(header)) {
        json_decref(header);
        return refuse(ERR_FORMAT, path, "byte 8: expected a JSON object", reason);
    }
    enum err e = ERR_NONE;
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry)
    {
        if (!e && strcmp(name, "__metadata__") != 0)
            e = add_tensor(s, path, name, entry, bytes + LENGTH_BYTES + length,
                           shard->bytes - LENGTH_BYTES - (size_t)length, reason);
    }
    json_decref(header);
    return e;
}

static enum err open_shard(struct safetensors *s, const char *path, char *reason)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return refuse(ERR_IO, path, "cannot be read", reason);
    }
    if (!S_ISREG(st.st_mode) || st.st_size < LENGTH_BYTES) {
        close(fd);
        return refuse(ERR_FORMAT, path, "expected a safetensors file, found fewer than 8 bytes", reason);
    }
    struct shard *more = realloc(s->shard, (s->shards + 1) * sizeof *more);
    void *map = more ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (more)
        s->shard = more;
    if (map == MAP_FAILED)
        return refuse(ERR_MEMORY, path, "cannot be mapped", reason);
    s->shard[s->shards] = (struct shard){map, (size_t)st.st_size};
    return read_header(s, path, &s->shard[s->shards++], reason);
}

/* The index names the shard of each tensor; a shard is opened once. */
static enum err open_index(struct safetensors *s, const char *folder, const char *index, char *reason)
{
    json_error_t error;
    json_t *root = json_load_file(index, JSON_REJECT_DUPLICATES, &error);
    const json_t *map = json_object_get(root, "weight_map");
    json_t *opened = json_object();
    const char *name;
    json_t *file;
    enum err e = json_is_object(map) && opened ? ERR_NONE
                                               : refuse(ERR_FORMAT, index, "expected an object weight_map", reason);
    json_object_foreach((json_t *)map, name, file)
    {
        const char *shard = json_string_value(file);
        char path[4096];
        if (e || (shard && json_object_get(opened, shard)))
            continue;
        if (!shard || strchr(shard, '/') || shard[0] == '.' || s->shards >= SHARDS_MAX) {
            e = refuse(ERR_FORMAT, index, "weight_map: expected plain file names", reason);
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", folder, shard);
        e = open_shard(s, path, reason);
        if (!e && json_object_set_new(opened, shard, json_true()) != 0)
            e = refuse(ERR_MEMORY, index, "no memory for the index", reason);
    }
    json_decref(opened);
    json_decref(root);
    return e;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct safetensors_tensor *)a)->name, ((const struct safetensors_tensor *)b)->name);
}

enum err safetensors_open(const char *folder, struct safetensors **out, char reason[GGUF_REASON_BYTES])
{
    char path[4096], index[4096];
    struct safetensors *s = calloc(1, sizeof *s);
    if (!s)
        return refuse(ERR_MEMORY, folder, "no memory", reason);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", folder);
    enum err e = access(path, R_OK) == 0    ? open_shard(s, path, reason)
                 : access(index, R_OK) == 0 ? open_index(s, folder, index, reason)
                                            : refuse(ERR_NOT_FOUND, folder,
                                                     "expected model.safetensors or its index.json", reason);
    if (!e) {
        qsort(s->tensor, s->tensors, sizeof *s->tensor, by_name);
        for (uint32_t i = 1; i < s->tensors && !e; i++)
            if (strcmp(s->tensor[i - 1].name, s->tensor[i].name) == 0)
                e = refuse(ERR_FORMAT, folder, "a tensor is in two shards", reason);
    }
    if (e)
        safetensors_close(s);
    else
        *out = s;
    return e;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->shards; i++)
        munmap(s->shard[i].map, s->shard[i].bytes);
    free(s->shard);
    free(s->tensor);
    free(s);
}

uint32_t safetensors_count(const struct safetensors *s)
{
    return s->tensors;
}

struct safetensors_tensor *safetensors_at(struct safetensors *s, uint32_t i)
{
    return &s->tensor[i];
}

struct safetensors_tensor *safetensors_find(struct safetensors *s, const char *name)
{
    struct safetensors_tensor key;
    if (strlen(name) >= sizeof key.name)
        return NULL;
    strcpy(key.name, name);
    return s->tensors ? bsearch(&key, s->tensor, s->tensors, sizeof key, by_name) : NULL;
}

void safetensors_drop(const struct safetensors_tensor *t)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const size_t bytes = (size_t)t->values * (t->type == HAL_F32 ? 4 : 2);
    const uintptr_t begin = (uintptr_t)t->data & ~(page - 1), end = ((uintptr_t)t->data + bytes) & ~(page - 1);
    if (end > begin)
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED); /* only a hint */
}
