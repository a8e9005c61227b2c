/* controller_log.c: log lines for journald. */
#include "controller/controller_log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum controller_log_level limit = CONTROLLER_LOG_INFO;

void controller_log_set(enum controller_log_level level)
{
    limit = level;
}

void controller_log(enum controller_log_level level, const char *format, ...)
{
    if (level > limit)
        return;
    char line[1024];
    int at = snprintf(line, sizeof line, "<%d>", (int)level);
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(line + at, sizeof line - (size_t)at - 1, format, arguments);
    va_end(arguments);
    size_t bytes = (size_t)at + (more > 0 ? (size_t)more : 0);
    if (bytes > sizeof line - 2)
        bytes = sizeof line - 2;
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)line[i] < ' ')
            line[i] = ' ';
    line[bytes++] = '\n';
    /* A log that cannot be written is nobody's to mend. */
    ssize_t n = write(STDERR_FILENO, line, bytes);
    (void)n;
}
