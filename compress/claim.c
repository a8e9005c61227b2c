#include "compress/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, STEP_MS = 20 };

struct claim {
    int fd;
    char path[PATH_BYTES];
};

/* Who held it before may have removed the file between our open and our lock: then nobody else sees our lock. */
static bool is_there_still(const struct claim *c)
{
    struct stat ours, named;
    return fstat(c->fd, &ours) == 0 && stat(c->path, &named) == 0 && ours.st_dev == named.st_dev &&
           ours.st_ino == named.st_ino;
}

static enum err take_lock(struct claim *c, const char *out_path, unsigned wait_ms, struct fault *f)
{
    for (unsigned waited = 0;;) {
        c->fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
        if (c->fd < 0)
            return fault_set(f, ERR_IO, "%s: %s", c->path, strerror(errno));
        if (flock(c->fd, LOCK_EX | LOCK_NB) == 0) {
            if (is_there_still(c))
                return ERR_NONE;
        } else if (errno != EWOULDBLOCK) {
            return fault_set(f, ERR_IO, "%s: %s", c->path, strerror(errno));
        } else if (waited >= wait_ms) {
            return fault_set(f, ERR_IO, "%s: another run writes it", out_path);
        } else {
            const struct timespec step = {.tv_nsec = STEP_MS * 1000000L};
            nanosleep(&step, NULL);
            waited += STEP_MS;
        }
        close(c->fd);
        c->fd = -1;
    }
}

enum err claim_take(const char *out_path, unsigned wait_ms, struct claim **out, struct fault *f)
{
    struct claim *c = calloc(1, sizeof *c);
    if (!c)
        return ERR_MEMORY;
    c->fd = -1;
    enum err e = ERR_NONE;
    if (snprintf(c->path, sizeof c->path, "%s.lock", out_path) >= PATH_BYTES)
        e = fault_set(f, ERR_ARGUMENT, "%.80s...: the path is too long", out_path);
    if (!e)
        e = take_lock(c, out_path, wait_ms, f);
    if (!e) {
        *out = c;
        return e;
    }
    if (c->fd >= 0)
        close(c->fd);
    free(c);
    return e;
}

void claim_drop(struct claim *c)
{
    if (!c)
        return;
    unlink(c->path); /* while it is ours */
    close(c->fd);
    free(c);
}

const char *claim_path(const struct claim *c)
{
    return c->path;
}
