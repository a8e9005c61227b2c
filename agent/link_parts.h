/* link_parts.h: what link.c (up) and link_down.c (down) share. */
#ifndef LINK_PARTS_H
#define LINK_PARTS_H

#include <sodium.h>

#include "agent/link.h"

/* How far a stream was sent in this connection, and how far that was acknowledged. */
struct link_cursor {
    uint64_t epoch, seq;
    uint64_t acked_epoch, acked_seq;
    int64_t waits_ms; /* loop time from which what was sent waits for an acknowledgement; 0: nothing does */
    uint32_t unacked;
};

struct link {
    struct link_options options;
    struct transport transport;
    bool has_transport, is_connected, birth_due, question_due;
    struct jobs *jobs;
    struct bench *bench;
    struct telemetry *telemetry;
    struct message_birth *birth;
    uint32_t standing; /* enum message_standing; 0: not said yet */
    uint8_t nonce[16];
    int64_t asked_ms, heard_ms;
    uint64_t time_ms, time_floor_ms;
    int64_t time_at_ms;
    int64_t resend_ms;
    uint32_t unanswered; /* questions in a row */
    struct link_cursor cursor[MESSAGE_STREAMS];
    struct loop_watch watch;
    struct loop_timer poll, resend, wake;
};

void link_message(struct link *l, const char *topic, const uint8_t *payload, size_t size);
void link_take_time(struct link *l, uint64_t time_ms);
void link_acked(struct link *l);
void link_answered(struct link *l);

#endif
