/* output.c: what a verb says to people, to programs and to the shell. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One line, whatever a foreign file name or text holds. */
static void flatten(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

int cli_fail(struct cli_call *call, enum cli_status status, const char *file, const char *place,
             const char *format, ...)
{
    char *text = call->error;
    size_t room = sizeof call->error, used = 0;
    const char *parts[] = {file, place};
    for (size_t i = 0; i < 2; i++) {
        if (!parts[i])
            continue;
        int n = snprintf(text + used, room - used, "%s: ", parts[i]);
        if (n > 0)
            used += (size_t)n < room - used ? (size_t)n : room - used - 1;
    }
    va_list list;
    va_start(list, format);
    (void)vsnprintf(text + used, room - used, format, list);
    va_end(list);
    flatten(text);
    fprintf(stderr, "tare: %s\n", text);
    return (int)status;
}

int cli_status_of(enum err e)
{
    switch (e) {
    case ERR_NONE: return CLI_DONE;
    case ERR_GATE:
    case ERR_MISMATCH: return CLI_FAILED;
    case ERR_NOT_FOUND:
    case ERR_FORMAT:
    case ERR_SIGNATURE:
    case ERR_STALE:
    case ERR_VERSION:
    case ERR_EXPIRED:
    case ERR_ARGUMENT:
    case ERR_UNSUPPORTED:
    case ERR_AUDIENCE: return CLI_INPUT;
    default: return CLI_ENVIRONMENT;
    }
}

const char *cli_sentence(enum err e)
{
    static const char *const sentences[] = {
        [ERR_NONE] = "done",
        [ERR_ARGUMENT] = "a value is out of its range",
        [ERR_MEMORY] = "not enough memory",
        [ERR_IO] = "cannot be read or written",
        [ERR_NOT_FOUND] = "does not exist",
        [ERR_FORMAT] = "the bytes do not parse",
        [ERR_SIGNATURE] = "the signature does not verify",
        [ERR_STALE] = "not newer than what is there",
        [ERR_VERSION] = "of a version that this program does not speak",
        [ERR_UNSUPPORTED] = "not supported by this machine, model or plugin",
        [ERR_DEVICE] = "the accelerator failed",
        [ERR_MISMATCH] = "computed and expected values differ",
        [ERR_FULL] = "a bounded store is full",
        [ERR_EXPIRED] = "expired, or not valid yet",
        [ERR_AUDIENCE] = "meant for another device, fleet or role",
        [ERR_GATE] = "a measured value missed its limit",
        [ERR_TIMEOUT] = "no answer in time",
        [ERR_CANCELLED] = "withdrawn",
        [ERR_CRASHED] = "the process that did the work died",
    };
    if ((size_t)e >= sizeof sentences / sizeof *sentences || !sentences[e])
        return "failed for a reason that this program does not know";
    return sentences[e];
}

void cli_answer(struct cli_call *call, struct json_t *document)
{
    json_decref(call->answer);
    call->answer = document;
}

void cli_print(const struct cli_call *call, const char *format, ...)
{
    if (call->common.json)
        return;
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
}

void cli_note(const struct cli_call *call, const char *format, ...)
{
    if (call->common.quiet)
        return;
    (void)fflush(stdout); /* in order where both are one terminal; main() tells an error */
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
}

char *cli_bytes(double bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, 32, unit && bytes < 100 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}
