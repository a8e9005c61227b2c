/* ingest_result.c: benchmark results. */
#include "controller/ingest_parts.h"

#include <string.h>

#include "controller/doc.h"
#include "protocol/hex.h"

static json_t *rows_of(const struct message_result *m)
{
    json_t *rows = json_array();
    for (uint32_t k = 0; rows && k < m->rows; k++) {
        const struct message_row *r = &m->row[k];
        json_t *row = json_object();
        doc_set_text(row, "test", r->test);
        doc_set_int(row, "prompt", r->prompt);
        doc_set_int(row, "generate", r->generate);
        doc_set_int(row, "threads", r->threads);
        doc_set_text(row, "plugin", r->plugin);
        doc_set_text(row, "path", r->path);
        doc_set_int(row, "repetitions", r->repetitions);
        doc_set_real(row, "tok_s", (double)r->tok_s);
        doc_set_real(row, "tok_s_deviation", (double)r->tok_s_deviation);
        doc_note_int(row, "rss_bytes", (int64_t)r->rss_bytes);
        doc_note_real(row, "energy_j", (double)r->energy_j);
        doc_append(rows, row);
    }
    return rows;
}

enum err ingest_result(struct ingest *i, const char *device, const struct envelope *envelope)
{
    struct message_result *m = &i->result;
    bool is_new = false;
    memset(m, 0, sizeof *m);
    enum err e = message_result_decode(envelope->payload, envelope->payload_bytes, m);
    if (e)
        return e == ERR_FULL || e == ERR_ARGUMENT ? ERR_FORMAT : e;
    e = ingest_stream(i, device, m->epoch, MESSAGE_STREAM_BENCH, m->seq, &is_new);
    if (e || !is_new)
        return e ? e : ERR_STALE;
    char id[33];
    json_t *doc = NULL;
    hex_encode(m->id, 16, id);
    e = registry_get_doc(i->t, REGISTRY_BENCH, id, &doc);
    if (e == ERR_NOT_FOUND || (!e && strcmp(doc_text(doc, "device"), device) != 0)) {
        e = ERR_NONE; /* nobody asked it */
    } else if (!e) {
        doc_set_text(doc, "state", m->err ? "failed" : "done");
        doc_set_int(doc, "done", i->now_ms / 1000);
        doc_set_hex(doc, "model", m->model, 32);
        doc_set_text(doc, "model_text", m->model_text);
        doc_set_int(doc, "model_bytes", (int64_t)m->model_bytes);
        doc_set_int(doc, "parameters", (int64_t)m->parameters);
        doc_set_text(doc, "error", m->err ? err_name((enum err)m->err) : "");
        doc_set_text(doc, "reason", m->reason);
        doc_set(doc, "rows", rows_of(m));
        e = registry_put_doc(i->t, REGISTRY_BENCH, id, doc);
    }
    json_decref(doc);
    return e;
}
