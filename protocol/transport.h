/* transport.h: the one door to the network: publish, subscribe, receive. Two implementations: MQTT
 * 5 over TLS (transport_mqtt, target tare_mqtt) and memory (transport_memory, for tests).
 *
 * A transport is a wire and keeps nothing: what was not delivered stays in the caller's own store
 * and is sent again. Received messages and events wait in one bounded ring; transport.fd becomes
 * readable (poll, epoll) when there is something for next(). When the ring is full messages are
 * dropped and counted: whoever needs them pulls again.
 *
 * Threads: all calls of one transport by one thread. fd may be polled by any.
 */
#ifndef TRANSPORT_H
#define TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"
#include "protocol/topic.h"

enum {
    TRANSPORT_WINDOW_MAX = 16,          /* publishes in flight */
    TRANSPORT_PAYLOAD_MAX = 256 * 1024, /* one message: ENVELOPE_MAX */
    TRANSPORT_TOPIC_MAX = 128
};

enum transport_event_kind {
    TRANSPORT_CONNECTED = 1, /* has_session says whether subscriptions are still there */
    TRANSPORT_LOST = 2, /* not connected any more, or could not connect; it tries again by itself */
    TRANSPORT_DELIVERED = 3, /* the broker has taken publish `token` */
    TRANSPORT_FAILED = 4,    /* it has not, or it is not known: send again later; err says why */
    TRANSPORT_MESSAGE = 5,
    TRANSPORT_SUBSCRIBED = 6 /* or refused: err */
};

/* text, topic and payload are valid until the next call of next(). */
struct transport_event {
    uint32_t kind;
    uint32_t token;
    enum err
        err; /* ERR_AUDIENCE: the broker says not authorised; ERR_SIGNATURE: TLS refused the peer */
    uint32_t reason_code; /* MQTT 5 reason code, 0 when there is none */
    bool has_session;
    bool is_retained;
    uint32_t retry_ms; /* TRANSPORT_LOST: until the next attempt to connect */
    const char *text; /* what went wrong, in words; or "" */
    const char *topic;
    const uint8_t *payload;
    size_t payload_bytes;
};

/* Counters since open. */
struct transport_counts {
    uint64_t published;
    uint64_t delivered;
    uint64_t failed;
    uint64_t received;
    uint64_t dropped; /* the ring was full, or a message was larger than it may be */
    uint64_t connects;
};

struct transport {
    void *state;
    int fd; /* readable when next() has something, or when step() is due */
    /* Start to connect, and stay connected until close. Returns at once. */
    enum err (*connect)(void *state);
    /* Do what is due: reconnect, retire timeouts. *wait_ms: call again after at most so long (-1:
     * only when fd is readable). */
    enum err (*step)(void *state, int *wait_ms);
    /* Quality 1. ERR_FULL: the window is full, or not connected (try after an event); ERR_ARGUMENT:
     * too large. The bytes are copied. *token names it in the event that follows. */
    enum err (*publish)(void *state, const char *topic, const uint8_t *payload,
                        size_t payload_bytes, bool is_retained, uint32_t *token);
    enum err (*subscribe)(void *state, const char *filter);
    /* Next event or message. ERR_NOT_FOUND: none now. */
    enum err (*next)(void *state, struct transport_event *out);
    void (*counts)(void *state, struct transport_counts *out);
    /* Disconnects in order, publishing the will beforehand is the caller's choice. NULL is allowed.
     */
    void (*close)(void *state);
};

struct transport_options {
    const char *host;
    uint16_t port;
    const char *client_id;      /* the device id, or a controller's name */
    const char *ca_file;        /* PEM, the only trust there is */
    const char *cert_file;      /* PEM, of this client; its chain may follow */
    const char *key_file;       /* PEM */
    uint32_t keepalive_s;       /* 0: 60 */
    uint32_t session_expiry_s;  /* 0: 86400 */
    uint32_t connect_timeout_s; /* 0: 10 */
    uint32_t backoff_least_ms;  /* 0: 1000 */
    uint32_t backoff_most_ms;   /* 0: 120000 */
    uint32_t window;            /* 0: TRANSPORT_WINDOW_MAX */
    uint32_t ring_bytes;        /* 0: 2 MiB */
    const char *will_topic;     /* NULL: no will; else retained, quality 1 */
    const uint8_t *will;
    size_t will_bytes;
    uint32_t will_delay_s;
};

/* MQTT 5 over TLS 1.2 or newer. Strings and files are read at open; the certificate files again at
 * each connect. Errors: ERR_ARGUMENT, ERR_MEMORY, ERR_NOT_FOUND (a file), ERR_IO.
 * One per process (rules of the Paho library). Ignores SIGPIPE in the whole process. */
NODISCARD enum err transport_mqtt_open(const struct transport_options *options,
                                       struct transport *out);

/* ---- memory: a broker in this process, whose faults are drawn from a seed ---- */

struct transport_memory; /* the broker */

/* Chances in 1/1000 for each message on its way to a subscriber. */
struct transport_faults {
    uint64_t seed;
    uint32_t lose; /* publisher gets no answer, or subscriber gets no message */
    uint32_t duplicate;
    uint32_t reorder; /* takes over the message before it */
    uint32_t delay;   /* held for up to delay_steps calls of transport_memory_step */
    uint32_t delay_steps;
};

NODISCARD enum err transport_memory_open(const struct transport_faults *faults,
                                         struct transport_memory **out);
void transport_memory_close(
    struct transport_memory *broker); /* after its clients; NULL is allowed */
/* Faults from now on; NULL: none. */
void transport_memory_faults(struct transport_memory *broker,
                             const struct transport_faults *faults);
/* Let time pass: deliver what is due. */
void transport_memory_step(struct transport_memory *broker);
/* kill -9 of the broker: every client is cut off (wills go out), messages under way are gone,
 * sessions too when not keep_sessions. Until transport_memory_start nobody connects. */
void transport_memory_stop(struct transport_memory *broker, bool keep_sessions);
void transport_memory_start(struct transport_memory *broker);
/* Cut one client off, as a network does. */
void transport_memory_cut(struct transport_memory *broker, const char *client_id);
/* A client of the broker. Of options client_id, the window and the will count. The broker lets
 * client X publish below tare/1/+/X/up/ and read below tare/1/+/X/dn/ when X is a device id, and
 * everything when it is not. Errors: ERR_ARGUMENT, ERR_MEMORY, ERR_FULL (64 clients). */
NODISCARD enum err transport_memory_client(struct transport_memory *broker,
                                           const struct transport_options *options,
                                           struct transport *out);

#endif
