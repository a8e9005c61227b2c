/* minisign_file.c: key and signature files: whole or not at all. */
#include "protocol/minisign.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static enum err open_to_read(const char *path, int *out)
{
    *out = open(path, O_RDONLY | O_CLOEXEC);
    if (*out < 0)
        return errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO;
    return ERR_NONE;
}

/* Read a small file whole. */
static enum err load(const char *path, bool is_secret, char text[MINISIGN_FILE_MAX + 1],
                     size_t *size)
{
    int fd;
    struct stat st;
    enum err e = open_to_read(path, &fd);
    if (e)
        return e;
    size_t used = 0;
    ssize_t n = 0;
    e = ERR_IO;
    if (fstat(fd, &st) != 0)
        goto out;
    e = ERR_ARGUMENT;
    if (is_secret && (st.st_mode & (S_IRWXG | S_IRWXO)))
        goto out;
    while (used <= MINISIGN_FILE_MAX &&
           (n = read(fd, text + used, MINISIGN_FILE_MAX + 1 - used)) > 0)
        used += (size_t)n;
    e = n < 0 ? ERR_IO : used > MINISIGN_FILE_MAX ? ERR_FORMAT : ERR_NONE;
    *size = used;
out:
    close(fd);
    return e;
}

static enum err write_all(int fd, const char *text, size_t size)
{
    while (size) {
        ssize_t n = write(fd, text, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ERR_IO;
        text += n;
        size -= (size_t)n;
    }
    return ERR_NONE;
}

static enum err sync_folder(const char *path)
{
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return ERR_ARGUMENT;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    enum err e = fsync(fd) == 0 ? ERR_NONE : ERR_IO;
    close(fd);
    return e;
}

/* Write beside, sync, then take the name: by link() where an existing file must stay. */
static enum err save(const char *path, const char *text, mode_t mode, bool may_replace)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary)
        return ERR_ARGUMENT;
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    enum err e = write_all(fd, text, strlen(text));
    if (e == ERR_NONE && (fchmod(fd, mode) != 0 || fsync(fd) != 0))
        e = ERR_IO;
    if (close(fd) != 0)
        e = ERR_IO;
    if (e == ERR_NONE) {
        int failed = may_replace ? rename(temporary, path) : link(temporary, path);
        if (failed)
            e = errno == EEXIST ? ERR_FULL : ERR_IO;
    }
    if (e || !may_replace)
        unlink(temporary);
    return e ? e : sync_folder(path);
}

enum err minisign_secret_load(const char *path, struct minisign_secret *out)
{
    char text[MINISIGN_FILE_MAX + 1];
    size_t size = 0;
    enum err e = load(path, true, text, &size);
    if (e == ERR_NONE)
        e = minisign_secret_decode(text, size, out);
    sodium_memzero(text, sizeof text);
    return e;
}

enum err minisign_secret_save(const char *path, const struct minisign_secret *key,
                              const char *comment)
{
    char text[MINISIGN_FILE_MAX];
    enum err e = minisign_secret_encode(key, comment, text, sizeof text);
    if (e == ERR_NONE)
        e = save(path, text, S_IRUSR | S_IWUSR, false);
    sodium_memzero(text, sizeof text);
    return e;
}

enum err minisign_public_load(const char *path, struct minisign_public *out)
{
    char text[MINISIGN_FILE_MAX + 1];
    size_t size = 0;
    enum err e = load(path, false, text, &size);
    return e ? e : minisign_public_decode(text, size, out);
}

enum err minisign_public_save(const char *path, const struct minisign_public *key,
                              const char *comment)
{
    char text[MINISIGN_FILE_MAX];
    enum err e = minisign_public_encode(key, comment, text, sizeof text);
    return e ? e : save(path, text, S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH, true);
}

enum err minisign_file_hash(const char *path, uint8_t digest[MINISIGN_HASH_BYTES])
{
    struct minisign_hash hash;
    uint8_t chunk[64 * 1024];
    ssize_t n;
    int fd;
    enum err e = open_to_read(path, &fd);
    if (e)
        return e;
    minisign_hash_start(&hash);
    while ((n = read(fd, chunk, sizeof chunk)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            minisign_hash_add(&hash, chunk, (size_t)n);
    minisign_hash_end(&hash, digest);
    close(fd);
    return n < 0 ? ERR_IO : ERR_NONE;
}

enum err minisign_file_sign(const struct minisign_secret *key, const char *path,
                            const char *trusted_comment, const char *signature_path)
{
    char comment[MINISIGN_COMMENT_MAX], text[MINISIGN_FILE_MAX];
    uint8_t digest[MINISIGN_HASH_BYTES];
    struct minisign_signature signature;
    if (!trusted_comment) {
        const char *slash = strrchr(path, '/');
        int n = snprintf(comment, sizeof comment, "timestamp:%lld\tfile:%s\thashed",
                         (long long)time(NULL), slash ? slash + 1 : path);
        if (n < 0 || (size_t)n >= sizeof comment)
            return ERR_ARGUMENT;
        trusted_comment = comment;
    }
    enum err e = minisign_file_hash(path, digest);
    if (e || (e = minisign_sign_hash(key, digest, trusted_comment, &signature)) ||
        (e = minisign_signature_encode(&signature, "signature from a tare key", text, sizeof text)))
        return e;
    return save(signature_path, text, S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH, true);
}

enum err minisign_file_verify(const struct minisign_public *key, const char *path,
                              const char *signature_path, struct minisign_signature *out)
{
    char text[MINISIGN_FILE_MAX + 1];
    uint8_t digest[MINISIGN_HASH_BYTES];
    struct minisign_signature signature;
    size_t size = 0;
    enum err e = load(signature_path, false, text, &size);
    if (e || (e = minisign_signature_decode(text, size, &signature)) ||
        (e = minisign_file_hash(path, digest)) ||
        (e = minisign_verify_hash(key, digest, &signature)))
        return e;
    if (out)
        *out = signature;
    return ERR_NONE;
}
