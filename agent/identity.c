/* identity.c: see identity.h. */
#include "agent/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SEED_BYTES = 32 };

/* mkdir -p; only the last folder is ours to close to others. */
static enum err make_folder(const char *folder)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s", folder) >= (int)sizeof path)
        return ERR_ARGUMENT;
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return ERR_IO;
        *p = '/';
    }
    return mkdir(path, 0700) != 0 && errno != EEXIST ? ERR_IO : ERR_NONE;
}

static enum err make_seed(const char *folder, const char *path)
{
    char part[PATH_MAX];
    uint8_t seed[SEED_BYTES];
    enum err e = ERR_IO;
    int dir = -1;
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return ERR_ARGUMENT;
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ERR_IO;
    randombytes_buf(seed, sizeof seed);
    dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (write(fd, seed, sizeof seed) == sizeof seed && fchmod(fd, 0600) == 0 && fsync(fd) == 0 && dir >= 0 &&
        rename(part, path) == 0 && fsync(dir) == 0)
        e = ERR_NONE;
    sodium_memzero(seed, sizeof seed);
    close(fd);
    if (dir >= 0)
        close(dir);
    return e;
}

enum err identity_load(const char *folder, struct identity *out)
{
    char path[PATH_MAX];
    uint8_t seed[SEED_BYTES + 1];
    struct stat st;
    if (sodium_init() < 0)
        return ERR_MEMORY;
    if (snprintf(path, sizeof path, "%s/device.seed", folder) >= (int)sizeof path)
        return ERR_ARGUMENT;
    enum err e = make_folder(folder);
    if (e)
        return e;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        if ((e = make_seed(folder, path)))
            return e;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    }
    if (fd < 0)
        return ERR_IO;
    if (fstat(fd, &st) != 0)
        e = ERR_IO;
    else if (st.st_mode & 077)
        e = ERR_AUDIENCE;
    else if (read(fd, seed, sizeof seed) != SEED_BYTES)
        e = ERR_FORMAT;
    close(fd);
    if (!e) {
        keys_from_seed(seed, &out->key);
        keys_id_hex(out->key.public_key, out->id);
    }
    sodium_memzero(seed, sizeof seed);
    return e;
}

void identity_wipe(struct identity *i)
{
    keys_wipe(&i->key);
}
