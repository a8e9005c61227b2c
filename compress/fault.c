#include "compress/fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum err fault_set(struct fault *f, enum err e, const char *format, ...)
{
    if (f) {
        va_list args;
        va_start(args, format);
        vsnprintf(f->text, sizeof f->text, format, args);
        va_end(args);
    }
    return e;
}

enum err fault_open(struct fault *f, const char *path)
{
    const int why = errno;
    const bool is_given = why == ENOENT || why == ENOTDIR || why == EACCES || why == EISDIR || why == ELOOP ||
                          why == ENAMETOOLONG;
    return fault_set(f, is_given ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(why));
}
