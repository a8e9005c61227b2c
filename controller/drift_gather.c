/* drift_gather.c: from chunks of calibration statistics to one profile per device. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/doc.h"
#include "controller/drift.h"
#include "protocol/hex.h"
#include "protocol/message.h"

enum { WINDOW_KEY = 66, KEY_MAX = 96 }; /* device/epoch/window */

struct window {
    char key[WINDOW_KEY + 1];
    uint32_t chunks, present;
    bool is_wanted;
};

struct scan {
    struct window *windows;
    size_t n, capacity;
    uint8_t variant[32];
    struct message_sums *sums;
    struct profile *into;
    enum err e;
};

static enum err decode(struct scan *s, const void *value, size_t bytes)
{
    memset(s->sums, 0, sizeof *s->sums);
    return message_sums_decode(value, bytes, s->sums);
}

static enum err list_visit(void *context, const void *key, size_t key_bytes, const void *value,
                           size_t bytes)
{
    struct scan *s = context;
    if (key_bytes < WINDOW_KEY || decode(s, value, bytes))
        return ERR_NONE;
    if (s->n == 0 || memcmp(s->windows[s->n - 1].key, key, WINDOW_KEY) != 0) {
        if (s->n == s->capacity) {
            size_t capacity = s->capacity ? 2 * s->capacity : 16;
            struct window *more = realloc(s->windows, capacity * sizeof *more);
            if (!more)
                return ERR_MEMORY;
            s->windows = more;
            s->capacity = capacity;
        }
        struct window *w = &s->windows[s->n++];
        memset(w, 0, sizeof *w);
        memcpy(w->key, key, WINDOW_KEY);
        w->chunks = s->sums->chunks;
        w->is_wanted = memcmp(s->sums->variant, s->variant, 32) == 0;
    }
    s->windows[s->n - 1].present++;
    return ERR_NONE;
}

static enum err add_sum(struct profile *into, const struct message_sum *m)
{
    struct profile_entry *entry = NULL;
    enum err e = profile_entry_get(into, m->name, m->channels, 1, &entry);
    if (e == ERR_ARGUMENT)
        return ERR_NONE; /* another shape than an earlier window said: left out */
    if (e)
        return e;
    uint32_t channels = (uint32_t)(m->squares.size / 4);
    for (uint32_t j = 0; j < channels; j++)
        entry->sum2[m->offset + j] += (double)message_blob_f32(&m->squares, j);
    /* The runs of one input share its rows: count them with the first. */
    if (m->offset == 0)
        entry->count[0] += (double)m->rows;
    return ERR_NONE;
}

static enum err merge_visit(void *context, const void *key, size_t key_bytes, const void *value,
                            size_t bytes)
{
    struct scan *s = context;
    (void)key;
    (void)key_bytes;
    if (decode(s, value, bytes))
        return ERR_NONE;
    for (uint32_t i = 0; i < s->sums->sums; i++) {
        enum err e = add_sum(s->into, &s->sums->sum[i]);
        if (e)
            return e;
    }
    s->into->chunks += s->sums->chunk == 1;
    return ERR_NONE;
}

static enum err forget_window(struct registry_txn *t, const struct window *w)
{
    for (uint32_t i = 1; i <= w->chunks; i++) {
        char key[KEY_MAX];
        snprintf(key, sizeof key, "%s/%08x", w->key, i);
        enum err e = registry_delete(t, REGISTRY_SUMS, key, strlen(key));
        if (e)
            return e;
    }
    return ERR_NONE;
}

enum err drift_gather(struct registry_txn *t, const char *device, const char *variant, uint32_t most,
                      struct profile **out, uint32_t *windows)
{
    struct scan s = {0};
    uint32_t used = 0, kept = 0;
    enum err e = hex_decode(variant, strlen(variant), s.variant, sizeof s.variant);
    if (e)
        return ERR_NOT_FOUND; /* nothing derived is in service */
    s.sums = malloc(sizeof *s.sums);
    e = s.sums ? profile_open(&s.into) : ERR_MEMORY;
    if (!e)
        e = registry_scan(t, REGISTRY_SUMS, device, strlen(device), false, list_visit, &s);
    /* Newest first; what is older than the newest few, or of another variant, is done with. */
    for (size_t i = s.n; i-- > 0 && !e;) {
        const struct window *w = &s.windows[i];
        bool is_complete = w->present >= w->chunks;
        if (w->is_wanted && is_complete && kept < DRIFT_WINDOWS) {
            if (kept++ < most) {
                e = registry_scan(t, REGISTRY_SUMS, w->key, WINDOW_KEY, false, merge_visit, &s);
                used++;
            }
        } else if (is_complete || i + 8 < s.n) {
            e = forget_window(t, w);
        }
    }
    if (!e && used == 0)
        e = ERR_NOT_FOUND;
    if (!e) {
        snprintf(s.into->method, sizeof s.into->method, "live traffic");
        *windows = used;
        *out = s.into;
        s.into = NULL;
    }
    profile_close(s.into);
    free(s.windows);
    free(s.sums);
    return e;
}
