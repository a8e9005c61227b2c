/* transport_memory.c: a broker in memory, for tests. Single-threaded and, with one seed,
 * repeatable. */
#include "protocol/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "protocol/keys.h"

enum { CLIENTS_MAX = 64, FILTERS_MAX = 8, NOT_AUTHORISED = 0x87, RETRY_MS = 10 };

/* A message or an event on its way to one client, or a retained message. */
struct packet {
    struct packet *next;
    uint64_t due; /* step of the broker at which it arrives */
    struct transport_event event;
    char topic[TRANSPORT_TOPIC_MAX];
    size_t payload_bytes;
    uint8_t payload[];
};

struct client {
    struct transport_memory *broker;
    char id[TRANSPORT_TOPIC_MAX];
    int fd;
    uint32_t token;
    bool is_open;
    bool wants_link;
    bool is_linked;
    bool has_session;
    bool is_device;
    uint32_t filters;
    char filter[FILTERS_MAX][TRANSPORT_TOPIC_MAX];
    struct packet *will;
    struct packet *inbox; /* arrived and under way, oldest first */
    struct packet *given; /* the caller looks at it until the next call */
    struct transport_counts counts;
};

struct transport_memory {
    struct transport_faults faults;
    uint64_t random;
    uint64_t step;
    bool is_running;
    uint32_t clients;
    struct client *client[CLIENTS_MAX];
    struct packet *retained;
};

/* splitmix64; Source: Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195 */
static uint64_t draw(struct transport_memory *b)
{
    uint64_t z = b->random += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static bool happens(struct transport_memory *b, uint32_t per_mille)
{
    return per_mille && draw(b) % 1000 < per_mille;
}

static struct packet *new_packet(const char *topic, const uint8_t *payload, size_t size)
{
    struct packet *p = calloc(1, sizeof *p + size + 1);
    if (!p)
        return NULL;
    memcpy(p->topic, topic, strnlen(topic, sizeof p->topic - 1));
    p->payload_bytes = size;
    if (size)
        memcpy(p->payload, payload, size);
    return p;
}

static void free_packets(struct packet *p)
{
    while (p) {
        struct packet *next = p->next;
        free(p);
        p = next;
    }
}

static void wake(struct client *c)
{
    uint64_t one = 1;
    if (c->fd >= 0 && write(c->fd, &one, sizeof one) < 0)
        return; /* full: awake already */
}

static void append(struct client *c, struct packet *p, bool overtakes)
{
    struct packet **at = &c->inbox;
    while (*at && !(overtakes && !(*at)->next && (*at)->event.kind == TRANSPORT_MESSAGE))
        at = &(*at)->next;
    p->next = *at;
    *at = p;
    wake(c);
}

static void put_event(struct client *c, struct transport_event event)
{
    struct packet *p = new_packet("", NULL, 0);
    if (!p)
        return; /* a test that runs out of memory has other troubles */
    p->event = event;
    if (!p->event.text)
        p->event.text = "";
    append(c, p, false);
}

/* filter with + and a last # */
static bool matches(const char *filter, const char *topic)
{
    while (*filter) {
        if (*filter == '#')
            return true;
        if (*filter == '+') {
            topic += strcspn(topic, "/");
            filter++;
        } else if (*filter++ != *topic++) {
            return false;
        }
    }
    return *topic == 0;
}

static bool is_allowed(const struct client *c, const char *topic, const char *direction)
{
    if (!c->is_device)
        return true;
    const char *at = strncmp(topic, "tare/1/", 7) == 0 ? strchr(topic + 7, '/') : NULL;
    size_t n = strlen(c->id);
    return at && strncmp(at + 1, c->id, n) == 0 &&
           strncmp(at + 1 + n, direction, strlen(direction)) == 0;
}

static void deliver_one(struct client *c, const struct packet *from, bool is_retained)
{
    struct transport_memory *b = c->broker;
    struct packet *p = new_packet(from->topic, from->payload, from->payload_bytes);
    if (!p)
        return;
    p->event =
        (struct transport_event){.kind = TRANSPORT_MESSAGE, .is_retained = is_retained, .text = ""};
    if (b->faults.delay_steps && happens(b, b->faults.delay))
        p->due = b->step + 1 + draw(b) % b->faults.delay_steps;
    append(c, p, happens(b, b->faults.reorder));
}

static void deliver(struct client *c, const struct packet *from, bool is_retained)
{
    struct transport_memory *b = c->broker;
    if (happens(b, b->faults.lose)) {
        c->counts.dropped++;
        return;
    }
    deliver_one(c, from, is_retained);
    if (happens(b, b->faults.duplicate))
        deliver_one(c, from, is_retained);
}

static void keep_retained(struct transport_memory *b, const struct packet *from)
{
    struct packet **at = &b->retained;
    while (*at && strcmp((*at)->topic, from->topic) != 0)
        at = &(*at)->next;
    if (*at) {
        struct packet *old = *at;
        *at = old->next;
        free(old);
    }
    struct packet *copy =
        from->payload_bytes ? new_packet(from->topic, from->payload, from->payload_bytes) : NULL;
    if (copy) {
        copy->next = b->retained;
        b->retained = copy;
    }
}

static void route(struct transport_memory *b, const struct packet *p, bool is_retained)
{
    if (is_retained)
        keep_retained(b, p);
    for (uint32_t i = 0; i < b->clients; i++) {
        struct client *c = b->client[i];
        bool wanted = false;
        for (uint32_t k = 0; k < c->filters && !wanted; k++)
            wanted = matches(c->filter[k], p->topic);
        if (wanted && c->has_session && is_allowed(c, p->topic, "/dn/"))
            deliver(c, p, false);
    }
}

static void link_up(struct client *c)
{
    if (!c->broker->is_running || !c->wants_link || c->is_linked)
        return;
    c->is_linked = true;
    c->counts.connects++;
    put_event(c,
              (struct transport_event){.kind = TRANSPORT_CONNECTED, .has_session = c->has_session});
    c->has_session = true;
}

static void link_down(struct client *c, const char *why)
{
    if (!c->is_linked)
        return;
    c->is_linked = false;
    put_event(c, (struct transport_event){.kind = TRANSPORT_LOST, .err = ERR_IO, .text = why});
}

/* ---- the transport of one client ---- */

static enum err memory_connect(void *state)
{
    struct client *c = state;
    c->wants_link = true;
    link_up(c);
    return ERR_NONE;
}

static enum err memory_step(void *state, int *wait_ms)
{
    struct client *c = state;
    link_up(c);
    *wait_ms = c->wants_link && !c->is_linked ? RETRY_MS : -1;
    return ERR_NONE;
}

static enum err memory_publish(void *state, const char *topic, const uint8_t *payload,
                               size_t payload_bytes, bool is_retained, uint32_t *token)
{
    struct client *c = state;
    struct transport_memory *b = c->broker;
    if (payload_bytes > TRANSPORT_PAYLOAD_MAX || strlen(topic) >= TRANSPORT_TOPIC_MAX)
        return ERR_ARGUMENT;
    if (!c->is_linked ||
        c->counts.published - c->counts.delivered - c->counts.failed >= TRANSPORT_WINDOW_MAX)
        return ERR_FULL;
    struct packet *p = new_packet(topic, payload, payload_bytes);
    if (!p)
        return ERR_MEMORY;
    *token = ++c->token;
    c->counts.published++;
    struct transport_event answer = {.kind = TRANSPORT_DELIVERED, .token = *token};
    if (!is_allowed(c, topic, "/up/")) {
        answer = (struct transport_event){.kind = TRANSPORT_FAILED,
                                          .token = *token,
                                          .err = ERR_AUDIENCE,
                                          .reason_code = NOT_AUTHORISED};
    } else {
        /* lost on the way there, or only the answer on the way back */
        bool is_unknown = happens(b, b->faults.lose);
        if (!is_unknown || draw(b) % 2)
            route(b, p, is_retained);
        if (is_unknown)
            answer = (struct transport_event){
                .kind = TRANSPORT_FAILED, .token = *token, .err = ERR_TIMEOUT};
    }
    put_event(c, answer);
    free(p);
    return ERR_NONE;
}

static enum err memory_subscribe(void *state, const char *filter)
{
    struct client *c = state;
    if (!c->is_linked || c->filters == FILTERS_MAX)
        return ERR_FULL;
    if (strlen(filter) >= TRANSPORT_TOPIC_MAX)
        return ERR_ARGUMENT;
    uint32_t i = 0;
    while (i < c->filters && strcmp(c->filter[i], filter) != 0)
        i++;
    if (i == c->filters)
        strcpy(c->filter[c->filters++], filter);
    put_event(c, (struct transport_event){.kind = TRANSPORT_SUBSCRIBED});
    for (struct packet *p = c->broker->retained; p; p = p->next)
        if (matches(filter, p->topic) && is_allowed(c, p->topic, "/dn/"))
            deliver(c, p, true);
    return ERR_NONE;
}

static enum err memory_next(void *state, struct transport_event *out)
{
    struct client *c = state;
    struct packet **at = &c->inbox;
    uint64_t count;
    free(c->given);
    c->given = NULL;
    while (*at && ((*at)->due > c->broker->step ||
                   ((*at)->event.kind == TRANSPORT_MESSAGE && !c->is_linked)))
        at = &(*at)->next;
    if (!*at) {
        if (read(c->fd, &count, sizeof count) < 0 && errno != EAGAIN)
            return ERR_IO;
        return ERR_NOT_FOUND;
    }
    struct packet *p = c->given = *at;
    *at = p->next;
    *out = p->event;
    if (p->event.kind == TRANSPORT_MESSAGE) {
        out->topic = p->topic;
        out->payload = p->payload;
        out->payload_bytes = p->payload_bytes;
    }
    c->counts.received += p->event.kind == TRANSPORT_MESSAGE;
    c->counts.delivered += p->event.kind == TRANSPORT_DELIVERED;
    c->counts.failed += p->event.kind == TRANSPORT_FAILED;
    return ERR_NONE;
}

static void memory_counts(void *state, struct transport_counts *out)
{
    *out = ((struct client *)state)->counts;
}

/* The broker keeps the session of a client that has left, until the same id comes back. */
static void memory_close(void *state)
{
    struct client *c = state;
    if (!c)
        return;
    struct packet **at = &c->inbox;
    while (*at) {
        struct packet *p = *at;
        if (p->event.kind == TRANSPORT_MESSAGE) {
            at = &p->next;
        } else {
            *at = p->next;
            free(p);
        }
    }
    free(c->given);
    free(c->will);
    c->given = c->will = NULL;
    c->is_open = c->is_linked = c->wants_link = false;
    close(c->fd);
    c->fd = -1;
}

/* ---- the broker ---- */

enum err transport_memory_open(const struct transport_faults *faults, struct transport_memory **out)
{
    struct transport_memory *b = calloc(1, sizeof *b);
    if (!b)
        return ERR_MEMORY;
    b->is_running = true;
    transport_memory_faults(b, faults);
    *out = b;
    return ERR_NONE;
}

void transport_memory_close(struct transport_memory *broker)
{
    if (!broker)
        return;
    for (uint32_t i = 0; i < broker->clients; i++) {
        struct client *c = broker->client[i];
        if (c->is_open)
            memory_close(c);
        free_packets(c->inbox);
        free(c);
    }
    free_packets(broker->retained);
    free(broker);
}

void transport_memory_faults(struct transport_memory *broker, const struct transport_faults *faults)
{
    broker->faults = faults ? *faults : (struct transport_faults){0};
    if (faults)
        broker->random = faults->seed;
}

void transport_memory_step(struct transport_memory *broker)
{
    broker->step++;
    for (uint32_t i = 0; i < broker->clients; i++)
        for (struct packet *p = broker->client[i]->inbox; p; p = p->next)
            if (p->due == broker->step)
                wake(broker->client[i]);
}

void transport_memory_stop(struct transport_memory *broker, bool keep_sessions)
{
    broker->is_running = false;
    for (uint32_t i = 0; i < broker->clients; i++) {
        struct client *c = broker->client[i];
        struct packet **at = &c->inbox;
        link_down(c, "the broker is gone");
        c->has_session = c->has_session && keep_sessions;
        if (!keep_sessions)
            c->filters = 0;
        while (*at) {
            struct packet *p = *at;
            bool is_under_way =
                p->event.kind == TRANSPORT_MESSAGE && (!keep_sessions || p->due > broker->step);
            if (!is_under_way) {
                at = &p->next;
                continue;
            }
            *at = p->next;
            free(p);
        }
    }
    if (!keep_sessions) {
        free_packets(broker->retained);
        broker->retained = NULL;
    }
}

void transport_memory_start(struct transport_memory *broker)
{
    broker->is_running = true;
    for (uint32_t i = 0; i < broker->clients; i++)
        link_up(broker->client[i]);
}

static struct client *find(struct transport_memory *broker, const char *id)
{
    for (uint32_t i = 0; i < broker->clients; i++)
        if (strcmp(broker->client[i]->id, id) == 0)
            return broker->client[i];
    return NULL;
}

void transport_memory_cut(struct transport_memory *broker, const char *client_id)
{
    struct client *c = find(broker, client_id);
    if (!c || !c->is_linked)
        return;
    link_down(c, "cut off");
    if (c->will)
        route(broker, c->will, true);
}

enum err transport_memory_client(struct transport_memory *broker,
                                 const struct transport_options *options, struct transport *out)
{
    if (!options->client_id || strlen(options->client_id) >= TRANSPORT_TOPIC_MAX ||
        (options->will_topic && strlen(options->will_topic) >= TRANSPORT_TOPIC_MAX))
        return ERR_ARGUMENT;
    struct client *c = find(broker, options->client_id);
    if (c && c->is_open)
        return ERR_ARGUMENT;
    if (!c) {
        if (broker->clients == CLIENTS_MAX)
            return ERR_FULL;
        if (!(c = calloc(1, sizeof *c)))
            return ERR_MEMORY;
        strcpy(c->id, options->client_id);
        c->broker = broker;
        broker->client[broker->clients++] = c;
    }
    c->is_device = keys_is_id(c->id, strlen(c->id));
    c->counts = (struct transport_counts){0};
    c->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (c->fd < 0)
        return ERR_IO;
    c->is_open = true;
    if (options->will_topic &&
        !(c->will = new_packet(options->will_topic, options->will, options->will_bytes))) {
        memory_close(c);
        return ERR_MEMORY;
    }
    *out = (struct transport){.state = c,
                              .fd = c->fd,
                              .connect = memory_connect,
                              .step = memory_step,
                              .publish = memory_publish,
                              .subscribe = memory_subscribe,
                              .next = memory_next,
                              .counts = memory_counts,
                              .close = memory_close};
    return ERR_NONE;
}
