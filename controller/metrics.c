/* metrics.c: the Prometheus text format. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/api.h"
#include "controller/doc.h"
#include "controller/release.h"

static void head(FILE *f, const char *name, const char *type, const char *help)
{
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void counter(FILE *f, const char *name, const char *help, unsigned long long value)
{
    head(f, name, "counter", help);
    fprintf(f, "%s %llu\n", name, value);
}

static void gauge(FILE *f, const char *name, const char *help, double value)
{
    head(f, name, "gauge", help);
    fprintf(f, "%s %.17g\n", name, value);
}

static enum err put_devices(FILE *f, struct registry_txn *t)
{
    static const char *const statuses[] = {"pending", "approved", "revoked"};
    unsigned long long count[3] = {0}, online = 0;
    json_t *all = NULL, *doc;
    size_t i;
    enum err e = registry_list(t, REGISTRY_DEVICES, NULL, false, 0, &all);
    json_array_foreach(all, i, doc)
    {
        for (size_t k = 0; k < 3; k++)
            count[k] += strcmp(doc_text(doc, "status"), statuses[k]) == 0;
        online += doc_bool(doc, "online");
    }
    json_decref(all);
    head(f, "tare_devices", "gauge", "Devices by standing.");
    for (size_t k = 0; k < 3; k++)
        fprintf(f, "tare_devices{status=\"%s\"} %llu\n", statuses[k], count[k]);
    gauge(f, "tare_devices_online", "Devices that are connected.", (double)online);
    return e;
}

static enum err put_rollouts(FILE *f, struct registry_txn *t)
{
    unsigned long long count[ROLLOUT_FAILED + 1] = {0};
    json_t *all = NULL, *doc;
    size_t i;
    enum err e = registry_list(t, REGISTRY_ROLLOUTS, NULL, false, 0, &all);
    json_array_foreach(all, i, doc)
    {
        int64_t state = doc_int(doc, "state_number");
        if (state >= 0 && state <= ROLLOUT_FAILED)
            count[state]++;
    }
    json_decref(all);
    head(f, "tare_rollouts", "gauge", "Rollouts by state.");
    for (int s = 0; s <= ROLLOUT_FAILED; s++)
        fprintf(f, "tare_rollouts{state=\"%s\"} %llu\n", rollout_state_name((enum rollout_state)s),
                count[s]);
    return e;
}

struct drift_out {
    FILE *f;
    const char *name, *field;
};

static enum err drift_visit(void *context, const void *key, size_t key_bytes, const void *value,
                            size_t bytes)
{
    const struct drift_out *out = context;
    json_t *doc = json_loadb(value, bytes, 0, NULL);
    if (json_is_number(json_object_get(doc, out->field)))
        fprintf(out->f, "%s{device=\"%.*s\"} %.17g\n", out->name, (int)key_bytes, (const char *)key,
                doc_real(doc, out->field));
    json_decref(doc);
    return ERR_NONE;
}

static enum err put_drift(FILE *f, struct registry_txn *t)
{
    struct drift_out score = {f, "tare_drift_score", "score"};
    struct drift_out kld = {f, "tare_shadow_kld_nats", "shadow_kld"};
    head(f, score.name, "gauge", "How far a device's activations have moved from its profile.");
    enum err e = registry_scan(t, REGISTRY_DRIFT, NULL, 0, false, drift_visit, &score);
    head(f, kld.name, "gauge", "Mean divergence of served tokens from the base.");
    return e ? e : registry_scan(t, REGISTRY_DRIFT, NULL, 0, false, drift_visit, &kld);
}

static void put_counts(FILE *f, struct controller *c)
{
    struct controller_counts *n = &c->counts;
    uint64_t map = 0, used = 0;
    registry_sizes(c->registry, &map, &used);
    counter(f, "tare_messages_total", "Messages of devices that were applied.",
            atomic_load(&n->messages));
    counter(f, "tare_messages_repeated_total", "Messages that came again and changed nothing.",
            atomic_load(&n->duplicates));
    counter(f, "tare_messages_refused_total", "Messages refused: signature, format, audience.",
            atomic_load(&n->refused));
    counter(f, "tare_telemetry_records_total", "Telemetry records made durable since start.",
            atomic_load(&n->records));
    counter(f, "tare_commits_total", "Batches committed.", atomic_load(&n->commits));
    counter(f, "tare_published_total", "Messages to devices.", atomic_load(&n->published));
    counter(f, "tare_artifact_bytes_total", "Bytes of artifacts asked for.",
            atomic_load(&n->artifact_bytes));
    gauge(f, "tare_broker_connected", "1 when connected to the broker.",
          atomic_load(&n->is_connected) ? 1 : 0);
    gauge(f, "tare_registry_bytes", "Bytes of the registry in use.", (double)used);
    gauge(f, "tare_registry_map_bytes", "Bytes of the registry's map.", (double)map);
    gauge(f, "tare_start_time_seconds", "Unix time of the controller's start.", (double)c->started_s);
}

enum err metrics_text(struct controller *c, char **out)
{
    struct registry_txn *t = NULL;
    char *text = NULL;
    size_t size = 0, records = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return ERR_MEMORY;
    put_counts(f, c); /* before the transaction: it takes the same lock */
    enum err e = registry_begin(c->registry, false, &t);
    if (!e)
        e = put_devices(f, t);
    if (!e)
        e = put_rollouts(f, t);
    if (!e)
        e = registry_count(t, REGISTRY_TELEMETRY, &records);
    if (!e)
        gauge(f, "tare_telemetry_records", "Telemetry records kept.", (double)records);
    if (!e)
        e = put_drift(f, t);
    registry_abort(t);
    if (fclose(f) != 0 && !e)
        e = ERR_MEMORY;
    if (e)
        free(text);
    else
        *out = text;
    return e;
}
