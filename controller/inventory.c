/* inventory.c: devices by name, and their standing. */
#include "controller/inventory.h"

#include <stdio.h>
#include <string.h>

#include "controller/doc.h"
#include "controller/trail.h"

enum err inventory_find(struct registry_txn *t, const char *what, json_t **out)
{
    if (strlen(what) == 32) {
        enum err e = registry_get_doc(t, REGISTRY_DEVICES, what, out);
        if (e != ERR_NOT_FOUND)
            return e;
    }
    json_t *all = NULL, *device, *best = NULL;
    size_t i, fitting = 0, length = strlen(what);
    enum err e = registry_list(t, REGISTRY_DEVICES, NULL, false, 0, &all);
    if (e)
        return e;
    json_array_foreach(all, i, device)
    {
        if ((length >= 6 && strncmp(doc_text(device, "id"), what, length) == 0) ||
            (length > 0 && strcmp(doc_text(device, "name"), what) == 0)) {
            best = device;
            fitting++;
        }
    }
    e = fitting == 1 ? ERR_NONE : fitting == 0 ? ERR_NOT_FOUND : ERR_ARGUMENT;
    if (!e)
        *out = json_incref(best);
    json_decref(all);
    return e;
}

static enum err set_status(struct registry_txn *t, json_t *device, const char *status,
                           const char *verb, const char *who, int64_t now_s)
{
    const char *id = doc_text(device, "id");
    struct trail entry = {.kind = "operator", .subject = id};
    snprintf(entry.seen, sizeof entry.seen, "%s was %.20s, key %.16s...", doc_text(device, "name"),
             doc_text(device, "status"), doc_text(device, "key"));
    snprintf(entry.rule, sizeof entry.rule, "%s by %.60s", verb, who);
    snprintf(entry.sent, sizeof entry.sent, "its standing, when it asks");
    snprintf(entry.changed, sizeof entry.changed, "it is %s", status);
    doc_set_text(device, "status", status);
    doc_set_int(device, strcmp(status, "approved") == 0 ? "approved" : "revoked", now_s);
    enum err e = registry_put_doc(t, REGISTRY_DEVICES, id, device);
    return e ? e : trail_add(t, now_s, &entry);
}

enum err inventory_approve(struct registry_txn *t, json_t *device, const char *name,
                           const json_t *tags, const char *who, int64_t now_s)
{
    if (name && name[0])
        doc_set_text(device, "name", name);
    if (tags)
        doc_set(device, "tags", json_deep_copy(tags));
    return set_status(t, device, "approved", "approved", who, now_s);
}

enum err inventory_revoke(struct registry_txn *t, json_t *device, const char *who, int64_t now_s)
{
    const char *id = doc_text(device, "id");
    enum err e = registry_delete(t, REGISTRY_ENVELOPES, id, strlen(id));
    doc_set_text(device, "plan", "");
    return e ? e : set_status(t, device, "revoked", "revoked", who, now_s);
}

bool inventory_has_tags(const json_t *device, const json_t *tags)
{
    size_t i, k;
    json_t *tag, *own;
    json_array_foreach((json_t *)(uintptr_t)tags, i, tag)
    {
        bool has = false;
        json_array_foreach(json_object_get(device, "tags"), k, own)
            has = has || json_equal(own, tag);
        if (!has)
            return false;
    }
    return true;
}
