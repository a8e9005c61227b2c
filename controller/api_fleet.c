/* api_fleet.c: devices, rollouts, benchmarks. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "controller/api.h"
#include "controller/controller_log.h"
#include "controller/doc.h"
#include "controller/drift.h"
#include "controller/inventory.h"
#include "controller/release.h"
#include "protocol/hex.h"

static int64_t now_s(void)
{
    return controller_now_ms() / 1000;
}

/* End a call's transaction: commit and wake the loop, or abort and say why. */
static void end(struct api_call *call, struct registry_txn *t, enum err e, const char *why)
{
    if (e) {
        registry_abort(t);
        api_fail(call, e, "%s", why[0] ? why : err_name(e));
        return;
    }
    e = registry_commit(t);
    if (e)
        api_fail(call, e, "not made durable: %s", err_name(e));
    else
        controller_wake(call->c);
}

void api_devices_list(struct api_call *call)
{
    struct registry_txn *t = NULL;
    json_t *all = NULL, *list = json_array(), *device;
    const char *status = api_query(call, "status");
    size_t i;
    enum err e = registry_begin(call->c->registry, false, &t);
    if (!e)
        e = registry_list(t, REGISTRY_DEVICES, NULL, false, 0, &all);
    registry_abort(t);
    json_array_foreach(all, i, device)
        if (!status[0] || strcmp(doc_text(device, "status"), status) == 0)
            doc_append(list, json_incref(device));
    json_decref(all);
    if (e) {
        json_decref(list);
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    call->answer = json_pack("{s:o}", "devices", list);
}

static enum err find_device(struct api_call *call, struct registry_txn *t, json_t **out)
{
    enum err e = inventory_find(t, call->part, out);
    if (e)
        api_fail(call, e, "device %s: %s", call->part,
                 e == ERR_NOT_FOUND ? "not known" : "several fit; give more of the id");
    return e;
}

void api_devices_show(struct api_call *call)
{
    struct registry_txn *t = NULL;
    json_t *device = NULL, *drift = NULL;
    enum err e = registry_begin(call->c->registry, false, &t);
    if (e) {
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    if (find_device(call, t, &device) == ERR_NONE) {
        if (registry_get_doc(t, REGISTRY_DRIFT, doc_text(device, "id"), &drift) == ERR_NONE)
            doc_set(device, "drift", drift);
        call->answer = device;
    }
    registry_abort(t);
}

static bool is_text_list(const json_t *list)
{
    size_t i;
    json_t *item;
    if (!list)
        return true;
    if (!json_is_array(list) || json_array_size(list) > 100000)
        return false;
    json_array_foreach((json_t *)(uintptr_t)list, i, item)
        if (!json_is_string(item))
            return false;
    return true;
}

void api_devices_command(struct api_call *call)
{
    struct registry_txn *t = NULL;
    json_t *device = NULL;
    const json_t *tags = json_object_get(call->body, "tags");
    bool is_approve = strcmp(call->verb, "approve") == 0;
    if (!is_approve && strcmp(call->verb, "revoke") != 0) {
        api_fail(call, ERR_NOT_FOUND, "%s: expected approve or revoke", call->verb);
        return;
    }
    if (!is_text_list(tags) || strlen(doc_text(call->body, "name")) > 60) {
        api_fail(call, ERR_ARGUMENT, "tags: expected a list of strings; name: at most 60 bytes");
        return;
    }
    enum err e = registry_begin(call->c->registry, true, &t);
    if (e) {
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    if (find_device(call, t, &device)) {
        registry_abort(t);
        return;
    }
    if (is_approve)
        e = inventory_approve(t, device, doc_text(call->body, "name"), tags, call->who, now_s());
    else
        e = inventory_revoke(t, device, call->who, now_s());
    call->answer = device;
    end(call, t, e, "");
}

void api_rollouts_list(struct api_call *call)
{
    struct registry_txn *t = NULL;
    json_t *list = NULL, *doc;
    size_t i;
    enum err e = registry_begin(call->c->registry, false, &t);
    if (!e)
        e = registry_list(t, REGISTRY_ROLLOUTS, NULL, false, 0, &list);
    json_t *newest = json_array();
    json_array_foreach(list, i, doc)
    {
        if (!e)
            e = release_describe(t, doc, false, now_s());
        (void)json_object_del(doc, "cohort");
        /* Keys sort as text ("10" before "2"): the newest first is by number. */
        size_t at = 0;
        while (at < json_array_size(newest) &&
               doc_int(json_array_get(newest, at), "number") > doc_int(doc, "number"))
            at++;
        if (json_array_insert(newest, at, doc) != 0)
            e = ERR_MEMORY;
    }
    registry_abort(t);
    json_decref(list);
    if (e) {
        json_decref(newest);
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    call->answer = json_pack("{s:o}", "rollouts", newest);
}

void api_rollouts_create(struct api_call *call)
{
    static const char *const known[] = {"recipe", "model",   "profile", "text",
                                        "name",   "devices", "tags",    "approval"};
    struct registry_txn *t = NULL;
    char why[RELEASE_WHY] = "";
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)call->body, key, value)
    {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            is_known = is_known || strcmp(key, known[i]) == 0;
        if (!is_known) {
            api_fail(call, ERR_ARGUMENT,
                     "%.60s: expected recipe, model, profile, text, name, devices, tags or approval", key);
            return;
        }
    }
    const json_t *devices = json_object_get(call->body, "devices");
    const json_t *tags = json_object_get(call->body, "tags");
    if (!doc_text(call->body, "recipe")[0] || !doc_text(call->body, "model")[0] ||
        !is_text_list(devices) || !is_text_list(tags)) {
        api_fail(call, ERR_ARGUMENT,
                 "expected recipe (text), model (name or digest), and lists of strings for devices, tags");
        return;
    }
    struct release_request request = {.recipe = doc_text(call->body, "recipe"),
                                      .model = doc_text(call->body, "model"),
                                      .profile = doc_text(call->body, "profile"),
                                      .text = doc_text(call->body, "text"),
                                      .name = doc_text(call->body, "name"),
                                      .trigger = "operator",
                                      .devices = devices,
                                      .tags = tags,
                                      .wants_approval = doc_bool(call->body, "approval")};
    enum err e = registry_begin(call->c->registry, true, &t);
    if (e) {
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    e = release_create(call->c, t, &request, now_s(), &call->answer, why);
    if (!e)
        e = release_describe(t, call->answer, true, now_s());
    call->status = MHD_HTTP_CREATED;
    end(call, t, e, why);
}

/* What the workshop says of a rollout in preparation. */
static void put_progress(const struct api_call *call, json_t *doc)
{
    char path[CONTROLLER_PATH + 64];
    if (doc_int(doc, "state_number") != ROLLOUT_PREPARING || doc_bool(doc, "prepared"))
        return;
    snprintf(path, sizeof path, "%s/work/%.24s/progress", call->c->settings.state, doc_text(doc, "id"));
    json_t *progress = json_load_file(path, 0, NULL);
    if (progress)
        doc_set(doc, "progress", progress);
}

void api_rollouts_show(struct api_call *call)
{
    struct registry_txn *t = NULL;
    json_t *doc = NULL;
    enum err e = registry_begin(call->c->registry, false, &t);
    if (!e)
        e = registry_get_doc(t, REGISTRY_ROLLOUTS, call->part, &doc);
    if (!e)
        e = release_describe(t, doc, true, now_s());
    registry_abort(t);
    if (e) {
        json_decref(doc);
        api_fail(call, e, "rollout %s: %s", call->part, e == ERR_NOT_FOUND ? "not known" : err_name(e));
        return;
    }
    put_progress(call, doc);
    call->answer = doc;
}

void api_rollouts_command(struct api_call *call)
{
    static const char *const verbs[] = {"pause", "resume", "abort", "revert"};
    struct registry_txn *t = NULL;
    char why[RELEASE_WHY] = "";
    int command = -1;
    for (int i = 0; i < 4; i++)
        if (strcmp(call->verb, verbs[i]) == 0)
            command = i;
    bool is_approve = strcmp(call->verb, "approve") == 0;
    if (command < 0 && !is_approve) {
        api_fail(call, ERR_NOT_FOUND, "%s: expected pause, resume, abort, revert or approve", call->verb);
        return;
    }
    enum err e = registry_begin(call->c->registry, true, &t);
    if (e) {
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    if (is_approve)
        e = release_approve(t, call->part, call->who, now_s(), &call->answer, why);
    else
        e = release_command(t, call->part, (enum rollout_command)command, call->who, now_s(),
                            &call->answer, why);
    if (!e)
        e = release_describe(t, call->answer, true, now_s());
    end(call, t, e, why);
}

void api_recalibrate(struct api_call *call)
{
    char why[DRIFT_WHY] = "";
    const char *rollout = doc_text(call->body, "rollout");
    if (!rollout[0]) {
        api_fail(call, ERR_ARGUMENT, "rollout: expected the id of a rollout");
        return;
    }
    enum err e = drift_recalibrate(call->c, rollout, now_s(), &call->answer, why);
    if (e) {
        api_fail(call, e, "%s", why[0] ? why : err_name(e));
        return;
    }
    call->status = MHD_HTTP_CREATED;
    controller_wake(call->c);
}

void api_bench_list(struct api_call *call)
{
    struct registry_txn *t = NULL;
    json_t *all = NULL, *list = json_array(), *doc, *device = NULL;
    const char *what = api_query(call, "device");
    int64_t limit = api_query_int(call, "limit", 100, 1, 10000);
    size_t i;
    enum err e = registry_begin(call->c->registry, false, &t);
    if (!e && what[0])
        e = inventory_find(t, what, &device);
    if (!e)
        e = registry_list(t, REGISTRY_BENCH, NULL, false, 0, &all);
    registry_abort(t);
    json_array_foreach(all, i, doc)
    {
        if (device && strcmp(doc_text(doc, "device"), doc_text(device, "id")) != 0)
            continue;
        size_t at = 0;
        while (at < json_array_size(list) &&
               doc_int(json_array_get(list, at), "asked") > doc_int(doc, "asked"))
            at++;
        if ((int64_t)at < limit && json_array_insert(list, at, doc) != 0)
            e = ERR_MEMORY;
        if ((int64_t)json_array_size(list) > limit)
            (void)json_array_remove(list, json_array_size(list) - 1);
    }
    json_decref(device);
    json_decref(all);
    if (e) {
        json_decref(list);
        api_fail(call, e, "device %s: %s", what, e == ERR_NOT_FOUND ? "not known" : err_name(e));
        return;
    }
    call->answer = json_pack("{s:o}", "bench", list);
}

static enum err ask_bench(struct api_call *call, struct registry_txn *t, const json_t *device,
                          json_t *list)
{
    uint8_t id[16];
    char hex[33];
    randombytes_buf(id, sizeof id);
    hex_encode(id, sizeof id, hex);
    int64_t prompt = doc_int(call->body, "prompt_tokens"), generate = doc_int(call->body, "generate_tokens");
    int64_t repeats = doc_int(call->body, "repeats");
    json_t *doc = json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:s}", "id", hex, "device",
                            doc_text(device, "id"), "name", doc_text(device, "name"), "state", "asked",
                            "asked", (json_int_t)now_s(), "not_after", (json_int_t)(now_s() + 3600),
                            "prompt_tokens", (json_int_t)(prompt || generate ? prompt : 512),
                            "generate_tokens", (json_int_t)(prompt || generate ? generate : 128),
                            "repeats", (json_int_t)(repeats ? repeats : 3), "threads",
                            (json_int_t)doc_int(call->body, "threads"), "plugin",
                            doc_text(call->body, "plugin"));
    enum err e = registry_put_doc(t, REGISTRY_BENCH, hex, doc);
    doc_append(list, doc);
    return e;
}

void api_bench_create(struct api_call *call)
{
    struct registry_txn *t = NULL;
    json_t *list = json_array(), *all = NULL, *item;
    const json_t *devices = json_object_get(call->body, "devices");
    char why[160] = "";
    size_t i;
    int64_t prompt = doc_int(call->body, "prompt_tokens"), generate = doc_int(call->body, "generate_tokens");
    int64_t repeats = doc_int(call->body, "repeats"), threads = doc_int(call->body, "threads");
    if (!is_text_list(devices) || prompt < 0 || prompt > 65536 || generate < 0 || generate > 65536 ||
        repeats < 0 || repeats > 100 || threads < 0 || threads > 1024) {
        json_decref(list);
        api_fail(call, ERR_ARGUMENT,
                 "expected devices (list), prompt_tokens and generate_tokens to 65536, repeats to 100");
        return;
    }
    enum err e = registry_begin(call->c->registry, true, &t);
    if (e) {
        json_decref(list);
        api_fail(call, e, "%s", err_name(e));
        return;
    }
    if (devices) {
        json_array_foreach((json_t *)(uintptr_t)devices, i, item)
        {
            json_t *device = NULL;
            if (e)
                break;
            e = inventory_find(t, json_string_value(item), &device);
            if (!e && strcmp(doc_text(device, "status"), "approved") != 0)
                e = ERR_ARGUMENT;
            if (e)
                snprintf(why, sizeof why, "device %.80s: not known, not approved, or several fit",
                         json_string_value(item));
            else
                e = ask_bench(call, t, device, list);
            json_decref(device);
        }
    } else {
        e = registry_list(t, REGISTRY_DEVICES, NULL, false, 0, &all);
        json_array_foreach(all, i, item)
            if (!e && strcmp(doc_text(item, "status"), "approved") == 0)
                e = ask_bench(call, t, item, list);
        json_decref(all);
    }
    call->answer = json_pack("{s:o}", "bench", list);
    call->status = MHD_HTTP_CREATED;
    end(call, t, e, why);
}
