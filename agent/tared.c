/* tared.c: the agent: reads its settings, puts the parts together, runs until it is told to stop. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/link.h"
#include "agent/log.h"
#include "agent/openai.h"
#include "protocol/hex.h"

/* Statuses as the command's: 2 usage, 3 bad input, 4 environment. */
enum { CLOCK_SET_S = 1700000000, STATUS_USAGE = 2, STATUS_INPUT = 3, STATUS_ENVIRONMENT = 4, PROBE_AGAIN_MS = 5000, WILL_BYTES = 512, DRAIN_MS = 10000, DRAIN_LAST_MS = 200 };

struct agent {
    struct settings settings;
    struct identity identity;
    struct accept_keys keys;
    struct loop *loop;
    struct store *store;
    struct spool *spool;
    struct task *task;
    struct serve *serve;
    struct openai *openai;
    struct telemetry *telemetry;
    struct bench *bench;
    struct jobs *jobs;
    struct link *link;
    struct message_birth birth;
    struct loop_watch signals;
    struct loop_timer probe_again, watchdog, drain;
    bool is_stopping;
    int64_t watchdog_ms;
};

/* ---- systemd ---- */

static void notify(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof a.sun_path)
        return;
    memcpy(a.sun_path, path, strlen(path));
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (path[0] == '@')
        a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&a, size) < 0)
        log_debug("tared: systemd does not listen: %s", strerror(errno));
    close(fd);
}

static void on_watchdog(void *context)
{
    struct agent *a = context;
    notify("WATCHDOG=1");
    loop_set_timer(a->loop, &a->watchdog, a->watchdog_ms, on_watchdog, a);
}

/* ---- what the parts ask of each other ---- */

static uint64_t hook_now(void *context)
{
    return link_now_ms(((struct agent *)context)->link);
}

static bool hook_contact(void *context)
{
    return link_in_contact(((struct agent *)context)->link);
}

static void hook_ask(void *context)
{
    link_ask(((struct agent *)context)->link);
}

static void hook_posted(void *context)
{
    link_posted(((struct agent *)context)->link);
}

static void hook_changed(void *context)
{
    link_changed(((struct agent *)context)->link);
}

static void set_model(struct serve_model *m, const struct settings *s, const struct slot *slot,
                      const struct message_plan *plan)
{
    memset(m, 0, sizeof *m);
    slots_variant_path(s->state, slot->variant, m->path);
    memcpy(m->variant, slot->variant, 32);
    m->cache_type = slot->setting.cache_type;
    m->activation_bits = slot->setting.activation_bits;
    snprintf(m->plugin, sizeof m->plugin, "%s", plan->plugin.name);
}

/* Serves what the active slot holds. */
static void hook_restore(void *context)
{
    struct agent *a = context;
    struct serve_model m;
    struct slot slot = {0};
    struct store_txn *t;
    uint32_t active = SLOTS_NONE;
    if (store_begin(a->store, false, &t))
        return;
    if (slots_active(t, &active) || active == SLOTS_NONE || slots_get(t, active, &slot))
        slot.is_used = false;
    store_abort(t);
    if (!slot.is_used) {
        serve_main(a->serve, NULL);
        telemetry_serving(a->telemetry, NULL);
        return;
    }
    set_model(&m, &a->settings, &slot, &slot.plan);
    telemetry_serving(a->telemetry, &slot);
    serve_main(a->serve, &m);
}

static enum err hook_trial(void *context, const char *path, const struct message_plan *plan)
{
    struct agent *a = context;
    struct serve_model m;
    struct store_txn *t;
    struct slot slot = {0};
    uint32_t spare;
    (void)path;
    enum err e = store_begin(a->store, false, &t);
    if (e)
        return e;
    if (!(e = slots_spare(t, &spare)))
        e = slots_get(t, spare, &slot);
    store_abort(t);
    if (e || !slot.is_used)
        return e ? e : ERR_NOT_FOUND;
    set_model(&m, &a->settings, &slot, plan);
    serve_trial(a->serve, &m);
    return ERR_NONE;
}

static void hook_untrial(void *context)
{
    struct agent *a = context;
    serve_untrial(a->serve);
}

static void hook_promote(void *context)
{
    struct agent *a = context;
    serve_promote(a->serve);
    hook_restore(a);
}

static void on_drained(void *context);

static void serve_trial_ready(void *context)
{
    jobs_trial_ready(((struct agent *)context)->jobs);
}

static void serve_trial_answered(void *context, bool is_good)
{
    jobs_trial_answered(((struct agent *)context)->jobs, is_good);
}

static bool serve_trial_crashed(void *context, bool by_force, const char *why)
{
    return jobs_trial_crashed(((struct agent *)context)->jobs, by_force, why);
}

static bool serve_is_sampled(void *context)
{
    return telemetry_is_sampled(((struct agent *)context)->telemetry);
}

static void serve_token(void *context, uint64_t us)
{
    telemetry_token(((struct agent *)context)->telemetry, us);
}

static void serve_finished(void *context, const struct serve_cost *cost)
{
    struct agent *a = context;
    telemetry_finished(a->telemetry, cost);
    /* The last answer still has to leave: MHD writes it in the next rounds of the loop. */
    if (a->is_stopping && serve_is_idle(a->serve))
        loop_set_timer(a->loop, &a->drain, DRAIN_LAST_MS, on_drained, a);
}

static void serve_stats(void *context, const struct wire *frame)
{
    telemetry_stats(((struct agent *)context)->telemetry, frame);
}

static void serve_crashed(void *context, const char *why)
{
    telemetry_error(((struct agent *)context)->telemetry, ERR_CRASHED, why);
}

/* What computes now, and why not another: in the telemetry, beside what it costs. */
static void serve_served(void *context, const char *plugin)
{
    telemetry_event(((struct agent *)context)->telemetry, "plugin", plugin, 0);
}

/* ---- the probe, then the wire and the job ---- */

static void probe(void *context);

static enum err open_wire(struct agent *a)
{
    char topic[TOPIC_MAX];
    uint8_t will[WILL_BYTES];
    size_t size;
    struct transport transport;
    const struct settings *s = &a->settings;
    enum err e = topic_encode(s->fleet, a->identity.id, TOPIC_UP_DEATH, topic);
    if (!e)
        e = link_will(&a->identity, s->fleet, store_epoch(a->store), "", will, sizeof will, &size);
    if (e)
        return e;
    struct transport_options o = {.host = s->broker_host,
                                  .port = (uint16_t)s->broker_port,
                                  .client_id = a->identity.id,
                                  .ca_file = s->broker_ca,
                                  .cert_file = s->broker_cert,
                                  .key_file = s->broker_key,
                                  .keepalive_s = s->keepalive_s,
                                  .backoff_most_ms = s->reconnect_most_s * 1000,
                                  .will_topic = topic,
                                  .will = will,
                                  .will_bytes = size,
                                  .will_delay_s = 30};
    if ((e = transport_mqtt_open(&o, &transport)))
        return e;
    if ((e = link_start(a->link, &transport, a->jobs, a->bench, a->telemetry, &a->birth)))
        log_error("tared: the wire cannot be opened: %s", err_name(e));
    return e;
}

static void on_probed(void *context, const struct wire *m)
{
    struct agent *a = context;
    const void *bytes;
    size_t size;
    if (!wire_view(m, WIRE_K_BIRTH, &bytes, &size) || message_birth_decode(bytes, size, &a->birth)) {
        log_error("tared: the worker's probe cannot be read");
        memset(&a->birth, 0, sizeof a->birth);
        loop_set_timer(a->loop, &a->probe_again, PROBE_AGAIN_MS, probe, a);
        return;
    }
    log_info("tared: this machine: %s, %u plugins, serving by %s", a->birth.probe.cpu, a->birth.plugins,
             a->birth.active_plugin[0] ? a->birth.active_plugin : "none");
    enum err e = open_wire(a);
    if (e) {
        log_error("tared: no connection is possible with these settings: %s", err_name(e));
        loop_stop(a->loop);
        return;
    }
    jobs_start(a->jobs, &a->birth);
    notify("READY=1");
}

static void on_probe_failed(void *context, enum err error, const char *why)
{
    struct agent *a = context;
    log_error("tared: the machine cannot be probed, again in %d s: %s: %s", PROBE_AGAIN_MS / 1000, err_name(error),
              why);
    loop_set_timer(a->loop, &a->probe_again, PROBE_AGAIN_MS, probe, a);
}

static void probe(void *context)
{
    struct agent *a = context;
    struct task_options o = {.weight = TASK_JOB, .context = a, .done = on_probed, .failed = on_probe_failed};
    struct wire m;
    wire_init(&m, WIRE_PROBE, 1);
    enum err e = task_start(a->task, &o, &m);
    if (e)
        on_probe_failed(a, e, "no worker could be started");
}

/* ---- open and close ---- */

static void on_drained(void *context)
{
    struct agent *a = context;
    loop_stop(a->loop);
}

static void on_signal(void *context, uint32_t events)
{
    struct agent *a = context;
    struct signalfd_siginfo info;
    (void)events;
    if (read(a->signals.fd, &info, sizeof info) != sizeof info)
        return;
    log_info("tared: signal %u, stopping", info.ssi_signo);
    if (a->is_stopping || serve_is_idle(a->serve)) {
        loop_stop(a->loop);
        return;
    }
    a->is_stopping = true; /* answer what has been asked, and take no more; a second signal does not wait */
    serve_drain(a->serve);
    loop_set_timer(a->loop, &a->drain, DRAIN_MS, on_drained, a);
}

static enum err watch_signals(struct agent *a)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return ERR_IO;
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? ERR_IO : loop_add(a->loop, &a->signals, fd, EPOLLIN, on_signal, a);
}

static enum err open_parts(struct agent *a)
{
    const struct settings *s = &a->settings;
    enum err e;
    if ((e = store_open(s->state, &a->store)) || (e = slots_prepare(s->state)))
        return e;
    struct spool_options spool = {.folder = s->state,
                                  .quota_bytes = s->ring_bytes,
                                  .epoch = store_epoch(a->store),
                                  .tombstone = telemetry_tombstone};
    struct link_options link = {.loop = a->loop, .settings = s, .identity = &a->identity, .keys = &a->keys};
    if ((e = spool_open(&spool, &a->spool)) || (e = task_open(a->loop, s, &a->task)))
        return e;
    link.store = a->store;
    link.spool = a->spool;
    struct serve_hooks hooks = {.context = a,
                                .trial_ready = serve_trial_ready,
                                .trial_answered = serve_trial_answered,
                                .trial_crashed = serve_trial_crashed,
                                .is_sampled = serve_is_sampled,
                                .token = serve_token,
                                .finished = serve_finished,
                                .stats = serve_stats,
                                .crashed = serve_crashed,
                                .served = serve_served};
    if ((e = link_open(&link, &a->link)) || (e = serve_open(a->loop, s, &hooks, &a->serve)))
        return e;
    struct telemetry_options telemetry = {.loop = a->loop,
                                          .settings = s,
                                          .spool = a->spool,
                                          .serve = a->serve,
                                          .task = a->task,
                                          .epoch = store_epoch(a->store),
                                          .context = a,
                                          .now_ms = hook_now,
                                          .posted = hook_posted};
    struct bench_options bench = {.loop = a->loop,
                                  .settings = s,
                                  .identity = &a->identity,
                                  .store = a->store,
                                  .task = a->task,
                                  .context = a,
                                  .now_ms = hook_now,
                                  .posted = hook_posted};
    struct jobs_options jobs = {.loop = a->loop,
                                .settings = s,
                                .identity = &a->identity,
                                .keys = &a->keys,
                                .store = a->store,
                                .task = a->task,
                                .hooks = {.context = a,
                                          .now_ms = hook_now,
                                          .in_contact = hook_contact,
                                          .ask_contact = hook_ask,
                                          .posted = hook_posted,
                                          .changed = hook_changed,
                                          .trial = hook_trial,
                                          .untrial = hook_untrial,
                                          .promote = hook_promote,
                                          .restore = hook_restore}};
    if ((e = telemetry_open(&telemetry, &a->telemetry)) || (e = bench_open(&bench, &a->bench)))
        return e;
    return jobs_open(&jobs, &a->jobs);
}

static void close_parts(struct agent *a)
{
    openai_close(a->openai);
    jobs_close(a->jobs);
    bench_close(a->bench);
    telemetry_close(a->telemetry);
    serve_close(a->serve);
    link_close(a->link);
    task_close(a->task);
    spool_close(a->spool);
    store_close(a->store);
    if (a->signals.active) {
        int fd = a->signals.fd;
        loop_delete(a->loop, &a->signals);
        close(fd);
    }
    loop_close(a->loop);
}

static int run(struct agent *a)
{
    const char *limit = getenv("WATCHDOG_USEC");
    uint16_t port = 0;
    enum err e = loop_open(&a->loop);
    if (!e)
        e = watch_signals(a);
    if (!e)
        e = open_parts(a);
    if (!e)
        e = openai_open(a->loop, &a->settings, a->serve, &a->openai, &port);
    if (e) {
        log_error("tared: cannot start: state=%s listen=%s:%u: %s%s%s", a->settings.state, a->settings.listen_address,
                  a->settings.listen_port, err_name(e), e == ERR_IO ? ": " : "",
                  e != ERR_IO         ? ""
                  : errno == EAGAIN ? "another agent has this state"
                                    : strerror(errno));
        close_parts(a);
        return STATUS_ENVIRONMENT;
    }
    log_info("tared: %s: id=%s epoch=%llu http://%s:%u", AGENT_VERSION, a->identity.id,
             (unsigned long long)store_epoch(a->store), a->settings.listen_address, port);
    a->watchdog_ms = limit ? strtoll(limit, NULL, 10) / 2000 : 0;
    if (a->watchdog_ms > 0)
        on_watchdog(a);
    hook_restore(a);
    probe(a);
    e = loop_run(a->loop);
    notify("STOPPING=1");
    close_parts(a);
    return e ? STATUS_ENVIRONMENT : 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: tared SETTINGS.ini        run the agent\n"
                    "       tared --id SETTINGS.ini   print this device's id, making its key at first\n"
                    "       tared --version\n");
    return STATUS_USAGE;
}

int main(int argc, char **argv)
{
    static struct agent a;
    time_t now = time(NULL);
    char why[512];
    /* Three threads that hardly allocate need no arenas of their own, and what is free goes back. */
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 64 << 10);
    bool only_id = argc == 3 && strcmp(argv[1], "--id") == 0;
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("tared %s\n", AGENT_VERSION);
        return 0;
    }
    if ((argc != 2 && !only_id) || argv[argc - 1][0] == '-')
        return usage();
    if (settings_load(argv[argc - 1], &a.settings, why, sizeof why)) {
        log_error("tared: %s", why);
        return STATUS_INPUT;
    }
    if (a.settings.verbose)
        log_set_level(LOG_LEVEL_DEBUG);
    enum err e = identity_load(a.settings.state, &a.identity);
    if (e) {
        log_error("tared: no identity: folder=%s: %s%s", a.settings.state, err_name(e),
                  e == ERR_AUDIENCE ? ": device.seed may be read by others" : "");
        return STATUS_ENVIRONMENT;
    }
    if (only_id) {
        printf("%s\n", a.identity.id);
        identity_wipe(&a.identity);
        return 0;
    }
    if (accept_load_keys(&a.settings, now > CLOCK_SET_S ? (uint64_t)now : 0, &a.keys, why, sizeof why)) {
        log_error("tared: %s", why);
        return STATUS_INPUT;
    }
    int status = run(&a);
    identity_wipe(&a.identity);
    return status;
}
