/* topic.c: topics, built and parsed by one table. */
#include "protocol/topic.h"

#include <string.h>

#include "protocol/keys.h"

static const char *const kinds[TOPIC_KINDS] = {
    [TOPIC_UP_BIRTH] = "up/birth", [TOPIC_UP_DEATH] = "up/death", [TOPIC_UP_TEL] = "up/tel",
    [TOPIC_UP_JOB] = "up/job",     [TOPIC_UP_REQ] = "up/req",     [TOPIC_UP_BENCH] = "up/bench",
    [TOPIC_UP_CAL] = "up/cal",     [TOPIC_DN_PLAN] = "dn/plan",   [TOPIC_DN_ACK] = "dn/ack",
    [TOPIC_DN_RSP] = "dn/rsp",     [TOPIC_DN_BENCH] = "dn/bench", [TOPIC_DN_CMD] = "dn/cmd",
};
static const char prefix[] = "tare/1/";

bool topic_is_fleet(const char *text, size_t size)
{
    if (size == 0 || size >= TOPIC_FLEET_MAX || text[0] == '-' || text[size - 1] == '-')
        return false;
    for (size_t i = 0; i < size; i++)
        if (!(text[i] >= 'a' && text[i] <= 'z') && !(text[i] >= '0' && text[i] <= '9') &&
            text[i] != '-')
            return false;
    return true;
}

bool topic_is_up(uint32_t kind)
{
    return kind >= TOPIC_UP_BIRTH && kind <= TOPIC_UP_CAL;
}

const char *topic_kind_name(uint32_t kind)
{
    return kind < TOPIC_KINDS ? kinds[kind] : NULL;
}

/* prefix fleet / device / tail; device NULL stands for any */
static enum err join(const char *fleet, const char *device, const char *tail, char out[TOPIC_MAX])
{
    if (!fleet || !topic_is_fleet(fleet, strlen(fleet)) || !tail)
        return ERR_ARGUMENT;
    if (device && !keys_is_id(device, strlen(device)))
        return ERR_ARGUMENT;
    char *to = stpcpy(out, prefix);
    to = stpcpy(to, fleet);
    to = stpcpy(to, "/");
    to = stpcpy(to, device ? device : "+");
    to = stpcpy(to, "/");
    stpcpy(to, tail);
    return ERR_NONE;
}

enum err topic_encode(const char *fleet, const char *device, uint32_t kind, char out[TOPIC_MAX])
{
    return device ? join(fleet, device, topic_kind_name(kind), out) : ERR_ARGUMENT;
}

enum err topic_device_filter(const char *fleet, const char *device, char out[TOPIC_MAX])
{
    return device ? join(fleet, device, "dn/#", out) : ERR_ARGUMENT;
}

enum err topic_fleet_filter(const char *fleet, char out[TOPIC_MAX])
{
    return join(fleet, NULL, "up/#", out);
}

enum err topic_decode(const char *topic, size_t size, struct topic *out)
{
    const char *end = topic + size;
    size_t skip = sizeof prefix - 1;
    if (size >= TOPIC_MAX || size < skip || memcmp(topic, prefix, skip) != 0)
        return ERR_FORMAT;
    const char *fleet = topic + skip;
    const char *slash = memchr(fleet, '/', (size_t)(end - fleet));
    if (!slash || !topic_is_fleet(fleet, (size_t)(slash - fleet)))
        return ERR_FORMAT;
    const char *device = slash + 1;
    if (end - device < TOPIC_DEVICE_MAX || device[TOPIC_DEVICE_MAX - 1] != '/' ||
        !keys_is_id(device, TOPIC_DEVICE_MAX - 1))
        return ERR_FORMAT;
    const char *tail = device + TOPIC_DEVICE_MAX;
    for (uint32_t kind = 1; kind < TOPIC_KINDS; kind++) {
        if (strlen(kinds[kind]) != (size_t)(end - tail) ||
            memcmp(kinds[kind], tail, (size_t)(end - tail)) != 0)
            continue;
        struct topic parsed = {.kind = kind};
        memcpy(parsed.fleet, fleet, (size_t)(slash - fleet));
        memcpy(parsed.device, device, TOPIC_DEVICE_MAX - 1);
        *out = parsed;
        return ERR_NONE;
    }
    return ERR_FORMAT;
}
