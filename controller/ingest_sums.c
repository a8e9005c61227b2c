/* ingest_sums.c: calibration statistics as they come: judged for sanity and kept by window. */
#include "controller/ingest_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "controller/doc.h"
#include "protocol/hex.h"

/* A device that reports nonsense must not move a cohort: values are finite, not negative, and of no
 * more rows than the window's tokens could give (an expert or a fused input may count twice). */
static bool is_sane(const struct message_sums *m)
{
    if (m->chunks == 0 || m->chunk == 0 || m->chunk > m->chunks || m->tokens == 0 ||
        m->tokens > UINT64_C(1) << 40)
        return false;
    for (uint32_t k = 0; k < m->sums; k++) {
        const struct message_sum *s = &m->sum[k];
        uint32_t channels = (uint32_t)(s->squares.size / 4);
        if (s->rows == 0 || s->rows > 4 * m->tokens || channels == 0 || s->offset > s->channels ||
            channels > s->channels - s->offset)
            return false;
        for (uint32_t j = 0; j < channels; j++) {
            float square = message_blob_f32(&s->squares, j);
            if (!isfinite(square) || square < 0)
                return false;
        }
    }
    return true;
}

static enum err refuse(struct ingest *i, const char *device)
{
    struct trail entry = {.kind = "refusal", .subject = device};
    snprintf(entry.seen, sizeof entry.seen, "statistics that no activations can have");
    snprintf(entry.rule, sizeof entry.rule, "sums are finite, not negative, and within their window");
    snprintf(entry.sent, sizeof entry.sent, "an acknowledgement, so that it does not come again");
    snprintf(entry.changed, sizeof entry.changed, "the window is left out");
    return trail_add(i->t, i->now_ms / 1000, &entry);
}

enum err ingest_sums(struct ingest *i, const char *device, const struct envelope *envelope)
{
    struct message_sums *m = &i->sums;
    bool is_new = false;
    memset(m, 0, sizeof *m);
    enum err e = message_sums_decode(envelope->payload, envelope->payload_bytes, m);
    if (e)
        return e == ERR_FULL || e == ERR_ARGUMENT ? ERR_FORMAT : e;
    e = ingest_stream(i, device, m->epoch, MESSAGE_STREAM_CAL, m->seq, &is_new);
    if (e || !is_new)
        return e ? e : ERR_STALE;
    if (!is_sane(m))
        return refuse(i, device);
    char key[96], variant[65];
    json_t *doc = NULL;
    snprintf(key, sizeof key, "%.32s/%016llx/%016llx/%08x", device, (unsigned long long)m->epoch,
             (unsigned long long)m->window, m->chunk);
    e = registry_put(i->t, REGISTRY_SUMS, key, strlen(key), envelope->payload,
                     envelope->payload_bytes);
    if (!e)
        e = registry_get_doc(i->t, REGISTRY_DRIFT, device, &doc);
    if (e == ERR_NOT_FOUND) {
        doc = json_object();
        e = doc ? ERR_NONE : ERR_MEMORY;
    }
    if (!e) {
        hex_encode(m->variant, 32, variant);
        doc_set_text(doc, "sums_variant", variant);
        doc_set_int(doc, "sums_at", i->now_ms / 1000);
        doc_set_bool(doc, "dirty", true);
        e = registry_put_doc(i->t, REGISTRY_DRIFT, device, doc);
    }
    json_decref(doc);
    return e;
}
