/* api_data.c: files, recipes, telemetry, calibration, the trail, the controller itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controller/api.h"
#include "controller/catalogue.h"
#include "controller/doc.h"
#include "controller/inventory.h"
#include "controller/release.h"
#include "protocol/hex.h"

static int64_t now_s(void)
{
    return controller_now_ms() / 1000;
}

/* The usual answer: all documents of a table under one name. */
static void list_table(struct api_call *call, enum registry_table table, const char *name,
                       bool is_backwards, size_t limit)
{
    struct registry_txn *t = NULL;
    json_t *list = NULL;
    enum err e = registry_begin(call->c->registry, false, &t);
    if (!e)
        e = registry_list(t, table, NULL, is_backwards, limit, &list);
    registry_abort(t);
    if (e)
        api_fail(call, e, "%s", err_name(e));
    else
        call->answer = json_pack("{s:o}", name, list);
}

void api_models_list(struct api_call *call)
{
    list_table(call, REGISTRY_FILES, "files", false, 0);
}

void api_recipes_list(struct api_call *call)
{
    list_table(call, REGISTRY_RECIPES, "recipes", false, 0);
}

static enum err add_file(struct api_call *call, json_t *file, char *why)
{
    struct registry_txn *t = NULL;
    enum err e = registry_begin(call->c->registry, true, &t);
    if (e)
        return e;
    e = catalogue_add(t, file, now_s());
    if (e) {
        registry_abort(t);
        return e;
    }
    e = registry_commit(t);
    if (e)
        snprintf(why, CATALOGUE_WHY, "not made durable: %s", err_name(e));
    return e;
}

static void register_file(struct api_call *call, const char *path, const char *name, const char *kind,
                          bool is_upload)
{
    char why[CATALOGUE_WHY] = "", kept[CONTROLLER_PATH];
    json_t *file = NULL;
    enum err e = catalogue_examine(path, name, kind, &file, why);
    if (!e && is_upload) {
        e = catalogue_path(call->c, doc_text(file, "digest"), kept);
        if (!e && rename(path, kept) != 0)
            e = ERR_IO;
        if (!e) {
            call->upload[0] = '\0';
            doc_set_text(file, "path", kept);
        }
    }
    if (!e)
        e = add_file(call, file, why);
    if (e) {
        json_decref(file);
        api_fail(call, e == ERR_IO && !is_upload ? ERR_ARGUMENT : e, "%s",
                 why[0] ? why : err_name(e));
        return;
    }
    call->answer = file;
    call->status = MHD_HTTP_CREATED;
}

void api_models_register(struct api_call *call)
{
    const char *path = doc_text(call->body, "path");
    if (!path[0]) {
        api_fail(call, ERR_ARGUMENT, "path: expected the absolute path of a file on the controller");
        return;
    }
    register_file(call, path, doc_text(call->body, "name"), doc_text(call->body, "kind"), false);
}

void api_models_upload(struct api_call *call)
{
    const char *name = api_query(call, "name");
    if (!call->upload[0] || !name[0]) {
        api_fail(call, ERR_ARGUMENT, "expected a body and ?name=NAME to register it under");
        return;
    }
    register_file(call, call->upload, name, api_query(call, "kind"), true);
}

struct query {
    json_t *list;
    const char *kind;
    int64_t since, limit;
};

static uint64_t read_be(const uint8_t *p)
{
    uint64_t value = 0;
    for (size_t i = 0; i < 8; i++)
        value = value << 8 | p[i];
    return value;
}

static enum err telemetry_visit(void *context, const void *key, size_t key_bytes, const void *value,
                                size_t bytes)
{
    struct query *q = context;
    const uint8_t *k = key;
    char id[33];
    if (key_bytes != 32)
        return ERR_NONE;
    json_t *record = telemetry_to_json(value, bytes);
    if (!record)
        return ERR_NONE;
    if ((q->kind[0] && strcmp(doc_text(record, "kind"), q->kind) != 0) ||
        doc_int(record, "time") < q->since) {
        /* Times of one device rise with its keys, but a clock may have been set back: look on a bit. */
        json_decref(record);
        return ERR_NONE;
    }
    hex_encode(k, 16, id);
    doc_set_text(record, "device", id);
    doc_set_int(record, "epoch", (int64_t)read_be(k + 16));
    doc_set_int(record, "seq", (int64_t)read_be(k + 24));
    doc_append(q->list, record);
    return (int64_t)json_array_size(q->list) >= q->limit ? ERR_CANCELLED : ERR_NONE;
}

static enum err query_device(struct registry_txn *t, const char *device, struct query *q)
{
    uint8_t id[16];
    enum err e = hex_decode(device, strlen(device), id, sizeof id);
    if (e)
        return e;
    json_t *one = json_array(), *all = q->list, *record;
    size_t i;
    if (!one)
        return ERR_MEMORY;
    q->list = one; /* the limit is per device */
    e = registry_scan(t, REGISTRY_TELEMETRY, id, sizeof id, true, telemetry_visit, q);
    q->list = all;
    json_array_foreach(one, i, record)
        doc_append(all, json_incref(record));
    json_decref(one);
    return e;
}

void api_telemetry(struct api_call *call)
{
    struct registry_txn *t = NULL;
    struct query q = {.list = json_array(),
                      .kind = api_query(call, "kind"),
                      .since = api_query_int(call, "since", 0, 0, INT64_MAX),
                      .limit = api_query_int(call, "limit", 200, 1, 100000)};
    const char *what = api_query(call, "device");
    json_t *device = NULL, *all = NULL;
    size_t i;
    enum err e = q.list ? registry_begin(call->c->registry, false, &t) : ERR_MEMORY;
    if (!e && what[0]) {
        e = inventory_find(t, what, &device);
        if (!e)
            e = query_device(t, doc_text(device, "id"), &q);
        json_decref(device);
    } else if (!e) {
        e = registry_list(t, REGISTRY_DEVICES, NULL, false, 0, &all);
        json_array_foreach(all, i, device)
            if (!e)
                e = query_device(t, doc_text(device, "id"), &q);
        json_decref(all);
    }
    registry_abort(t);
    if (e) {
        json_decref(q.list);
        api_fail(call, e, "device %s: %s", what, e == ERR_NOT_FOUND ? "not known" : err_name(e));
        return;
    }
    call->answer = json_pack("{s:o}", "records", q.list);
}

struct drifts {
    struct registry_txn *t;
    json_t *list;
};

static enum err drift_visit(void *context, const void *key, size_t key_bytes, const void *value,
                            size_t bytes)
{
    struct drifts *d = context;
    json_t *doc = json_loadb(value, bytes, 0, NULL);
    if (!doc)
        return ERR_FORMAT;
    json_t *device = NULL;
    char id[40], state[64];
    snprintf(id, sizeof id, "%.*s", (int)(key_bytes < 33 ? key_bytes : 33), (const char *)key);
    enum err e = registry_get_doc(d->t, REGISTRY_DEVICES, id, &device);
    if (e && e != ERR_NOT_FOUND) {
        json_decref(doc);
        return e;
    }
    int64_t above = doc_int(doc, "above");
    if (above)
        snprintf(state, sizeof state, "moved, seen %lld times", (long long)above);
    else
        snprintf(state, sizeof state, "%s",
                 !json_object_get(doc, "looked") ? "not looked at" : doc_bool(doc, "armed") ? "quiet" : "answered");
    doc_set_text(doc, "device", id);
    doc_set_text(doc, "name", doc_text(device, "name"));
    doc_set_text(doc, "state", state);
    doc_set_real(doc, "drift", doc_real(doc, "score"));
    json_decref(device);
    doc_append(d->list, doc);
    return ERR_NONE;
}

void api_calibration(struct api_call *call)
{
    struct registry_txn *t = NULL;
    struct drifts d = {.list = json_array()};
    const struct controller_settings *s = &call->c->settings;
    enum err e = d.list ? registry_begin(call->c->registry, false, &t) : ERR_MEMORY;
    d.t = t;
    if (!e)
        e = registry_scan(t, REGISTRY_DRIFT, NULL, 0, false, drift_visit, &d);
    registry_abort(t);
    if (e) {
        json_decref(d.list);
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    call->answer = json_pack("{s:o,s:{s:b,s:f,s:f,s:f,s:i,s:f,s:i}}", "cohorts", d.list, "rule", "on",
                             (int)s->is_drift_on, "drift_limit", s->drift_limit, "drift_rearm",
                             s->drift_rearm, "shadow_kld_limit", s->shadow_kld_limit, "confirm",
                             (int)s->drift_confirm, "rows", s->drift_rows, "interval_s",
                             (int)s->drift_interval_s);
}

struct trail_query {
    json_t *list;
    const char *subject;
    int64_t limit;
};

static enum err trail_visit(void *context, const void *key, size_t key_bytes, const void *value,
                            size_t bytes)
{
    struct trail_query *q = context;
    (void)key;
    (void)key_bytes;
    json_t *doc = json_loadb(value, bytes, 0, NULL);
    if (!doc)
        return ERR_FORMAT;
    if (q->subject[0] && strcmp(doc_text(doc, "subject"), q->subject) != 0) {
        json_decref(doc);
        return ERR_NONE;
    }
    doc_append(q->list, doc);
    return (int64_t)json_array_size(q->list) >= q->limit ? ERR_CANCELLED : ERR_NONE;
}

void api_decisions(struct api_call *call)
{
    struct registry_txn *t = NULL;
    struct trail_query q = {json_array(), api_query(call, "subject"),
                            api_query_int(call, "limit", 100, 1, 100000)};
    enum err e = q.list ? registry_begin(call->c->registry, false, &t) : ERR_MEMORY;
    if (!e)
        e = registry_scan(t, REGISTRY_DECISIONS, NULL, 0, true, trail_visit, &q);
    registry_abort(t);
    if (e) {
        json_decref(q.list);
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    call->answer = json_pack("{s:o}", "decisions", q.list);
}

void api_status(struct api_call *call)
{
    struct registry_txn *t = NULL;
    size_t devices = 0, rollouts = 0, records = 0, files = 0;
    char director[KEYS_ID_HEX];
    keys_id_hex(call->c->director.public_key, director);
    enum err e = registry_begin(call->c->registry, false, &t);
    if (!e)
        e = registry_count(t, REGISTRY_DEVICES, &devices);
    if (!e)
        e = registry_count(t, REGISTRY_ROLLOUTS, &rollouts);
    if (!e)
        e = registry_count(t, REGISTRY_TELEMETRY, &records);
    if (!e)
        e = registry_count(t, REGISTRY_FILES, &files);
    registry_abort(t);
    if (e) {
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    call->answer = json_pack(
        "{s:s,s:s,s:s,s:s,s:I,s:I,s:b,s:I,s:I,s:I,s:I}", "program", "tare-controller", "version",
        TARE_VERSION, "fleet", call->c->settings.fleet, "director", director, "time",
        (json_int_t)now_s(), "started", (json_int_t)call->c->started_s, "connected",
        (int)atomic_load(&call->c->counts.is_connected), "devices", (json_int_t)devices, "rollouts",
        (json_int_t)rollouts, "telemetry_records", (json_int_t)records, "files", (json_int_t)files);
}
