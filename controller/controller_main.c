/* controller_main.c: tare-controller: arguments, signals, the loop. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "controller/api.h"
#include "controller/artifact.h"
#include "controller/controller_link.h"
#include "controller/controller_log.h"
#include "controller/workshop.h"

enum { TICK_MS = 1000, TICK_LEAST_MS = 50, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_ENVIRONMENT = 4 };

static const char usage[] =
    "tare-controller: registry, planner, rollouts, calibration loop, artifact server, HTTP API\n"
    "\n"
    "usage: tare-controller [SETTINGS.ini]\n"
    "       tare-controller --check [SETTINGS.ini]   judge the settings and leave\n"
    "       tare-controller --version\n"
    "\n"
    "The settings are /etc/tare/controller.ini unless named; every key is documented in the packaged\n"
    "example. Runs in the foreground, logs to standard error, ends in order at SIGTERM.\n"
    "\n"
    "examples:\n"
    "  tare-controller fleet/controller.ini\n"
    "  curl -H \"Authorization: Bearer $(cut -d' ' -f1 STATE/api.token)\" http://127.0.0.1:8780/api/1/devices\n";

static const char *arguments(int argc, char **argv, bool *is_check)
{
    const char *file = "/etc/tare/controller.ini";
    bool is_named = false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-' && !is_named) {
            file = argv[i];
            is_named = true;
        } else if (strcmp(argv[i], "--check") == 0) {
            *is_check = true;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            exit(0);
        } else if (strcmp(argv[i], "--version") == 0) {
            puts("tare-controller " TARE_VERSION);
            exit(0);
        } else {
            fprintf(stderr, "tare-controller: %s: expected one SETTINGS.ini, --check, --version or --help\n",
                    argv[i]);
            exit(EXIT_USAGE);
        }
    }
    return file;
}

static enum err open_link(struct controller *c, char *why, uint32_t why_bytes)
{
    const struct controller_settings *s = &c->settings;
    char presence[128], client[64];
    snprintf(presence, sizeof presence, "tare/1/%.32s/_ctl/%.32s/state", s->fleet, s->name);
    snprintf(client, sizeof client, "controller-%.32s", s->name);
    struct transport transport;
    struct transport_options options = {
        .host = s->broker_host,
        .port = (uint16_t)s->broker_port,
        .client_id = client,
        .ca_file = s->broker_tls ? s->broker_ca : NULL,
        .cert_file = s->broker_tls ? s->broker_cert : NULL,
        .key_file = s->broker_tls ? s->broker_key : NULL,
        .keepalive_s = s->keepalive_s,
        .session_expiry_s = 3600,
        .backoff_most_ms = 10000,
        .ring_bytes = 32u << 20,
        .will_topic = presence,
        .will = (const uint8_t *)"offline",
        .will_bytes = 7,
        .will_delay_s = 5,
    };
    enum err e = transport_mqtt_open(&options, &transport);
    if (!e)
        e = controller_link_open(c, &transport, &c->link);
    if (e)
        snprintf(why, why_bytes, "[broker] %s:%u: %s", s->broker_host, s->broker_port, err_name(e));
    return e;
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void loop(struct controller *c, int signal_fd)
{
    int64_t next_ms = 0;
    bool is_dirty = true;
    for (;;) {
        int wait_ms = TICK_MS;
        controller_link_pump(c->link, &wait_ms);
        int64_t now_ms = controller_now_ms();
        if (now_ms >= next_ms || (is_dirty && now_ms >= next_ms - TICK_MS + TICK_LEAST_MS)) {
            controller_tick(c, now_ms);
            int64_t took_ms = controller_now_ms() - now_ms;
            /* A large fleet makes ticks long; messages must get most of the time. */
            next_ms = now_ms + took_ms + (4 * took_ms > TICK_MS ? 4 * took_ms : TICK_MS);
            is_dirty = false;
        }
        if (wait_ms < 0 || wait_ms > TICK_MS)
            wait_ms = TICK_MS;
        if (is_dirty && wait_ms > TICK_LEAST_MS)
            wait_ms = TICK_LEAST_MS;
        struct pollfd fds[] = {{controller_link_fd(c->link), POLLIN, 0},
                               {c->wake_fd, POLLIN, 0},
                               {signal_fd, POLLIN, 0}};
        if (poll(fds, 3, wait_ms) < 0 && errno != EINTR) {
            controller_log(CONTROLLER_LOG_ERROR, "loop: poll: %s", strerror(errno));
            return;
        }
        if (fds[2].revents)
            return;
        if (fds[1].revents) {
            uint64_t count;
            ssize_t n = read(c->wake_fd, &count, sizeof count);
            (void)n;
        }
        is_dirty = is_dirty || fds[0].revents || fds[1].revents;
    }
}

static int run(const struct controller_settings *settings)
{
    struct controller *c = NULL;
    struct api_server *api = NULL;
    struct artifact_server *artifacts = NULL;
    char why[400] = "";
    int signal_fd = open_signals(); /* before the first thread: all of them leave the signals to us */
    enum err e = signal_fd < 0 ? ERR_IO : controller_open(settings, &c, why, sizeof why);
    if (!e)
        e = workshop_open(c, NULL, &c->workshop);
    if (!e)
        e = open_link(c, why, sizeof why);
    if (!e)
        e = api_open(c, &api, why, sizeof why);
    if (!e) {
        e = artifact_open(c, &artifacts);
        if (e)
            snprintf(why, sizeof why, "[artifacts] %s:%u: cannot listen", settings->artifact_address,
                     settings->artifact_port);
    }
    if (e) {
        fprintf(stderr, "tare-controller: %s\n", why[0] ? why : err_name(e));
    } else {
        controller_log(CONTROLLER_LOG_INFO, "fleet %s: API and dashboard on http://%s:%u, artifacts on port %u",
                       settings->fleet, settings->http_address, api_port(api), artifact_port(artifacts));
        loop(c, signal_fd);
    }
    artifact_close(artifacts);
    api_close(api);
    if (c) {
        workshop_close(c->workshop);
        controller_link_close(c->link);
    }
    controller_close(c);
    if (signal_fd >= 0)
        close(signal_fd);
    return e ? EXIT_ENVIRONMENT : 0;
}

int main(int argc, char **argv)
{
    static struct controller_settings settings;
    char why[400];
    bool is_check = false;
    if (argc == 3 && strcmp(argv[1], "prepare") == 0)
        return prepare_main(argv[2]);
    const char *file = arguments(argc, argv, &is_check);
    enum err e = controller_settings_load(file, &settings, why, sizeof why);
    if (e) {
        fprintf(stderr, "tare-controller: %s\n", why);
        return EXIT_INPUT;
    }
    if (!settings.web[0])
        snprintf(settings.web, sizeof settings.web, "%s",
                 access(TARE_WEB_INSTALLED "/index.html", R_OK) == 0 ? TARE_WEB_INSTALLED : TARE_WEB_SOURCE);
    if (settings.is_verbose)
        controller_log_set(CONTROLLER_LOG_DEBUG);
    if (is_check) {
        printf("%s: good\n", file);
        return 0;
    }
    return run(&settings);
}
