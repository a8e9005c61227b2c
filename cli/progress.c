/* progress.c: a bar on a terminal, plain lines elsewhere. */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* "12 s", "3:05", "1:02:03" */
static char *duration(double seconds, char text[16])
{
    unsigned s = seconds >= 0 && seconds < 359999 ? (unsigned)(seconds + 0.5) : 359999;
    if (s < 60)
        snprintf(text, 16, "%u s", s);
    else if (s < 3600)
        snprintf(text, 16, "%u:%02u", s / 60 % 60, s % 60);
    else
        snprintf(text, 16, "%u:%02u:%02u", s / 3600 % 1000, s / 60 % 60, s % 60);
    return text;
}

/* "123/400 tokens, 56 tokens/s" */
static void amounts(const struct progress *p, double elapsed_s, char *text, size_t room)
{
    double rate = elapsed_s > 0 ? p->done / elapsed_s : 0;
    if (!strcmp(p->unit, "bytes")) {
        char done[32], total[32], speed[32];
        cli_bytes(p->done, done);
        snprintf(text, room, "%s%s%s, %s/s", done, p->total > 0 ? " of " : "",
                 p->total > 0 ? cli_bytes(p->total, total) : "", cli_bytes(rate, speed));
    } else if (p->total > 0) {
        snprintf(text, room, "%.0f/%.0f %s, %.*f/s", p->done, p->total, p->unit, rate < 10 ? 2 : 0,
                 rate);
    } else {
        snprintf(text, room, "%.0f %s, %.*f/s", p->done, p->unit, rate < 10 ? 2 : 0, rate);
    }
}

static int columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col < 20)
        return 80;
    return size.ws_col > 400 ? 400 : size.ws_col;
}

static void show_bar(const struct progress *p, double elapsed_s)
{
    char line[512], numbers[128], bar[32], left[16];
    double part = p->total > 0 ? p->done / p->total : 0;
    int filled = (int)(part * 24);
    filled = filled < 0 ? 0 : filled > 24 ? 24 : filled;
    for (int i = 0; i < 24; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[24] = 0;
    amounts(p, elapsed_s, numbers, sizeof numbers);
    if (p->total > 0 && part > 0.01)
        snprintf(line, sizeof line, "%s [%s] %3.0f %% %s, %s left %s", p->label, bar, part * 100,
                 numbers, duration(elapsed_s / part - elapsed_s, left), p->note);
    else
        snprintf(line, sizeof line, "%s [%s] %s %s", p->label, bar, numbers, p->note);
    fprintf(stderr, "\r\033[K%.*s", columns() - 1, line);
    fflush(stderr);
}

static void show_line(struct progress *p, double elapsed_s)
{
    char numbers[128], left[16];
    amounts(p, elapsed_s, numbers, sizeof numbers);
    if (p->total > 0 && p->done > 0)
        fprintf(stderr, "%s: %s, %s left\n", p->label, numbers,
                duration(elapsed_s * (p->total / p->done - 1), left));
    else
        fprintf(stderr, "%s: %s\n", p->label, numbers);
}

void progress_open(struct progress *p, const struct cli_call *call, const char *label,
                   const char *unit, double total)
{
    *p = (struct progress){.label = label, .unit = unit, .total = total, .started_s = now_s()};
    p->is_quiet = call->common.quiet;
    p->is_terminal = isatty(STDERR_FILENO);
    p->shown_s = p->started_s;
}

void progress_update(struct progress *p, double done, const char *note)
{
    p->done = done;
    if (p->is_quiet)
        return;
    double now = now_s(), since_s = now - p->shown_s;
    snprintf(p->note, sizeof p->note, "%s", note ? note : "");
    if (p->is_terminal) {
        if (since_s < 0.1)
            return;
        show_bar(p, now - p->started_s);
    } else {
        /* a log wants few lines: each tenth, at most one in two seconds, at least one in thirty */
        int tenth = p->total > 0 ? (int)(10 * done / p->total) : 0;
        bool is_tenth = tenth > p->shown_tenth && tenth < 10;
        if (since_s < 2 || (!is_tenth && since_s < 30))
            return;
        p->shown_tenth = tenth;
        show_line(p, now - p->started_s);
    }
    p->shown_s = now;
}

void progress_close(struct progress *p, bool is_complete)
{
    if (p->is_quiet)
        return;
    if (p->is_terminal)
        fputs("\r\033[K", stderr);
    if (is_complete) {
        char numbers[128], took[16];
        double elapsed_s = now_s() - p->started_s;
        p->total = 0;
        amounts(p, elapsed_s, numbers, sizeof numbers);
        fprintf(stderr, "%s: %s, took %s\n", p->label, numbers, duration(elapsed_s, took));
    }
}
