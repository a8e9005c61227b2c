#include "compress/gptq_work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress/layer_stream.h"

enum { PATH_BYTES = 4096, PIECE = 1 << 20 };

static void path_of(const char *out_path, const char *suffix, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s%s", out_path, suffix);
}

void gptq_work_discard(const char *out_path)
{
    static const char *const suffixes[] = {".work", ".blocks", ".layers", ".layers.new"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        path_of(out_path, suffixes[i], path);
        unlink(path);
    }
}

/* "tare-gptq 1 IDENTITY LAYERS\n"; anything else is no state. */
static uint32_t read_layers(const struct gptq_work *w)
{
    char path[PATH_BYTES], identity[DIGEST_HEX] = "", end = 0;
    uint32_t layers = 0;
    path_of(w->out_path, ".layers", path);
    FILE *in = fopen(path, "r");
    if (!in)
        return 0;
    const int n = fscanf(in, "tare-gptq 1 %64[0-9a-f] %u%c", identity, &layers, &end);
    fclose(in);
    return n == 3 && end == '\n' && strcmp(identity, w->identity) == 0 ? layers : 0;
}

static enum err write_layers(const struct gptq_work *w, uint32_t layers)
{
    char path[PATH_BYTES], fresh[PATH_BYTES];
    path_of(w->out_path, ".layers", path);
    path_of(w->out_path, ".layers.new", fresh);
    FILE *to = fopen(fresh, "w");
    if (!to)
        return ERR_IO;
    bool ok = fprintf(to, "tare-gptq 1 %s %u\n", w->identity, layers) > 0 && fflush(to) == 0 && fsync(fileno(to)) == 0;
    ok = fclose(to) == 0 && ok;
    if (ok && rename(fresh, path) == 0)
        return ERR_NONE;
    const int why = errno;
    unlink(fresh);
    errno = why;
    return ERR_IO;
}

/* A disk that is full takes a part of a piece first; the next attempt says why. */
static enum err write_piece(int out, const char *piece, size_t bytes, const char *to, struct fault *f)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = write(out, piece + done, bytes - done);
        if (n <= 0)
            return fault_set(f, ERR_IO, "%s: %s", to, strerror(errno));
        done += (size_t)n;
    }
    return ERR_NONE;
}

static enum err copy_base(const char *from, const char *to, uint64_t bytes, struct fault *f)
{
    const int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return fault_open(f, from);
    const int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    enum err e = out >= 0 ? ERR_NONE : fault_set(f, ERR_IO, "%s: %s", to, strerror(errno));
    char *piece = malloc(PIECE);
    if (!piece && !e)
        e = ERR_MEMORY;
    for (uint64_t at = 0; !e && at < bytes;) {
        const ssize_t n = read(in, piece, PIECE);
        if (n <= 0)
            e = fault_set(f, ERR_IO, "%s: %s", from, n < 0 ? strerror(errno) : "ends too soon");
        else
            e = write_piece(out, piece, (size_t)n, to, f);
        at += n > 0 ? (uint64_t)n : 0;
    }
    free(piece);
    close(in);
    if (out >= 0 && close(out) && !e)
        e = fault_set(f, ERR_IO, "%s: %s", to, strerror(errno));
    return e;
}

void gptq_work_drop(const struct gptq_work *w)
{
    (void)madvise(w->map, w->bytes, MADV_DONTNEED); /* only advice */
}

uint8_t *gptq_work_data(const struct gptq_work *w, uint32_t i)
{
    return w->map + (gguf_tensor(w->gguf, i)->data - w->map);
}

/* What is wrong with a copy is wrong with the base: it goes by that name. */
static enum err map_work(struct gptq_work *w, const char *path, const char *base_path, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, w->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        fault_set(f, ERR_IO, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED)
        return ERR_IO;
    w->map = map;
    const enum err e = gguf_open_bytes(w->map, w->bytes, base_path, &w->gguf, reason);
    return e ? fault_set(f, e, "%s", reason) : ERR_NONE;
}

/* A killed run may have put more than its last record says. */
static void restore(struct gptq_work *w, const struct gguf *base, uint32_t layers)
{
    for (uint32_t i = 0; i < gguf_tensors(base); i++) {
        const struct gguf_tensor *from = gguf_tensor(base, i);
        const uint32_t layer = layer_stream_layer(from->name);
        if (layer < layers || layer == UINT32_MAX)
            continue;
        memcpy(gptq_work_data(w, i), from->data, from->bytes);
        gguf_drop(base, from->data, from->bytes);
        gptq_work_drop(w);
    }
}

static enum err open_blocks(struct gptq_work *w, bool is_resumed, struct fault *f)
{
    char path[PATH_BYTES];
    path_of(w->out_path, ".blocks", path);
    if (!(w->offset = calloc(w->plan->tensors + 1u, sizeof *w->offset)))
        return ERR_MEMORY;
    for (uint32_t i = 0; i < w->plan->tensors; i++)
        w->offset[i + 1] = w->offset[i] + (layer_stream_layer(w->plan->tensor[i].name) == UINT32_MAX
                                               ? 0
                                               : plan_tensor_bytes(&w->plan->tensor[i]));
    w->blocks = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (is_resumed ? 0 : O_TRUNC), 0600);
    return w->blocks < 0 ? fault_set(f, ERR_IO, "%s: %s", path, strerror(errno)) : ERR_NONE;
}

enum err gptq_work_open(struct gptq_work *w, const char *out_path, const char identity[DIGEST_HEX],
                        const struct plan *plan, const struct gguf *base, uint32_t *layers, struct fault *f)
{
    char path[PATH_BYTES], blocks[PATH_BYTES];
    struct stat work_status, blocks_status;
    *w = (struct gptq_work){.plan = plan, .out_path = out_path, .bytes = (size_t)gguf_bytes(base), .blocks = -1,
                            .writing = UINT32_MAX};
    memcpy(w->identity, identity, sizeof w->identity);
    path_of(out_path, ".work", path);
    path_of(out_path, ".blocks", blocks);
    *layers = read_layers(w);
    if (stat(path, &work_status) || (uint64_t)work_status.st_size != gguf_bytes(base) || stat(blocks, &blocks_status))
        *layers = 0;
    enum err e = ERR_NONE;
    if (*layers == 0) {
        gptq_work_discard(out_path);
        if ((e = copy_base(gguf_path(base), path, gguf_bytes(base), f)))
            return e;
    }
    if ((e = map_work(w, path, gguf_path(base), f)) || (e = open_blocks(w, *layers > 0, f)))
        return e;
    if (*layers > 0)
        restore(w, base, *layers);
    return ERR_NONE;
}

void gptq_work_close(struct gptq_work *w)
{
    gguf_close(w->gguf);
    if (w->map)
        munmap(w->map, w->bytes);
    if (w->blocks >= 0)
        close(w->blocks);
    free(w->offset);
    *w = (struct gptq_work){.blocks = -1};
}

enum err gptq_work_keep(struct gptq_work *w, uint32_t i, const void *data, size_t bytes)
{
    if (w->writing != i)
        w->written = 0;
    w->writing = i;
    if (bytes > w->offset[i + 1] - w->offset[i] - w->written)
        return ERR_ARGUMENT;
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = pwrite(w->blocks, (const char *)data + done, bytes - done,
                                 (off_t)(w->offset[i] + w->written + done));
        if (n <= 0)
            return ERR_IO;
        done += (size_t)n;
    }
    w->written += bytes;
    return ERR_NONE;
}

enum err gptq_work_read(const struct gptq_work *w, uint32_t i, uint64_t at, void *out, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = pread(w->blocks, (char *)out + done, bytes - done, (off_t)(w->offset[i] + at + done));
        if (n <= 0)
            return ERR_IO;
        done += (size_t)n;
    }
    return ERR_NONE;
}

enum err gptq_work_commit(struct gptq_work *w, uint32_t layers)
{
    if (msync(w->map, w->bytes, MS_SYNC) || fdatasync(w->blocks))
        return ERR_IO;
    gptq_work_drop(w);
    return write_layers(w, layers);
}
