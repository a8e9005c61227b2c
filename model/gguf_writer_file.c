/* gguf_writer_file.c: the streaming writer's file: the header is compared when a kept file is to be resumed, and the
 * data goes straight to the file. */
#include "model/gguf_writer_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static enum err write_all(struct gguf_writer *w, const void *data, size_t size)
{
    const uint8_t *p = data;
    while (size > 0) {
        const ssize_t n = write(w->fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return gguf_writer_fail(w, ERR_IO, "write");
        p += n;
        size -= (size_t)n;
    }
    return ERR_NONE;
}

/* The kept file must begin with our header and hold all of the tensors to be used again. */
static enum err resume(struct gguf_writer *w, const struct gguf_writer_bytes *b, uint32_t tensors)
{
    if (tensors > w->tensors)
        return gguf_writer_fail(w, ERR_ARGUMENT, "more tensors to resume than announced");
    const struct gguf_writer_tensor *last = &w->tensor[tensors - 1];
    const uint64_t end = tensors < w->tensors ? w->tensor[tensors].offset : last->offset + last->bytes;
    struct stat status;
    if (fstat(w->fd, &status) != 0)
        return gguf_writer_fail(w, ERR_IO, "stat");
    if (status.st_size < 0 || (uint64_t)status.st_size < b->used + last->offset + last->bytes)
        return gguf_writer_fail(w, ERR_MISMATCH, "the kept file is shorter than what is to be resumed");
    uint8_t piece[4096];
    for (size_t at = 0; at < b->used;) {
        const size_t n = b->used - at < sizeof piece ? b->used - at : sizeof piece;
        const ssize_t got = pread(w->fd, piece, n, (off_t)at);
        if (got <= 0)
            return gguf_writer_fail(w, ERR_IO, "read");
        if (memcmp(piece, b->at + at, (size_t)got) != 0)
            return gguf_writer_fail(w, ERR_MISMATCH, "the kept file is of another plan");
        at += (size_t)got;
    }
    const off_t position = (off_t)(b->used + end);
    if (ftruncate(w->fd, position) != 0 || lseek(w->fd, position, SEEK_SET) != position)
        return gguf_writer_fail(w, ERR_IO, "truncate");
    w->current = tensors;
    return ERR_NONE;
}

/* Whoever held it before may have renamed or removed it between our open and our lock: then it is another file that
 * has the name, and this one is not ours. */
static enum err lock_part(struct gguf_writer *w, bool *is_ours)
{
    struct stat ours, named;
    if (fstat(w->fd, &ours) != 0)
        return gguf_writer_fail(w, ERR_IO, "stat");
    if (!S_ISREG(ours.st_mode)) {
        (void)gguf_writer_fail(w, ERR_NONE, "is there and is no regular file");
        return ERR_IO;
    }
    if (flock(w->fd, LOCK_EX | LOCK_NB) != 0) {
        (void)gguf_writer_fail(w, errno == EWOULDBLOCK ? ERR_NONE : ERR_IO,
                               errno == EWOULDBLOCK ? "another run writes it" : "lock");
        return ERR_IO;
    }
    *is_ours = stat(w->part, &named) == 0 && ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
    return ERR_NONE;
}

/* PATH.part, locked until it is closed. */
static enum err open_part(struct gguf_writer *w)
{
    for (;;) {
        bool is_ours = false;
        w->fd = open(w->part, O_RDWR | O_CLOEXEC | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0644);
        if (w->fd < 0)
            return gguf_writer_fail(w, ERR_IO, "open");
        const enum err e = lock_part(w, &is_ours);
        if (!e && is_ours)
            return e;
        close(w->fd);
        w->fd = -1;
        if (e)
            return e;
    }
}

enum err gguf_writer_begin(struct gguf_writer *w, uint32_t resume_tensors)
{
    if (w->fd >= 0)
        return gguf_writer_fail(w, ERR_ARGUMENT, "already begun");
    struct gguf_writer_bytes b = {0};
    gguf_writer_compose(w, &b);
    enum err e = ERR_NONE;
    if (b.failed) {
        e = gguf_writer_fail(w, ERR_MEMORY, "no memory for the header");
        goto out;
    }
    w->data_start = b.used;
    if ((e = open_part(w)))
        goto out;
    if (resume_tensors)
        e = resume(w, &b, resume_tensors);
    else
        e = ftruncate(w->fd, 0) ? gguf_writer_fail(w, ERR_IO, "truncate") : write_all(w, b.at, b.used);
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
        return gguf_writer_fail(w, ERR_ARGUMENT, "more tensor data than announced");
    const struct gguf_writer_tensor *t = &w->tensor[w->current];
    enum err e = write_all(w, data, bytes);
    if (e)
        return e;
    w->written += bytes;
    if (w->written < t->bytes)
        return ERR_NONE;
    w->current++;
    w->written = 0;
    return pad(w, gguf_writer_padded(w, t->offset + t->bytes) - t->offset - t->bytes);
}

enum err gguf_writer_string_late(struct gguf_writer *w, const char *key, const char *text, size_t bytes)
{
    struct gguf_writer_bytes b = {0};
    struct gguf_writer_entry *entry = NULL;
    for (size_t i = 0; i < w->entries; i++)
        if (strcmp(w->entry[i].key, key) == 0 && w->entry[i].kind == GGUF_STRING)
            entry = &w->entry[i];
    if (w->fd < 0 || !entry || entry->size != sizeof(uint64_t) + bytes)
        return gguf_writer_fail(w, ERR_ARGUMENT, "a late value of another length, or of no key");
    memcpy(entry->bytes + sizeof(uint64_t), text, bytes);
    gguf_writer_compose(w, &b);
    enum err e = b.failed ? gguf_writer_fail(w, ERR_MEMORY, "no memory for the header") : ERR_NONE;
    if (!e && pwrite(w->fd, b.at, b.used, 0) != (ssize_t)b.used)
        e = gguf_writer_fail(w, ERR_IO, "write");
    free(b.at);
    return e;
}

enum err gguf_writer_sync(struct gguf_writer *w)
{
    if (w->fd < 0)
        return gguf_writer_fail(w, ERR_ARGUMENT, "not begun");
    return fdatasync(w->fd) == 0 ? ERR_NONE : gguf_writer_fail(w, ERR_IO, "sync");
}

/* A rename is durable once its folder is. */
static enum err sync_folder(struct gguf_writer *w)
{
    const char *slash = strrchr(w->path, '/');
    char *folder = slash ? strndup(w->path, slash == w->path ? 1 : (size_t)(slash - w->path))
                         : strdup(".");
    if (!folder)
        return gguf_writer_fail(w, ERR_MEMORY, "no memory");
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    const int failed = fd < 0 || fsync(fd) != 0;
    if (fd >= 0)
        close(fd);
    return failed ? gguf_writer_fail(w, ERR_IO, "sync the folder") : ERR_NONE;
}

enum err gguf_writer_commit(struct gguf_writer *w)
{
    if (w->fd < 0 || w->current != w->tensors)
        return gguf_writer_fail(w, ERR_ARGUMENT, "tensor data is missing");
    if (fsync(w->fd) != 0)
        return gguf_writer_fail(w, ERR_IO, "sync");
    if (rename(w->part, w->path) != 0)
        return gguf_writer_fail(w, ERR_IO, "rename");
    w->is_committed = true;
    return sync_folder(w);
}
