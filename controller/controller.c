/* controller.c: opening, and what is due besides messages. */
#include "controller/controller.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "controller/controller_link.h"
#include "controller/controller_log.h"
#include "controller/doc.h"
#include "controller/drift.h"
#include "controller/planner.h"
#include "controller/release.h"
#include "controller/workshop.h"

int64_t controller_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

enum err controller_open(const struct controller_settings *settings, struct controller **out, char *why,
                         uint32_t why_bytes)
{
    if (sodium_init() < 0) {
        snprintf(why, why_bytes, "no source of randomness");
        return ERR_UNSUPPORTED;
    }
    struct controller *c = calloc(1, sizeof *c);
    if (!c)
        return ERR_MEMORY;
    c->settings = *settings;
    c->started_s = controller_now_ms() / 1000;
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    enum err e = c->wake_fd < 0 ? ERR_IO : ERR_NONE;
    if (!e && mkdir(settings->state, 0700) != 0 && errno != EEXIST) {
        snprintf(why, why_bytes, "%s: %s", settings->state, strerror(errno));
        e = ERR_IO;
    }
    if (!e) {
        e = keys_load(settings->director_key, true, "tare director", &c->director);
        if (e)
            snprintf(why, why_bytes, "%s: %s", settings->director_key,
                     e == ERR_ARGUMENT ? "expected mode 0600: others may read it" : err_name(e));
    }
    if (!e) {
        char folder[CONTROLLER_PATH + 16];
        snprintf(folder, sizeof folder, "%s/registry", settings->state);
        e = registry_open(folder, (size_t)settings->map_mib << 20, &c->registry);
        if (e)
            snprintf(why, why_bytes, "%s: %s", folder,
                     e == ERR_IO ? "cannot be opened, or another controller holds it" : err_name(e));
    }
    if (e) {
        controller_close(c);
        return e;
    }
    *out = c;
    return ERR_NONE;
}

void controller_close(struct controller *c)
{
    if (!c)
        return;
    registry_close(c->registry);
    keys_wipe(&c->director);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    free(c);
}

void controller_wake(struct controller *c)
{
    uint64_t one = 1;
    ssize_t n = write(c->wake_fd, &one, sizeof one);
    (void)n; /* full means that a wake is pending already */
}

uint16_t controller_last_port(struct controller *c, const char *name)
{
    struct registry_txn *t = NULL;
    json_t *doc = NULL;
    if (registry_begin(c->registry, false, &t))
        return 0;
    enum err e = registry_get_doc(t, REGISTRY_META, "ports", &doc);
    registry_abort(t);
    int64_t port = e ? 0 : doc_int(doc, name);
    json_decref(doc);
    return port > 0 && port <= UINT16_MAX ? (uint16_t)port : 0;
}

enum err controller_keep_port(struct controller *c, const char *name, uint16_t port)
{
    struct registry_txn *t = NULL;
    json_t *doc = NULL;
    enum err e = registry_begin(c->registry, true, &t);
    if (e)
        return e;
    e = registry_get_doc(t, REGISTRY_META, "ports", &doc);
    if (e == ERR_NOT_FOUND) {
        doc = json_object();
        e = doc ? ERR_NONE : ERR_MEMORY;
    }
    doc_set_int(doc, name, port);
    if (!e)
        e = registry_put_doc(t, REGISTRY_META, "ports", doc);
    json_decref(doc);
    if (!e)
        return registry_commit(t);
    registry_abort(t);
    return e;
}

/* Requests that were recorded and not sent, or whose time has passed. */
static enum err bench_tick(struct controller *c, struct registry_txn *t, int64_t now_ms,
                           struct posts *posts)
{
    json_t *all = NULL, *doc;
    size_t i;
    enum err e = registry_list(t, REGISTRY_BENCH, NULL, false, 0, &all);
    json_array_foreach(all, i, doc)
    {
        if (e || strcmp(doc_text(doc, "state"), "asked") != 0)
            continue;
        if (doc_int(doc, "not_after") < now_ms / 1000) {
            doc_set_text(doc, "state", "expired");
            e = registry_put_doc(t, REGISTRY_BENCH, doc_text(doc, "id"), doc);
        } else if (!doc_int(doc, "sent")) {
            e = planner_bench(c, t, doc, now_ms, posts);
        }
    }
    json_decref(all);
    return e;
}

static enum err decide(struct controller *c, int64_t now_ms, struct posts *posts)
{
    struct registry_txn *t = NULL;
    enum err e = registry_begin(c->registry, true, &t);
    if (e)
        return e;
    e = release_tick(c, t, now_ms, posts);
    if (!e)
        e = bench_tick(c, t, now_ms, posts);
    if (e) {
        registry_abort(t);
        return e;
    }
    return registry_commit(t);
}

void controller_tick(struct controller *c, int64_t now_ms)
{
    struct posts *posts = NULL;
    bool is_busy = false;
    enum err e = posts_open(&posts);
    if (!e && c->workshop)
        e = workshop_tick(c->workshop, now_ms / 1000, &is_busy);
    if (!e)
        e = decide(c, now_ms, posts);
    if (e) /* nothing was committed: nothing is sent, and the next tick decides the same again */
        controller_log(CONTROLLER_LOG_ERROR, "tick: %s", err_name(e));
    else
        controller_link_send(c->link, posts);
    posts_close(posts);
    e = drift_tick(c, now_ms / 1000);
    if (e)
        controller_log(CONTROLLER_LOG_ERROR, "drift: %s", err_name(e));
}
