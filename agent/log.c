/* log.c: see log.h. */
#include "agent/log.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static enum log_level threshold = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    threshold = level;
}

void log_line(enum log_level level, const char *format, ...)
{
    if (level > threshold)
        return;
    int saved = errno;
    char line[LINE_BYTES];
    int used = snprintf(line, sizeof line, "<%d>", (int)level);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, args);
    va_end(args);
    if (more > 0)
        used += more;
    if (used > (int)sizeof line - 2)
        used = (int)sizeof line - 2;
    for (int i = 0; i < used; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, (size_t)used);
    (void)written; /* there is nobody left to tell */
    errno = saved;
}
