/* topic.h: tare/1/<fleet>/<device>/{up,dn}/<kind>, built and parsed strictly.
 *
 * fleet: 1 .. 32 of a-z 0-9 -, beginning and ending with a letter or digit. device: 32 lower-case
 * hex digits (keys.h). Nothing a person typed stands in a topic.
 */
#ifndef TOPIC_H
#define TOPIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum { TOPIC_FLEET_MAX = 33, TOPIC_DEVICE_MAX = 33, TOPIC_MAX = 96 }; /* with their NULs */

enum topic_kind {
    TOPIC_UP_BIRTH = 1, /* retained */
    TOPIC_UP_DEATH = 2, /* the will, retained */
    TOPIC_UP_TEL = 3,
    TOPIC_UP_JOB = 4,
    TOPIC_UP_REQ = 5,
    TOPIC_UP_BENCH = 6,
    TOPIC_UP_CAL = 7,
    TOPIC_DN_PLAN = 8,
    TOPIC_DN_ACK = 9,
    TOPIC_DN_RSP = 10,
    TOPIC_DN_BENCH = 11,
    TOPIC_DN_CMD = 12,
    TOPIC_KINDS = 13
};

struct topic {
    char fleet[TOPIC_FLEET_MAX];
    char device[TOPIC_DEVICE_MAX];
    uint32_t kind; /* enum topic_kind */
};

bool topic_is_fleet(const char *text, size_t size);
bool topic_is_up(uint32_t kind);
/* "up/birth" and so on; NULL for another number. */
const char *topic_kind_name(uint32_t kind);
/* Errors: ERR_ARGUMENT (fleet, device or kind). out is NUL-terminated. */
NODISCARD enum err topic_encode(const char *fleet, const char *device, uint32_t kind,
                                char out[TOPIC_MAX]);
/* topic need not end with NUL. Errors: ERR_FORMAT. */
NODISCARD enum err topic_decode(const char *topic, size_t size, struct topic *out);
/* What a device subscribes to: tare/1/<fleet>/<device>/dn/#, and a controller:
 * tare/1/<fleet>/+/up/#. */
NODISCARD enum err topic_device_filter(const char *fleet, const char *device, char out[TOPIC_MAX]);
NODISCARD enum err topic_fleet_filter(const char *fleet, char out[TOPIC_MAX]);

#endif
