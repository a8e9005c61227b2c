/* telemetry_json.c: one telemetry record for people. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/api.h"
#include "controller/doc.h"
#include "protocol/message.h"

static const char *metric_name(uint32_t metric)
{
    static const char *const names[] = {"?", "ttft_us", "token_us", "prefill_millitok_s",
                                        "decode_millitok_s", "request_us", "cached_tokens"};
    return metric < sizeof names / sizeof names[0] ? names[metric] : "?";
}

static const char *kind_name(uint32_t kind)
{
    static const char *const names[] = {"?",      "sketch", "memory", "heat", "energy",
                                        "shadow", "error",  "lost",   "event"};
    return kind < sizeof names / sizeof names[0] ? names[kind] : "?";
}

static void put_sketch(json_t *value, const struct message_record *r)
{
    const struct sketch *s = &r->of.sketch.sketch;
    doc_set_text(value, "metric", metric_name(r->of.sketch.metric));
    doc_set_int(value, "count", (int64_t)s->count);
    doc_set_real(value, "mean", sketch_mean(s));
    doc_set_int(value, "least", (int64_t)s->least);
    doc_set_int(value, "p50", (int64_t)sketch_quantile(s, 0.5));
    doc_set_int(value, "p95", (int64_t)sketch_quantile(s, 0.95));
    doc_set_int(value, "p99", (int64_t)sketch_quantile(s, 0.99));
    doc_set_int(value, "most", (int64_t)s->most);
}

static void put_value(json_t *value, const struct message_record *r)
{
    switch (r->kind) {
    case MESSAGE_RECORD_SKETCH:
        put_sketch(value, r);
        break;
    case MESSAGE_RECORD_MEMORY:
        doc_set_int(value, "rss_bytes", (int64_t)r->of.memory.rss_bytes);
        doc_set_int(value, "available_bytes", (int64_t)r->of.memory.available_bytes);
        doc_set_int(value, "cache_bytes", (int64_t)r->of.memory.cache_bytes);
        break;
    case MESSAGE_RECORD_HEAT:
        doc_set_int(value, "sensor", r->of.heat.sensor);
        doc_set_real(value, "celsius", (double)r->of.heat.millicelsius / 1000.0);
        doc_set_int(value, "throttled_ms", (int64_t)r->of.heat.throttled_ms);
        break;
    case MESSAGE_RECORD_ENERGY:
        doc_set_real(value, "joule", (double)r->of.energy.millijoules / 1000.0);
        doc_set_int(value, "window_ms", (int64_t)r->of.energy.window_ms);
        doc_set_int(value, "tokens", (int64_t)r->of.energy.tokens);
        break;
    case MESSAGE_RECORD_SHADOW:
        doc_set_int(value, "tokens", (int64_t)r->of.shadow.tokens);
        doc_set_real(value, "kld_mean",
                     r->of.shadow.tokens ? r->of.shadow.kld_sum / (double)r->of.shadow.tokens : 0);
        doc_set_real(value, "kld_most", r->of.shadow.kld_most);
        doc_set_real(value, "top1",
                     r->of.shadow.tokens
                         ? (double)r->of.shadow.top1_same / (double)r->of.shadow.tokens
                         : 0);
        doc_set_int(value, "requests", (int64_t)r->of.shadow.requests);
        break;
    case MESSAGE_RECORD_ERROR:
        doc_set_text(value, "error", err_name((enum err)r->of.error.err));
        doc_set_int(value, "count", (int64_t)r->of.error.count);
        doc_set_text(value, "text", r->of.error.text);
        break;
    case MESSAGE_RECORD_LOST:
        doc_set_int(value, "from", (int64_t)r->of.lost.from);
        doc_set_int(value, "to", (int64_t)r->of.lost.to);
        break;
    case MESSAGE_RECORD_EVENT:
        doc_set_text(value, "name", r->of.event.name);
        doc_set_text(value, "text", r->of.event.text);
        doc_set_int(value, "value", (int64_t)r->of.event.value);
        break;
    default:
        break;
    }
}

json_t *telemetry_to_json(const uint8_t *bytes, size_t size)
{
    struct message_record *r = calloc(1, sizeof *r);
    json_t *doc = NULL, *value = NULL;
    if (!r)
        return NULL;
    if (message_record_decode(bytes, size, r) == ERR_NONE) {
        doc = json_object();
        value = json_object();
        put_value(value, r);
        doc_set_text(doc, "kind", kind_name(r->kind));
        doc_set_int(doc, "time", (int64_t)(r->time_ms / 1000));
        doc_set_hex(doc, "variant", r->variant, 32);
        doc_set(doc, "value", value);
    }
    free(r);
    return doc;
}
