/* controller_log.h: one line per event on standard error, with the prefixes that journald reads.
 *
 * For the person at the machine; what matters to the fleet goes into the decision trail instead.
 */
#ifndef CONTROLLER_LOG_H
#define CONTROLLER_LOG_H

enum controller_log_level {
    CONTROLLER_LOG_ERROR = 3,
    CONTROLLER_LOG_WARNING = 4,
    CONTROLLER_LOG_INFO = 6,
    CONTROLLER_LOG_DEBUG = 7
};

/* INFO at start; set it before the first thread. */
void controller_log_set(enum controller_log_level level);

/* Any thread. One write(2) per line, cut at 1 KiB; control characters become spaces. */
void controller_log(enum controller_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
