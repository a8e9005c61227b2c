/* worker.c: fork and exec, a channel, a pidfd, and one timer for silence. */
#include "agent/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/log.h"

/* The engine keeps the budget itself; the limit behind it leaves room for stacks and libraries. */
enum { CHANNEL_FD = 3, MEMORY_SLACK = 128 << 20 };

/* Sanitizers map terabytes of shadow memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_LIMITED = 0 };
#else
enum { IS_LIMITED = 1 };
#endif

struct worker {
    struct worker_options options;
    pid_t pid;
    int pidfd;
    struct wire_channel channel;
    struct loop_watch socket, process;
    struct loop_timer silence;
    int64_t within_ms;
    int64_t heard_ms;
    bool is_polling_out;
    bool is_ended;
    bool is_closed; /* by worker_close inside a callback: released when the callback returns */
    uint32_t depth;  /* callbacks running */
    enum worker_end end; /* why we killed it, 0: we did not */
};

static char program[PATH_MAX];

void worker_set_program(const char *path)
{
    snprintf(program, sizeof program, "%s", path);
}

const char *worker_end_name(enum worker_end end)
{
    static const char *const names[] = {"?", "stopped", "crashed", "hung", "broke the protocol", "out of memory"};
    return names[end <= WORKER_MEMORY ? end : 0];
}

static bool find_program(void)
{
    if (program[0])
        return access(program, X_OK) == 0;
    char self[PATH_MAX - 32];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return false;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (!slash)
        return false;
    *slash = 0;
    snprintf(program, sizeof program, "%s/tared-worker", self);
    return access(program, X_OK) == 0;
}

/* Between fork and exec: only what is safe after fork in a process with threads. */
static void become(int fd, uint64_t memory, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    if (memory && IS_LIMITED) {
        struct rlimit limit = {.rlim_cur = memory + MEMORY_SLACK, .rlim_max = memory + MEMORY_SLACK};
        setrlimit(RLIMIT_DATA, &limit);
    }
    if (fd == CHANNEL_FD)
        fcntl(fd, F_SETFD, 0);
    else
        dup2(fd, CHANNEL_FD);
    syscall(SYS_close_range, CHANNEL_FD + 1u, ~0u, 0u);
    char *const arguments[] = {program, NULL};
    execv(program, arguments);
    _exit(127);
}

static enum err send_setup(struct worker *w)
{
    const struct settings *s = w->options.settings;
    char keys[SETTINGS_KEYS * 256];
    size_t used = 0;
    for (uint32_t i = 0; i < s->plugin_key_count; i++) {
        /* minisign public key files: a comment line, then the key. */
        char line[256];
        FILE *f = fopen(s->plugin_keys[i], "re");
        bool ok = f && fgets(line, sizeof line, f) && fgets(line, sizeof line, f);
        if (f)
            fclose(f);
        if (!ok) {
            log_error("worker: not a minisign public key: file=%s", s->plugin_keys[i]);
            return ERR_NOT_FOUND;
        }
        size_t n = strcspn(line, "\r\n");
        memcpy(keys + used, line, n);
        keys[used + n] = 0;
        used += n + 1;
    }
    struct wire m;
    wire_init(&m, WIRE_SETUP, 0);
    wire_put_text(&m, WIRE_K_PLUGIN, s->plugin);
    wire_put_text(&m, WIRE_K_CODE_PATH, s->path);
    wire_put_text(&m, WIRE_K_FOLDER, s->plugin_folder);
    wire_put_u64(&m, WIRE_K_THREADS, s->threads);
    wire_put_u64(&m, WIRE_K_MEMORY, s->memory_bytes);
    if (used)
        wire_put_bytes(&m, WIRE_K_KEYS, keys, used);
    return worker_send(w, &m);
}

static void kill_for(struct worker *w, enum worker_end end)
{
    if (w->pid > 0 && !w->end) {
        w->end = end;
        kill(w->pid, SIGKILL); /* the pidfd tells when it is gone */
    }
}

static void release(struct worker *w)
{
    if (!w->is_closed || w->depth)
        return;
    wire_channel_close(&w->channel);
    if (w->pidfd >= 0)
        close(w->pidfd);
    free(w);
}

/* Hands out the frames that have come; false when w is gone or must not be read any more. */
static bool hand_out(struct worker *w)
{
    struct wire m;
    enum err e;
    w->depth++;
    while (!w->is_closed && (e = wire_next(&w->channel, &m)) == ERR_NONE)
        w->options.message(w->options.context, w, &m);
    w->depth--;
    if (w->is_closed) {
        release(w);
        return false;
    }
    if (e != ERR_NOT_FOUND)
        kill_for(w, WORKER_BROKE);
    return e == ERR_NOT_FOUND;
}

static void finish(struct worker *w)
{
    siginfo_t info = {0};
    char why[128];
    if (w->is_ended)
        return;
    w->is_ended = true;
    loop_delete(w->options.loop, &w->socket);
    loop_delete(w->options.loop, &w->process);
    loop_clear_timer(w->options.loop, &w->silence);
    if (waitid(P_PIDFD, (id_t)w->pidfd, &info, WEXITED) != 0)
        info.si_code = 0;
    enum worker_end end = w->end;
    bool by_signal = info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED;
    if (!end)
        end = !by_signal && info.si_status == ERR_MEMORY ? WORKER_MEMORY : WORKER_CRASHED;
    snprintf(why, sizeof why, by_signal ? "signal %d" : "status %d", info.si_status);
    w->pid = -1;
    w->depth++;
    if (w->options.ended && !w->is_closed)
        w->options.ended(w->options.context, w, end, why);
    w->depth--;
    release(w);
}

static void on_exit_of_process(void *context, uint32_t events)
{
    struct worker *w = context;
    (void)events;
    /* Frames sent before the end still count: a worker that says DONE and exits has done its work. */
    while (!w->end && wire_fill(&w->channel) == ERR_NONE)
        if (!hand_out(w))
            return;
    finish(w);
}

static void on_silence(void *context)
{
    struct worker *w = context;
    int64_t left = w->heard_ms + w->within_ms - loop_now_ms(w->options.loop);
    if (w->within_ms == 0)
        return;
    if (left > 0) {
        loop_set_timer(w->options.loop, &w->silence, left, on_silence, w);
        return;
    }
    log_error("worker: no sign of life, killed: task=%s pid=%d seconds=%lld", w->options.name, (int)w->pid,
              (long long)w->within_ms / 1000);
    kill_for(w, WORKER_HUNG);
}

static void on_socket(void *context, uint32_t events)
{
    struct worker *w = context;
    if (events & EPOLLOUT) {
        if (wire_flush(&w->channel) == ERR_NONE && !wire_is_waiting(&w->channel) && w->is_polling_out) {
            w->is_polling_out = false;
            if (loop_change(w->options.loop, &w->socket, EPOLLIN))
                kill_for(w, WORKER_BROKE);
        }
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    enum err e = wire_fill(&w->channel);
    if (e == ERR_NOT_FOUND)
        return;
    if (e) { /* it closed its end: it is dying, or as good as dead */
        loop_delete(w->options.loop, &w->socket);
        if (w->pid > 0)
            kill(w->pid, SIGKILL);
        return;
    }
    w->heard_ms = loop_now_ms(w->options.loop);
    hand_out(w);
}

enum err worker_open(const struct worker_options *options, struct worker **out)
{
    int pair[2] = {-1, -1};
    enum err e = ERR_IO;
    if (!find_program()) {
        log_error("worker: the program is missing: file=%s", program);
        return ERR_NOT_FOUND;
    }
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return ERR_MEMORY;
    w->options = *options;
    w->pidfd = w->pid = -1;
    wire_channel_open(&w->channel, -1);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        goto out;
    pid_t self = getpid();
    w->pid = fork();
    if (w->pid == 0)
        become(pair[1], options->settings->memory_bytes, self);
    if (w->pid < 0)
        goto out;
    close(pair[1]);
    pair[1] = -1;
    w->channel.fd = pair[0];
    pair[0] = -1;
    w->pidfd = (int)syscall(SYS_pidfd_open, w->pid, 0);
    if (w->pidfd < 0 || fcntl(w->channel.fd, F_SETFL, O_NONBLOCK) != 0)
        goto out;
    if ((e = loop_add(options->loop, &w->socket, w->channel.fd, EPOLLIN, on_socket, w)) ||
        (e = loop_add(options->loop, &w->process, w->pidfd, EPOLLIN, on_exit_of_process, w)) || (e = send_setup(w)))
        goto out;
    log_debug("worker: started: task=%s pid=%d", options->name, (int)w->pid);
    *out = w;
    return ERR_NONE;
out:
    if (pair[0] >= 0)
        close(pair[0]);
    if (pair[1] >= 0)
        close(pair[1]);
    worker_close(w);
    return e;
}

void worker_close(struct worker *w)
{
    if (!w || w->is_closed)
        return;
    loop_delete(w->options.loop, &w->socket);
    loop_delete(w->options.loop, &w->process);
    loop_clear_timer(w->options.loop, &w->silence);
    if (w->pid > 0) {
        kill(w->pid, SIGKILL);
        while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
        w->pid = -1;
    }
    w->is_ended = true;
    w->is_closed = true;
    release(w);
}

enum err worker_send(struct worker *w, const struct wire *m)
{
    if (w->is_ended)
        return ERR_IO;
    enum err e = wire_send(&w->channel, m);
    if (!e && wire_is_waiting(&w->channel) && !w->is_polling_out) {
        w->is_polling_out = true;
        e = loop_change(w->options.loop, &w->socket, EPOLLIN | EPOLLOUT);
    }
    return e;
}

void worker_expect(struct worker *w, int64_t within_ms)
{
    w->within_ms = within_ms;
    w->heard_ms = loop_now_ms(w->options.loop);
    if (within_ms)
        loop_set_timer(w->options.loop, &w->silence, within_ms, on_silence, w);
    else
        loop_clear_timer(w->options.loop, &w->silence);
}

pid_t worker_pid(const struct worker *w)
{
    return w->pid;
}

uint64_t worker_rss(const struct worker *w)
{
    char path[64];
    unsigned long total, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)w->pid);
    FILE *f = w->pid > 0 ? fopen(path, "re") : NULL;
    if (!f)
        return 0;
    if (fscanf(f, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}
