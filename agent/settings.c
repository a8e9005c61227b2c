/* settings.c: a table of keys over libinih. */
#include "agent/settings.h"

#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, PATHS, U32, MIB, FRACTION, BOOL };

struct key {
    const char *section, *name;
    enum kind kind;
    size_t at;   /* offset of the field */
    size_t more; /* TEXT: size of the field; PATHS: offset of the count */
    double low, high;
    bool required;
    const char *preset; /* NULL: none */
};

#define FIELD(f) offsetof(struct settings, f)
#define SIZE(f) sizeof(((struct settings *)0)->f)

static const struct key keys[] = {
    {"fleet", "name", TEXT, FIELD(fleet), SIZE(fleet), 0, 0, true, NULL},
    {"fleet", "director_keys", PATHS, FIELD(director_keys), FIELD(director_key_count), 0, 0, false, ""},
    {"fleet", "root", TEXT, FIELD(root), SIZE(root), 0, 0, false, ""},
    {"broker", "host", TEXT, FIELD(broker_host), SIZE(broker_host), 0, 0, true, NULL},
    {"broker", "port", U32, FIELD(broker_port), 0, 1, 65535, false, "8883"},
    {"broker", "ca", TEXT, FIELD(broker_ca), SIZE(broker_ca), 0, 0, true, NULL},
    {"broker", "cert", TEXT, FIELD(broker_cert), SIZE(broker_cert), 0, 0, true, NULL},
    {"broker", "key", TEXT, FIELD(broker_key), SIZE(broker_key), 0, 0, true, NULL},
    {"broker", "keepalive_s", U32, FIELD(keepalive_s), 0, 5, 600, false, "60"},
    {"broker", "reconnect_most_s", U32, FIELD(reconnect_most_s), 0, 1, 86400, false, "120"},
    {"controller", "url", TEXT, FIELD(controller_url), SIZE(controller_url), 0, 0, true, NULL},
    {"controller", "ca", TEXT, FIELD(controller_ca), SIZE(controller_ca), 0, 0, false, ""},
    {"controller", "poll_s", U32, FIELD(poll_s), 0, 1, 86400, false, "300"},
    {"agent", "state", TEXT, FIELD(state), SIZE(state), 0, 0, false, "/var/lib/tare"},
    {"agent", "disk_mib", MIB, FIELD(disk_bytes), 0, 0, 1e9, false, "0"},
    {"agent", "trial_attempts", U32, FIELD(trial_attempts), 0, 1, 20, false, "3"},
    {"agent", "verbose", BOOL, FIELD(verbose), 0, 0, 0, false, "no"},
    {"engine", "plugin", TEXT, FIELD(plugin), SIZE(plugin), 0, 0, false, ""},
    {"engine", "path", TEXT, FIELD(path), SIZE(path), 0, 0, false, ""},
    {"engine", "folder", TEXT, FIELD(plugin_folder), SIZE(plugin_folder), 0, 0, false, ""},
    {"engine", "keys", PATHS, FIELD(plugin_keys), FIELD(plugin_key_count), 0, 0, false, ""},
    {"engine", "threads", U32, FIELD(threads), 0, 0, 1024, false, "0"},
    {"engine", "memory_mib", MIB, FIELD(memory_bytes), 0, 0, 1e9, false, "0"},
    {"engine", "hang_s", U32, FIELD(hang_s), 0, 1, 86400, false, "120"},
    {"serve", "address", TEXT, FIELD(listen_address), SIZE(listen_address), 0, 0, false, "127.0.0.1"},
    {"serve", "port", U32, FIELD(listen_port), 0, 0, 65535, false, "8088"},
    {"serve", "sequences", U32, FIELD(sequences), 0, 1, 64, false, "4"},
    {"serve", "context", U32, FIELD(context), 0, 64, 1 << 20, false, "2048"},
    {"serve", "queue", U32, FIELD(queue), 0, 0, 4096, false, "32"},
    {"serve", "keep", U32, FIELD(keep), 0, 0, 1024, false, "4"},
    {"serve", "cache_mib", MIB, FIELD(cache_bytes), 0, 0, 1 << 24, false, "0"},
    {"serve", "spill_mib", MIB, FIELD(spill_bytes), 0, 0, 1 << 24, false, "0"},
    {"telemetry", "interval_s", U32, FIELD(telemetry_s), 0, 1, 86400, false, "60"},
    {"telemetry", "shadow_rate", FRACTION, FIELD(shadow_rate), 0, 0, 1, false, "0.01"},
    {"telemetry", "moments_rate", FRACTION, FIELD(moments_rate), 0, 0, 1, false, "0.05"},
    {"telemetry", "calibration_s", U32, FIELD(calibration_s), 0, 1, 604800, false, "3600"},
    {"telemetry", "ring_mib", MIB, FIELD(ring_bytes), 0, 1, 4096, false, "16"},
};
enum { KEYS = sizeof keys / sizeof keys[0] };

struct reading {
    struct settings settings;
    bool seen[KEYS];
    char problem[256]; /* the first one */
};

/* Writes the value of one key; false with a reason when it is not what the key takes. */
static bool put(struct settings *s, const struct key *k, const char *value, char *why, size_t why_bytes)
{
    char *field = (char *)s + k->at;
    char *end = NULL;
    errno = 0;
    switch (k->kind) {
    case TEXT:
        if (strlen(value) >= k->more) {
            snprintf(why, why_bytes, "%s is longer than %zu characters", k->name, k->more - 1);
            return false;
        }
        memcpy(field, value, strlen(value) + 1);
        return true;
    case PATHS: {
        uint32_t n = 0;
        char(*list)[SETTINGS_PATH] = (char(*)[SETTINGS_PATH])field;
        while (*value) {
            size_t length = strcspn(value, " ,\t");
            if (n == SETTINGS_KEYS || length >= SETTINGS_PATH) {
                snprintf(why, why_bytes, "%s takes at most %d paths of %d characters", k->name, SETTINGS_KEYS,
                         SETTINGS_PATH - 1);
                return false;
            }
            memcpy(list[n], value, length);
            list[n++][length] = 0;
            value += length;
            value += strspn(value, " ,\t");
        }
        memcpy((char *)s + k->more, &n, sizeof n);
        return true;
    }
    case BOOL: {
        bool on = !strcmp(value, "yes") || !strcmp(value, "true") || !strcmp(value, "1");
        bool off = !strcmp(value, "no") || !strcmp(value, "false") || !strcmp(value, "0");
        if (on == off) {
            snprintf(why, why_bytes, "%s is yes or no, not \"%.40s\"", k->name, value);
            return false;
        }
        memcpy(field, &on, sizeof on);
        return true;
    }
    default: break;
    }
    double number = strtod(value, &end);
    bool whole = k->kind == FRACTION || number == floor(number);
    if (errno || end == value || *end || !whole || !(number >= k->low && number <= k->high)) {
        snprintf(why, why_bytes, "%s is a %snumber from %.15g to %.15g, not \"%.40s\"", k->name,
                 k->kind == FRACTION ? "" : "whole ", k->low, k->high, value);
        return false;
    }
    if (k->kind == U32) {
        uint32_t v = (uint32_t)number;
        memcpy(field, &v, sizeof v);
    } else if (k->kind == MIB) {
        uint64_t v = (uint64_t)number << 20;
        memcpy(field, &v, sizeof v);
    } else {
        memcpy(field, &number, sizeof number);
    }
    return true;
}

static int take(void *user, const char *section, const char *name, const char *value)
{
    struct reading *r = user;
    char why[200];
    for (int i = 0; i < KEYS; i++) {
        if (strcmp(keys[i].section, section) || strcmp(keys[i].name, name))
            continue;
        if (r->seen[i])
            snprintf(why, sizeof why, "%s is said twice in [%.60s]", name, section);
        else if (put(&r->settings, &keys[i], value, why, sizeof why))
            return r->seen[i] = true;
        if (!r->problem[0])
            snprintf(r->problem, sizeof r->problem, "%s", why);
        return 0;
    }
    if (!r->problem[0])
        snprintf(r->problem, sizeof r->problem, "unknown key \"%.60s\" in section [%.60s]", name, section);
    return 0;
}

enum err settings_load(const char *file, struct settings *out, char *why, uint32_t why_bytes)
{
    struct reading r = {0};
    int line = ini_parse(file, take, &r);
    if (line < 0) {
        snprintf(why, why_bytes, "%s: cannot be read: %s", file, strerror(errno));
        return ERR_IO;
    }
    if (line > 0) {
        snprintf(why, why_bytes, "%s:%d: %s", file, line, r.problem[0] ? r.problem : "expected [section] or key = value");
        return ERR_FORMAT;
    }
    for (int i = 0; i < KEYS; i++) {
        const struct key *k = &keys[i];
        char problem[200];
        if (r.seen[i])
            continue;
        if (k->required) {
            snprintf(why, why_bytes, "%s: %s is missing from section [%s]", file, k->name, k->section);
            return ERR_FORMAT;
        }
        if (!put(&r.settings, k, k->preset, problem, sizeof problem)) {
            snprintf(why, why_bytes, "%s: %s", file, problem);
            return ERR_FORMAT;
        }
    }
    struct settings *s = &r.settings;
    if (s->director_key_count == 0 && !s->root[0]) {
        snprintf(why, why_bytes, "%s: director_keys is missing from section [fleet], and so is root", file);
        return ERR_FORMAT;
    }
    size_t url = strlen(s->controller_url);
    if (url && s->controller_url[url - 1] == '/')
        s->controller_url[url - 1] = 0;
    *out = r.settings;
    return ERR_NONE;
}
