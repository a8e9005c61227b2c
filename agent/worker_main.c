/* worker_main.c: tared-worker: the process that loads plugins and reads what others wrote. */
#include "agent/worker_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/log.h"

enum { CHANNEL_FD = 3, BEAT_MS = 200 };

int64_t worker_self_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void worker_log(int syslog_level, const char *message)
{
    log_line(syslog_level <= 3 ? LOG_LEVEL_ERROR : syslog_level == 4 ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG,
             "plugin: %s", message);
}

void worker_reply(struct worker_self *w, const struct wire *m)
{
    enum err e = wire_send(&w->channel, m);
    while (!e && wire_is_waiting(&w->channel))
        e = wire_flush(&w->channel);
    if (e == ERR_IO)
        _exit(0); /* the agent is gone; nobody wants the rest */
    if (e) {
        log_error("worker: an answer cannot be sent: kind=%u: %s", m->kind, err_name(e));
        _exit(1);
    }
}

void worker_fail(struct worker_self *w, enum err error, const char *why)
{
    struct wire m;
    wire_init(&m, WIRE_FAILED, w->id);
    wire_put_u64(&m, WIRE_K_ERR, error);
    wire_put_text(&m, WIRE_K_TEXT, why);
    worker_reply(w, &m);
}

void worker_beat(struct worker_self *w, uint64_t done, uint64_t total)
{
    int64_t now = worker_self_ms();
    if (now - w->beat_ms < BEAT_MS)
        return;
    w->beat_ms = now;
    struct pollfd p = {.fd = w->channel.fd, .events = POLLRDHUP};
    if (poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP)))
        _exit(0);
    struct wire m;
    wire_init(&m, WIRE_PROGRESS, w->id);
    wire_put_u64(&m, WIRE_K_PPM, total ? (uint64_t)((double)done / (double)total * 1e6) : 0);
    worker_reply(w, &m);
}

enum err worker_engine(struct worker_self *w, const char *plugin, uint32_t threads, struct engine **out,
                       char why[WORKER_WHY])
{
    struct engine_refusal refusal = {.reason = ""};
    struct engine_options o = {.plugin = plugin && *plugin ? plugin : w->plugin[0] ? w->plugin : NULL,
                               .path = w->path[0] ? w->path : NULL,
                               .threads = threads ? threads : w->threads,
                               .folder = w->folder[0] ? w->folder : NULL,
                               .keys = w->key_count ? w->key : NULL,
                               .key_count = w->key_count,
                               .budget_bytes = w->memory_bytes,
                               .log = worker_log};
    enum err e = engine_open(&o, out, &refusal);
    if (e)
        snprintf(why, WORKER_WHY, "plugin %s: %s", o.plugin ? o.plugin : "scalar",
                 refusal.reason[0] ? refusal.reason : err_name(e));
    return e;
}

uint64_t worker_self_rss(void)
{
    unsigned long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The next frame, waited for; the process ends with the agent. */
static void receive(struct worker_self *w, struct wire *m)
{
    enum err e;
    while ((e = wire_next(&w->channel, m)) == ERR_NOT_FOUND)
        if ((e = wire_fill(&w->channel)))
            break;
    if (e)
        _exit(e == ERR_IO ? 0 : 1);
}

static void take_setup(struct worker_self *w, const struct wire *m)
{
    const void *list;
    size_t size, at = 0;
    const char *key;
    if (!wire_text(m, WIRE_K_PLUGIN, w->plugin, sizeof w->plugin) ||
        !wire_text(m, WIRE_K_CODE_PATH, w->path, sizeof w->path) ||
        !wire_text(m, WIRE_K_FOLDER, w->folder, sizeof w->folder))
        _exit(1);
    w->threads = (uint32_t)wire_u64(m, WIRE_K_THREADS, 0);
    w->memory_bytes = wire_u64(m, WIRE_K_MEMORY, 0);
    if (!wire_view(m, WIRE_K_KEYS, &list, &size))
        return;
    while (w->key_count < WORKER_KEYS_MAX && (key = wire_list_next(list, size, &at))) {
        snprintf(w->keys[w->key_count], sizeof w->keys[0], "%s", key);
        w->key[w->key_count] = w->keys[w->key_count];
        w->key_count++;
    }
}

int main(void)
{
    struct worker_self *w = calloc(1, sizeof *w);
    struct wire m;
    enum err e = ERR_NONE;
    if (!w || sodium_init() < 0)
        return 1;
    if (fcntl(CHANNEL_FD, F_GETFD) < 0) {
        fprintf(stderr, "tared-worker: started by tared, not by hand\n");
        return 2;
    }
    fcntl(CHANNEL_FD, F_SETFD, FD_CLOEXEC);
    signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is for the agent, which then ends us */
    wire_channel_open(&w->channel, CHANNEL_FD);
    receive(w, &m);
    if (m.kind != WIRE_SETUP)
        return 1;
    take_setup(w, &m);
    receive(w, &m);
    w->id = m.id;
    switch (m.kind) {
    case WIRE_PROBE: worker_probe(w); break;
    case WIRE_FETCH: worker_fetch(w, &m); break;
    case WIRE_VERIFY: worker_verify(w, &m); break;
    case WIRE_DERIVE: worker_derive(w, &m); break;
    case WIRE_SELFTEST: worker_selftest(w, &m); break;
    case WIRE_BENCH: worker_bench(w, &m); break;
    case WIRE_SHADOW: worker_shadow(w, &m); break;
    case WIRE_SERVE: e = worker_serve(w, &m); break;
    default: worker_fail(w, ERR_UNSUPPORTED, "an unknown task"); break;
    }
    wire_channel_close(&w->channel);
    free(w);
    return (int)e;
}
