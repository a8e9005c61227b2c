/* trail.c: the decision trail. */
#include "controller/trail.h"

#include "controller/controller_log.h"
#include "controller/doc.h"

enum err trail_add(struct registry_txn *t, int64_t now_s, const struct trail *entry)
{
    json_t *doc = json_object();
    if (!doc)
        return ERR_MEMORY;
    doc_set_int(doc, "time", now_s);
    doc_set_text(doc, "kind", entry->kind);
    doc_set_text(doc, "subject", entry->subject);
    doc_set_text(doc, "seen", entry->seen);
    doc_set_text(doc, "rule", entry->rule);
    doc_set_text(doc, "sent", entry->sent);
    doc_set_text(doc, "changed", entry->changed);
    enum err e = registry_append(t, REGISTRY_DECISIONS, doc);
    json_decref(doc);
    if (!e)
        controller_log(CONTROLLER_LOG_INFO, "%s %s: %s; %s; %s; %s", entry->kind, entry->subject,
                       entry->seen, entry->rule, entry->sent, entry->changed);
    return e;
}
