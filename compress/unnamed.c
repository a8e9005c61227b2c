#include "compress/unnamed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

enum err unnamed_open(const char *beside, int *fd, struct fault *f)
{
    char path[PATH_BYTES];
    *fd = -1;
    errno = ENAMETOOLONG;
    if (snprintf(path, sizeof path, "%s.XXXXXX", beside) < PATH_BYTES)
        *fd = mkostemp(path, O_CLOEXEC);
    if (*fd < 0)
        return fault_set(f, ERR_IO, "%.200s.XXXXXX: %s", beside, strerror(errno));
    unlink(path);
    return ERR_NONE;
}

enum err unnamed_write(int fd, uint64_t at, const void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = pwrite(fd, (const char *)data + done, bytes - done, (off_t)(at + done));
        if (n <= 0)
            return ERR_IO;
        done += (size_t)n;
    }
    return ERR_NONE;
}

enum err unnamed_read(int fd, uint64_t at, void *out, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = pread(fd, (char *)out + done, bytes - done, (off_t)(at + done));
        if (n <= 0)
            return ERR_IO;
        done += (size_t)n;
    }
    return ERR_NONE;
}
