/* mqtt.h: what mqtt.c and mqtt_open.c share. Private to them. */
#ifndef MQTT_H
#define MQTT_H

#include <MQTTAsync.h>
#include <stdatomic.h>

#include "protocol/ring.h"
#include "protocol/transport.h"

enum {
    EVENT_RESERVE = 8192, /* of the ring, kept for events: messages may be dropped, events not */
    TEXT_MAX = 160,
    SCRATCH_MAX = TRANSPORT_PAYLOAD_MAX + TRANSPORT_TOPIC_MAX + 256,
    STABLE_MS = 30 * 1000, /* a connection that held so long starts the backoff anew */
    ANSWER_MS = 60 * 1000, /* a publish without an answer while connected */
    DISCONNECT_MS = 5000,
    DESTROY_S = 10,
    THREADS_MS = 5000, /* for its threads to end after that */
    RING_BYTES = 2 * 1024 * 1024
};

enum link { LINK_IDLE, LINK_WAITING, LINK_CONNECTING, LINK_CONNECTED };

enum slot_state { SLOT_FREE, SLOT_BUSY, SLOT_ANSWERED };

/* One publish in flight. Between BUSY and ANSWERED it belongs to Paho's threads. */
struct slot {
    struct mqtt *mqtt;
    atomic_int state;
    uint32_t token;
    uint64_t sent_ms;
    bool is_reported; /* its failure was reported, Paho has still not answered */
    int reason_code;
    bool is_delivered;
};

/* What travels in the ring, before topic and payload or text. */
struct header {
    uint32_t kind;
    uint32_t err;
    uint32_t reason_code;
    uint32_t has_session;
    uint32_t is_retained;
    uint32_t topic_bytes;
};

struct mqtt {
    MQTTAsync client;
    struct transport_options options; /* strings are copies */
    int event_fd, timer_fd, poll_fd;
    struct ring ring;
    uint8_t *ring_memory;
    uint8_t *scratch;
    enum link link;
    uint64_t due_ms;       /* WAITING: connect then; CONNECTING: give up then */
    uint64_t connected_ms; /* since */
    uint32_t failures;     /* in a row */
    uint32_t token;
    struct slot slot[TRANSPORT_WINDOW_MAX];
    struct transport_counts counts;
    atomic_ullong received, dropped;
    atomic_bool has_tls_error;
    char tls_error[TEXT_MAX]; /* written before has_tls_error is set, read after */
    char text[TEXT_MAX];      /* of the event given out last */
};

/* Paho's callbacks for the connection as a whole; context is struct mqtt. */
int mqtt_on_message(void *context, char *topic, int topic_bytes, MQTTAsync_message *message);
void mqtt_on_lost(void *context, char *cause);
/* Every operation of the transport but close. */
void mqtt_operations(struct mqtt *m, struct transport *out);

#endif
