/* mqtt_open.c: opening and closing the MQTT transport. */
#include "protocol/mqtt.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static bool is_paho_thread(const char *id)
{
    static const char name[] = "MQTTAsync_"; /* send, rcv: its threads name themselves */
    char path[64], text[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%.20s/comm", id);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    const bool is_read = fgets(text, sizeof text, f) != NULL;
    fclose(f);
    return is_read && strncmp(text, name, sizeof name - 1) == 0;
}

static bool has_paho_threads(void)
{
    bool has = false;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *d; tasks && (d = readdir(tasks));)
        has = has || is_paho_thread(d->d_name);
    if (tasks)
        closedir(tasks);
    return has;
}

/* Paho calls its threads stopped a little before they are. What OpenSSL does at a thread's end must be over before what
 * it does at the process's: both free the same. */
static void await_paho_threads(void)
{
    for (int i = 0; i < THREADS_MS / 5 && has_paho_threads(); i++)
        usleep(5 * 1000);
}

static void *destroy(void *client)
{
    MQTTAsync handle = client;
    MQTTAsync_destroy(&handle);
    return NULL;
}

/* True when Paho is gone. Its destroy has been seen to hang; then its memory is left to it. */
static bool destroy_client(struct mqtt *m)
{
    pthread_t thread;
    struct timespec until;
    MQTTAsync_disconnectOptions options = MQTTAsync_disconnectOptions_initializer5;
    options.timeout = DISCONNECT_MS;
    if (MQTTAsync_isConnected(m->client) &&
        MQTTAsync_disconnect(m->client, &options) == MQTTASYNC_SUCCESS)
        for (int i = 0; i < DISCONNECT_MS / 10 + 50 && MQTTAsync_isConnected(m->client); i++)
            usleep(10 * 1000);
    if (pthread_create(&thread, NULL, destroy, m->client) != 0) {
        destroy(m->client);
        await_paho_threads();
        return true;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DESTROY_S;
    if (pthread_timedjoin_np(thread, NULL, &until) == 0) {
        await_paho_threads();
        return true;
    }
    pthread_detach(thread);
    return false;
}

static void free_options(struct transport_options *o)
{
    free((void *)(uintptr_t)o->host);
    free((void *)(uintptr_t)o->client_id);
    free((void *)(uintptr_t)o->ca_file);
    free((void *)(uintptr_t)o->cert_file);
    free((void *)(uintptr_t)o->key_file);
    free((void *)(uintptr_t)o->will_topic);
    free((void *)(uintptr_t)o->will);
}

static void mqtt_close(void *state)
{
    struct mqtt *m = state;
    if (!m)
        return;
    if (m->client && !destroy_client(m))
        return; /* its callbacks may still come: everything they touch must stay */
    if (m->poll_fd >= 0)
        close(m->poll_fd);
    if (m->timer_fd >= 0)
        close(m->timer_fd);
    if (m->event_fd >= 0)
        close(m->event_fd);
    if (m->ring_memory)
        ring_destroy(&m->ring);
    free(m->ring_memory);
    free(m->scratch);
    free_options(&m->options);
    free(m);
}

static bool copy_text(const char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

static enum err copy_options(struct transport_options *to, const struct transport_options *from)
{
    *to = *from;
    to->will = NULL;
    if (from->will_bytes) {
        uint8_t *will = malloc(from->will_bytes);
        if (will)
            memcpy(will, from->will, from->will_bytes);
        to->will = will;
    }
    /* every pointer is replaced before the first failure is looked at, so none of the caller's is
     * freed */
    bool ok = copy_text(&to->host, from->host);
    ok = copy_text(&to->client_id, from->client_id) && ok;
    ok = copy_text(&to->ca_file, from->ca_file) && ok;
    ok = copy_text(&to->cert_file, from->cert_file) && ok;
    ok = copy_text(&to->key_file, from->key_file) && ok;
    ok = copy_text(&to->will_topic, from->will_topic) && ok;
    to->keepalive_s = or_default(from->keepalive_s, 60);
    to->session_expiry_s = or_default(from->session_expiry_s, 86400);
    to->connect_timeout_s = or_default(from->connect_timeout_s, 10);
    to->backoff_least_ms = or_default(from->backoff_least_ms, 1000);
    to->backoff_most_ms = or_default(from->backoff_most_ms, 120000);
    to->window = or_default(from->window, TRANSPORT_WINDOW_MAX);
    to->ring_bytes = or_default(from->ring_bytes, RING_BYTES);
    return ok && (to->will || !from->will_bytes) ? ERR_NONE : ERR_MEMORY;
}

static enum err check_options(const struct transport_options *o)
{
    const char *file[] = {o->ca_file, o->cert_file, o->key_file};
    if (!o->host || !o->client_id || o->port == 0 || o->window > TRANSPORT_WINDOW_MAX ||
        (o->ring_bytes & (o->ring_bytes - 1)) ||
        (o->ring_bytes && o->ring_bytes < 4 * EVENT_RESERVE) ||
        (o->will_bytes && (!o->will || !o->will_topic)) || o->will_bytes > TRANSPORT_PAYLOAD_MAX ||
        o->backoff_most_ms > 24u * 3600 * 1000)
        return ERR_ARGUMENT;
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        if (!file[i])
            return ERR_ARGUMENT;
        if (access(file[i], R_OK) != 0)
            return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    }
    return ERR_NONE;
}

static enum err open_descriptors(struct mqtt *m)
{
    m->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    m->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    m->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event watch = {.events = EPOLLIN};
    if (m->event_fd < 0 || m->timer_fd < 0 || m->poll_fd < 0 ||
        epoll_ctl(m->poll_fd, EPOLL_CTL_ADD, m->event_fd, &watch) != 0 ||
        epoll_ctl(m->poll_fd, EPOLL_CTL_ADD, m->timer_fd, &watch) != 0)
        return ERR_IO;
    return ERR_NONE;
}

static enum err create_client(struct mqtt *m)
{
    char url[320];
    MQTTAsync_createOptions create = MQTTAsync_createOptions_initializer5;
    create.sendWhileDisconnected = 0;
    int n =
        snprintf(url, sizeof url, strchr(m->options.host, ':') ? "ssl://[%s]:%u" : "ssl://%s:%u",
                 m->options.host, m->options.port);
    if (n < 0 || (size_t)n >= sizeof url)
        return ERR_ARGUMENT;
    if (MQTTAsync_createWithOptions(&m->client, url, m->options.client_id,
                                    MQTTCLIENT_PERSISTENCE_NONE, NULL,
                                    &create) != MQTTASYNC_SUCCESS) {
        m->client = NULL;
        return ERR_MEMORY;
    }
    return MQTTAsync_setCallbacks(m->client, m, mqtt_on_lost, mqtt_on_message, NULL) ==
                   MQTTASYNC_SUCCESS
               ? ERR_NONE
               : ERR_ARGUMENT;
}

enum err transport_mqtt_open(const struct transport_options *options, struct transport *out)
{
    enum err e = check_options(options);
    if (e)
        return e;
    struct mqtt *m = calloc(1, sizeof *m);
    if (!m)
        return ERR_MEMORY;
    m->event_fd = m->timer_fd = m->poll_fd = -1;
    for (uint32_t i = 0; i < TRANSPORT_WINDOW_MAX; i++)
        m->slot[i].mqtt = m;
    if ((e = copy_options(&m->options, options)))
        goto out;
    m->ring_memory = malloc(m->options.ring_bytes);
    m->scratch = malloc(SCRATCH_MAX);
    e = ERR_MEMORY;
    if (!m->ring_memory || !m->scratch)
        goto out;
    ring_init(&m->ring, m->ring_memory, m->options.ring_bytes);
    if ((e = open_descriptors(m)) || (e = create_client(m)))
        goto out;
    signal(SIGPIPE, SIG_IGN);
    mqtt_operations(m, out);
    out->close = mqtt_close;
    return ERR_NONE;
out:
    mqtt_close(m);
    return e;
}
