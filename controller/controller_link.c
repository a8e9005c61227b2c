/* controller_link.c: posts, and the connection they leave by. */
#include "controller/controller_link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/controller_log.h"
#include "controller/ingest.h"
#include "protocol/envelope.h"
#include "protocol/topic.h"

enum { BATCH_MAX = 128, QUEUE_MAX = 8192, PRESENCE_MAX = 128 };

struct post {
    struct post *next;
    size_t size;
    bool is_retained;
    char topic[TRANSPORT_TOPIC_MAX];
    uint8_t bytes[];
};

struct posts {
    struct post *first, **last;
    size_t count;
};

struct controller_link {
    struct controller *c;
    struct transport transport;
    struct posts *queue;
    struct posts *fresh;
    bool is_connected;
    char filter[TOPIC_MAX];
    char presence[PRESENCE_MAX];
};

enum err posts_open(struct posts **out)
{
    struct posts *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_MEMORY;
    p->last = &p->first;
    *out = p;
    return ERR_NONE;
}

static void drop_first(struct posts *p)
{
    struct post *post = p->first;
    p->first = post->next;
    if (!p->first)
        p->last = &p->first;
    p->count--;
    free(post);
}

void posts_close(struct posts *p)
{
    if (!p)
        return;
    while (p->first)
        drop_first(p);
    free(p);
}

static enum err add(struct posts *p, const char *topic, bool is_retained, const uint8_t *bytes,
                    size_t size)
{
    struct post *post = malloc(sizeof *post + size);
    if (!post)
        return ERR_MEMORY;
    post->next = NULL;
    post->size = size;
    post->is_retained = is_retained;
    snprintf(post->topic, sizeof post->topic, "%s", topic);
    if (size)
        memcpy(post->bytes, bytes, size);
    *p->last = post;
    p->last = &post->next;
    p->count++;
    return ERR_NONE;
}

enum err posts_add(struct posts *p, const char *fleet, const char *device, uint32_t kind,
                   const uint8_t *bytes, size_t size)
{
    char topic[TOPIC_MAX];
    enum err e = topic_encode(fleet, device, kind, topic);
    return e ? e : add(p, topic, false, bytes, size);
}

enum err posts_add_signed(struct posts *p, const struct controller *c, const char *device,
                          uint32_t kind, uint32_t type, const uint8_t *payload, size_t size)
{
    size_t capacity = size + ENVELOPE_OVERHEAD, bytes;
    uint8_t *envelope = malloc(capacity);
    if (!envelope)
        return ERR_MEMORY;
    enum err e = envelope_sign(c->director.secret_key, c->settings.fleet, ENVELOPE_DIRECTOR, type,
                               payload, size, envelope, capacity, &bytes);
    if (!e)
        e = posts_add(p, c->settings.fleet, device, kind, envelope, bytes);
    free(envelope);
    return e;
}

void posts_move(struct posts *to, struct posts *from)
{
    if (!from->first)
        return;
    *to->last = from->first;
    to->last = from->last;
    to->count += from->count;
    from->first = NULL;
    from->last = &from->first;
    from->count = 0;
}

size_t posts_count(const struct posts *p)
{
    return p->count;
}

const uint8_t *posts_get(const struct posts *p, size_t i, const char **topic, size_t *size)
{
    const struct post *post = p->first;
    while (post && i--)
        post = post->next;
    if (!post)
        return NULL;
    *topic = post->topic;
    *size = post->size;
    return post->bytes;
}

enum err controller_link_open(struct controller *c, const struct transport *transport,
                              struct controller_link **out)
{
    struct controller_link *l = calloc(1, sizeof *l);
    if (!l)
        return ERR_MEMORY;
    l->c = c;
    enum err e = posts_open(&l->queue);
    if (!e)
        e = posts_open(&l->fresh);
    if (!e)
        e = topic_fleet_filter(c->settings.fleet, l->filter);
    if (!e)
        e = transport->connect(transport->state);
    if (e) {
        controller_link_close(l);
        return e;
    }
    snprintf(l->presence, sizeof l->presence, "tare/1/%.32s/_ctl/%.32s/state", c->settings.fleet,
             c->settings.name);
    l->transport = *transport;
    *out = l;
    return ERR_NONE;
}

void controller_link_close(struct controller_link *l)
{
    if (!l)
        return;
    if (l->transport.close) {
        if (l->is_connected) {
            uint32_t token;
            (void)l->transport.publish(l->transport.state, l->presence, (const uint8_t *)"offline", 7,
                                       true, &token);
        }
        l->transport.close(l->transport.state);
    }
    posts_close(l->queue);
    posts_close(l->fresh);
    free(l);
}

int controller_link_fd(const struct controller_link *l)
{
    return l->transport.fd;
}

void controller_link_send(struct controller_link *l, struct posts *p)
{
    if (!l) {
        while (p->first)
            drop_first(p);
        return;
    }
    posts_move(l->queue, p);
    size_t dropped = 0;
    while (l->queue->count > QUEUE_MAX) {
        drop_first(l->queue);
        dropped++;
    }
    if (dropped)
        controller_log(CONTROLLER_LOG_WARNING,
                       "link: %zu messages dropped: the broker does not take them", dropped);
}

static void flush(struct controller_link *l)
{
    while (l->is_connected && l->queue->first) {
        struct post *post = l->queue->first;
        uint32_t token;
        enum err e = l->transport.publish(l->transport.state, post->topic, post->bytes, post->size,
                                          post->is_retained, &token);
        if (e == ERR_FULL)
            return;
        if (e)
            controller_log(CONTROLLER_LOG_ERROR, "link: a message was not taken: %s", err_name(e));
        else
            atomic_fetch_add(&l->c->counts.published, 1);
        drop_first(l->queue);
    }
}

static void on_event(struct controller_link *l, const struct transport_event *event)
{
    enum err e = ERR_NONE;
    switch (event->kind) {
    case TRANSPORT_CONNECTED:
        l->is_connected = true;
        atomic_store(&l->c->counts.is_connected, true);
        controller_log(CONTROLLER_LOG_INFO, "link: connected");
        e = l->transport.subscribe(l->transport.state, l->filter);
        if (!e)
            e = add(l->queue, l->presence, true, (const uint8_t *)"online", 6);
        break;
    case TRANSPORT_LOST:
        if (l->is_connected || event->text[0])
            controller_log(CONTROLLER_LOG_WARNING, "link: not connected, next attempt in %.1f s: %s",
                           event->retry_ms / 1e3, event->text);
        l->is_connected = false;
        atomic_store(&l->c->counts.is_connected, false);
        break;
    case TRANSPORT_SUBSCRIBED:
        e = event->err;
        break;
    default:
        break;
    }
    if (e)
        controller_log(CONTROLLER_LOG_ERROR, "link: subscription refused: %s", err_name(e));
}

/* One batch: as many waiting messages as fit, one commit, then the acknowledgements. */
static bool receive(struct controller_link *l)
{
    struct transport_event event;
    struct ingest *batch = NULL;
    enum err e = ERR_NONE;
    size_t count = 0;
    while (count < BATCH_MAX && !e &&
           l->transport.next(l->transport.state, &event) == ERR_NONE) {
        if (event.kind != TRANSPORT_MESSAGE) {
            on_event(l, &event);
            continue;
        }
        if (!batch)
            e = ingest_begin(l->c, &batch);
        if (!e)
            e = ingest_apply(batch, event.topic, event.is_retained, event.payload,
                             event.payload_bytes, controller_now_ms());
        count++;
    }
    if (batch && !e)
        e = ingest_commit(batch, controller_now_ms(), l->fresh);
    else
        ingest_abort(batch);
    if (e) /* nothing was acknowledged, so all of it comes again */
        controller_log(CONTROLLER_LOG_ERROR, "ingest: %zu messages given up: %s", count, err_name(e));
    else
        controller_link_send(l, l->fresh);
    return count == BATCH_MAX && !e;
}

void controller_link_pump(struct controller_link *l, int *wait_ms)
{
    enum err e = l->transport.step(l->transport.state, wait_ms);
    if (e)
        controller_log(CONTROLLER_LOG_ERROR, "link: %s", err_name(e));
    bool is_more = receive(l);
    flush(l);
    if (is_more)
        *wait_ms = 0;
}
