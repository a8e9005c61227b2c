/* controller_settings.c: the INI file, key by key from one table. */
#include "controller/controller_settings.h"

#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/topic.h"

enum kind { PATH, NAME, U32, U64, BOOL, REAL };

struct key {
    const char *section, *name, *preset; /* preset NULL: must be given */
    enum kind kind;
    size_t offset;
    double least, most;
};

#define AT(field) offsetof(struct controller_settings, field)

static const struct key keys[] = {
    {"fleet", "id", NULL, NAME, AT(fleet), 0, 0},
    {"fleet", "director_key", "", PATH, AT(director_key), 0, 0},
    {"controller", "state", NULL, PATH, AT(state), 0, 0},
    {"controller", "name", "main", NAME, AT(name), 0, 0},
    {"controller", "map_mib", "1024", U32, AT(map_mib), 1, 1 << 20},
    {"controller", "verbose", "no", BOOL, AT(is_verbose), 0, 0},
    {"controller", "plan_days", "7", U32, AT(plan_days), 1, 90},
    {"controller", "threads", "0", U32, AT(threads), 0, 1024},
    {"broker", "host", "localhost", NAME, AT(broker_host), 0, 0},
    {"broker", "port", "8883", U32, AT(broker_port), 1, 65535},
    {"broker", "tls", "yes", BOOL, AT(broker_tls), 0, 0},
    {"broker", "ca", "", PATH, AT(broker_ca), 0, 0},
    {"broker", "cert", "", PATH, AT(broker_cert), 0, 0},
    {"broker", "key", "", PATH, AT(broker_key), 0, 0},
    {"broker", "keepalive_s", "30", U32, AT(keepalive_s), 5, 3600},
    {"http", "address", "127.0.0.1", NAME, AT(http_address), 0, 0},
    {"http", "port", "8780", U32, AT(http_port), 0, 65535},
    {"http", "token_file", "", PATH, AT(token_file), 0, 0},
    {"http", "web", "", PATH, AT(web), 0, 0},
    {"http", "chart_js", "/usr/share/javascript/chart.js/chart.min.js", PATH, AT(chart_js), 0, 0},
    {"artifacts", "address", "127.0.0.1", NAME, AT(artifact_address), 0, 0},
    {"artifacts", "port", "8781", U32, AT(artifact_port), 0, 65535},
    {"telemetry", "records_per_device", "1000000", U64, AT(telemetry_records), 100, 1e12},
    {"telemetry", "batch_s", "0", U32, AT(watch_batch_s), 0, 86400},
    {"telemetry", "shadow_every", "0", U32, AT(watch_shadow_every), 0, 1e9},
    {"telemetry", "window_tokens", "0", U32, AT(watch_tokens), 0, 1e9},
    {"calibration", "drift", "yes", BOOL, AT(is_drift_on), 0, 0},
    {"calibration", "drift_limit", "0.1", REAL, AT(drift_limit), 1e-6, 10},
    {"calibration", "drift_rearm", "0.06", REAL, AT(drift_rearm), 0, 10},
    {"calibration", "shadow_kld_limit", "0", REAL, AT(shadow_kld_limit), 0, 100},
    {"calibration", "confirm", "2", U32, AT(drift_confirm), 1, 1000},
    {"calibration", "rows", "512", REAL, AT(drift_rows), 1, 1e15},
    {"calibration", "interval_s", "3600", U32, AT(drift_interval_s), 0, 31536000},
    {"calibration", "blend", "0.75", REAL, AT(drift_blend), 0.01, 1},
};

enum { KEYS = sizeof keys / sizeof keys[0] };

struct reading {
    struct controller_settings settings;
    bool is_given[KEYS];
    char problem[300];
};

static const char *set_text(char *to, size_t room, const char *value)
{
    if (strlen(value) >= room)
        return "is too long";
    memcpy(to, value, strlen(value) + 1);
    return NULL;
}

static const char *set_number(const struct key *k, void *field, const char *value)
{
    char *end;
    errno = 0;
    double number = strtod(value, &end);
    if (errno || end == value || *end || !isfinite(number))
        return "is not a number";
    if (number < k->least || number > k->most)
        return "is out of range";
    if (k->kind == REAL) {
        *(double *)field = number;
        return NULL;
    }
    if (number != floor(number))
        return "is not a whole number";
    if (k->kind == U32)
        *(uint32_t *)field = (uint32_t)number;
    else
        *(uint64_t *)field = (uint64_t)number;
    return NULL;
}

/* NULL, or what is wrong with the value. */
static const char *set(struct controller_settings *s, const struct key *k, const char *value)
{
    void *field = (char *)s + k->offset;
    switch (k->kind) {
    case PATH:
        return set_text(field, CONTROLLER_PATH, value);
    case NAME:
        return set_text(field, CONTROLLER_NAME, value);
    case BOOL:
        if (strcmp(value, "yes") == 0 || strcmp(value, "no") == 0) {
            *(bool *)field = value[0] == 'y';
            return NULL;
        }
        return "must be yes or no";
    default:
        return set_number(k, field, value);
    }
}

static int on_key(void *context, const char *section, const char *name, const char *value)
{
    struct reading *r = context;
    for (size_t i = 0; i < KEYS; i++) {
        if (strcmp(keys[i].section, section) != 0 || strcmp(keys[i].name, name) != 0)
            continue;
        const char *wrong = r->is_given[i] ? "is given twice" : set(&r->settings, &keys[i], value);
        r->is_given[i] = true;
        if (!wrong)
            return 1;
        if (!r->problem[0])
            snprintf(r->problem, sizeof r->problem, "[%.40s] %.60s %s", section, name, wrong);
        return 0;
    }
    if (!r->problem[0])
        snprintf(r->problem, sizeof r->problem, "unknown key %.60s in section [%.40s]", name, section);
    return 0;
}

static const char *check(const struct controller_settings *s)
{
    if (!topic_is_fleet(s->fleet, strlen(s->fleet)))
        return "[fleet] id must be 1 to 32 of a-z 0-9 -, a letter or digit at both ends";
    if (!topic_is_fleet(s->name, strlen(s->name)))
        return "[controller] name must be 1 to 32 of a-z 0-9 -, a letter or digit at both ends";
    if (s->broker_tls && (!s->broker_ca[0] || !s->broker_cert[0] || !s->broker_key[0]))
        return "[broker] tls needs ca, cert and key";
    if (s->drift_rearm > s->drift_limit)
        return "[calibration] drift_rearm must not be above drift_limit";
    return NULL;
}

static enum err fill(struct controller_settings *s, char *path, const char *name)
{
    if (path[0])
        return ERR_NONE;
    int n = snprintf(path, CONTROLLER_PATH, "%s/%s", s->state, name);
    return n > 0 && n < CONTROLLER_PATH ? ERR_NONE : ERR_FORMAT;
}

enum err controller_settings_load(const char *file, struct controller_settings *out, char *why,
                                  uint32_t why_bytes)
{
    struct reading r = {0};
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].preset)
            (void)set(&r.settings, &keys[i], keys[i].preset);
    int line = ini_parse(file, on_key, &r);
    if (line < 0) {
        snprintf(why, why_bytes, "%s: cannot be read: %s", file, strerror(errno));
        return ERR_IO;
    }
    if (line > 0) {
        snprintf(why, why_bytes, "%s:%d: %s", file, line,
                 r.problem[0] ? r.problem : "expected [section] or key = value");
        return ERR_FORMAT;
    }
    for (size_t i = 0; i < KEYS; i++)
        if (!keys[i].preset && !r.is_given[i]) {
            snprintf(why, why_bytes, "%s: [%s] %s is missing", file, keys[i].section, keys[i].name);
            return ERR_FORMAT;
        }
    const char *wrong = check(&r.settings);
    if (wrong) {
        snprintf(why, why_bytes, "%s: %s", file, wrong);
        return ERR_FORMAT;
    }
    enum err e = fill(&r.settings, r.settings.director_key, "director.key");
    if (!e)
        e = fill(&r.settings, r.settings.token_file, "api.token");
    if (e) {
        snprintf(why, why_bytes, "%s: [controller] state is too long", file);
        return e;
    }
    *out = r.settings;
    return ERR_NONE;
}
