/* fleet.c: `tare fleet`: what the controller knows, as tables for people and as its own documents.
 */
#include "cli/cli.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/fleet_http.h"
#include "cli/fleet_parts.h"
#include "cli/table.h"

enum { PATH_BYTES = 1024 };

struct list_settings {
    struct fleet_settings fleet;
    const char *device, *kind, *subject, *name, *status;
    int64_t limit, since;
    struct cli_list tags;
};

#define AT(field) offsetof(struct list_settings, field)

/* --- small readers ------------------------------------------------------------------------ */

const char *fleet_text(const json_t *doc, const char *key)
{
    const char *text = json_string_value(json_object_get(doc, key));
    return text ? text : "";
}

char *fleet_short(const json_t *doc, const char *key, char out[16])
{
    snprintf(out, 16, "%.8s", fleet_text(doc, key));
    return out;
}

char *fleet_number(const json_t *doc, const char *key, int digits, char out[32])
{
    const json_t *value = json_object_get(doc, key);
    out[0] = 0;
    if (json_is_number(value))
        snprintf(out, 32, "%.*f", digits, json_number_value(value));
    return out;
}

int fleet_stage(const json_t *rollout)
{
    int stages = (int)json_array_size(json_object_get(rollout, "stages"));
    int stage = (int)json_integer_value(json_object_get(rollout, "stage")) + 1;
    return stages > 0 && stage > stages ? stages : stage;
}

/* "14:03:05", or with the date when it was not today; "" for 0. */
static char *moment(const json_t *doc, const char *key, char out[32])
{
    time_t when = (time_t)json_number_value(json_object_get(doc, key)), now = time(NULL);
    struct tm at = {0}, today = {0};
    out[0] = 0;
    if (when > 0 && localtime_r(&when, &at) && localtime_r(&now, &today))
        strftime(out, 32,
                 at.tm_yday == today.tm_yday && at.tm_year == today.tm_year ? "%H:%M:%S"
                                                                            : "%Y-%m-%d %H:%M:%S",
                 &at);
    return out;
}

/* --- lists: one GET, one table ------------------------------------------------------------ */

/* Append "?key=value" or "&key=value" when there is a value. */
static void query(char path[PATH_BYTES], const char *key, const char *value)
{
    char safe[512];
    size_t used = strlen(path);
    if (value && value[0])
        snprintf(path + used, PATH_BYTES - used, "%c%s=%s", strchr(path, '?') ? '&' : '?', key,
                 fleet_encode(value, safe, sizeof safe));
}

static void query_int(char path[PATH_BYTES], const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    query(path, key, value > 0 ? text : NULL);
}

/* GET path; for every element of its array `key` one row. */
static int list(struct cli_call *call, const char *path, const char *key, const char *headings,
                void (*row)(struct table *t, const json_t *element))
{
    json_t *document = NULL;
    int status = fleet_ask(call, "GET", path, NULL, NULL, &document);
    if (status)
        return status;
    struct table t;
    table_open(&t, headings);
    size_t i;
    json_t *element;
    json_array_foreach(json_object_get(document, key), i, element) row(&t, element);
    if (t.rows <= 1)
        cli_note(call, "tare: the controller has none\n");
    table_close(&t, call);
    cli_answer(call, document);
    return CLI_DONE;
}

static void device_row(struct table *t, const json_t *d)
{
    char variant[16], seen[32], cores[32];
    table_row(t,
              (const char *[]){fleet_text(d, "id"), fleet_text(d, "name"), fleet_text(d, "status"),
                               json_is_true(json_object_get(d, "online")) ? "yes" : "no",
                               fleet_text(d, "plugin"), fleet_short(d, "variant", variant),
                               fleet_text(d, "job_state"), fleet_number(d, "cores", 0, cores),
                               moment(d, "last_seen", seen)});
}

static int devices(struct cli_call *call)
{
    const struct list_settings *s = call->settings;
    char path[PATH_BYTES] = "/api/1/devices";
    query(path, "status", s->status);
    return list(call, path, "devices", "id|name|status|online|plugin|variant|job|>cores|last seen",
                device_row);
}

static void file_row(struct table *t, const json_t *f)
{
    char digest[16], size[32], parameters[32], when[32];
    cli_bytes(json_number_value(json_object_get(f, "bytes")), size);
    table_row(t, (const char *[]){fleet_short(f, "digest", digest), fleet_text(f, "kind"),
                                  fleet_text(f, "name"), size, fleet_text(f, "architecture"),
                                  fleet_number(f, "parameters", 0, parameters),
                                  moment(f, "registered", when)});
}

/* Without operands the list; with files, each is registered from the controller's disk or sent. */
static int models(struct cli_call *call)
{
    static const char headings[] = "digest|kind|name|>size|architecture|>parameters|registered";
    const struct list_settings *s = call->settings;
    if (call->operands == 0)
        return list(call, "/api/1/models", "files", headings, file_row);
    json_t *all = json_array();
    struct table t;
    int status = CLI_DONE;
    table_open(&t, headings);
    for (int i = 0; i < call->operands && !status; i++) {
        const char *file = call->operand[i], *base = strrchr(file, '/');
        char path[PATH_BYTES] = "/api/1/models";
        json_t *one = NULL;
        query(path, "name", s->name ? s->name : base ? base + 1 : file);
        query(path, "kind", s->kind);
        status = fleet_ask(call, "PUT", path, NULL, file, &one);
        if (status)
            break;
        file_row(&t, one);
        json_array_append_new(all, one);
    }
    table_close(&t, call);
    if (status)
        json_decref(all);
    else
        cli_answer(call, json_pack("{s:o}", "files", all));
    return status;
}

static void rollout_row(struct table *t, const json_t *r)
{
    char stage[48], when[32];
    snprintf(stage, sizeof stage, "%d of %zu", fleet_stage(r),
             json_array_size(json_object_get(r, "stages")));
    table_row(t, (const char *[]){fleet_text(r, "id"), fleet_text(r, "name"),
                                  fleet_text(r, "state"), stage, fleet_text(r, "trigger"),
                                  moment(r, "created", when), fleet_text(r, "reason")});
}

static int rollouts(struct cli_call *call)
{
    return list(call, "/api/1/rollouts", "rollouts", "id|name|state|stage|trigger|created|reason",
                rollout_row);
}

static void telemetry_row(struct table *t, const json_t *r)
{
    char device[16], epoch[32], seq[32], when[32];
    char *value = json_dumps(json_object_get(r, "value"), JSON_COMPACT | JSON_REAL_PRECISION(5));
    table_row(t, (const char *[]){fleet_short(r, "device", device), moment(r, "time", when),
                                  fleet_number(r, "epoch", 0, epoch),
                                  fleet_number(r, "seq", 0, seq), fleet_text(r, "kind"), value});
    free(value);
}

static int telemetry(struct cli_call *call)
{
    const struct list_settings *s = call->settings;
    char path[PATH_BYTES] = "/api/1/telemetry";
    query(path, "device", s->device);
    query(path, "kind", s->kind);
    query_int(path, "since", s->since);
    query_int(path, "limit", s->limit);
    return list(call, path, "records", "device|time|>epoch|>seq|kind|value", telemetry_row);
}

static void decision_row(struct table *t, const json_t *d)
{
    char when[32], subject[16];
    table_row(t, (const char *[]){moment(d, "time", when), fleet_text(d, "kind"),
                                  fleet_short(d, "subject", subject), fleet_text(d, "seen"),
                                  fleet_text(d, "rule"), fleet_text(d, "sent"),
                                  fleet_text(d, "changed")});
}

static int decisions(struct cli_call *call)
{
    const struct list_settings *s = call->settings;
    char path[PATH_BYTES] = "/api/1/decisions";
    query(path, "subject", s->subject);
    query_int(path, "limit", s->limit);
    return list(call, path, "decisions", "time|kind|subject|seen|rule|sent|changed", decision_row);
}

static void drift_row(struct table *t, const json_t *d)
{
    char device[16], variant[16], score[32], worst[32], rows[32], kld[32];
    table_row(
        t, (const char *[]){fleet_short(d, "device", device), fleet_short(d, "variant", variant),
                            fleet_text(d, "rollout"), fleet_number(d, "score", 4, score),
                            fleet_number(d, "worst", 4, worst), fleet_text(d, "worst_name"),
                            fleet_number(d, "rows", 0, rows), fleet_number(d, "shadow_kld", 4, kld),
                            json_is_true(json_object_get(d, "armed")) ? "watching" : "has fired"});
}

static int calibration(struct cli_call *call)
{
    return list(call, "/api/1/calibration", "cohorts",
                "device|variant|rollout|>drift|>worst|of|>rows|>shadow KLD|rule", drift_row);
}

/* --- one document ------------------------------------------------------------------------- */

/* "key: value" for every plain member. */
static void print_plain(const struct cli_call *call, const json_t *document)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)document, key, value)
    {
        if (json_is_string(value))
            cli_print(call, "%-16s %s\n", key, json_string_value(value));
        else if (json_is_integer(value))
            cli_print(call, "%-16s %lld\n", key, (long long)json_integer_value(value));
        else if (json_is_real(value))
            cli_print(call, "%-16s %.6g\n", key, json_real_value(value));
        else if (json_is_boolean(value))
            cli_print(call, "%-16s %s\n", key, json_is_true(value) ? "yes" : "no");
    }
}

static int state(struct cli_call *call)
{
    json_t *document = NULL;
    int status = fleet_ask(call, "GET", "/api/1/status", NULL, NULL, &document);
    if (!status) {
        print_plain(call, document);
        cli_answer(call, document);
    }
    return status;
}

static void print_plugins(const struct cli_call *call, const json_t *document)
{
    struct table t;
    size_t i;
    json_t *p;
    table_open(&t, "plugin|>score|path|refused because");
    json_array_foreach(json_object_get(document, "plugins"), i, p)
    {
        char score[32];
        table_row(&t, (const char *[]){fleet_text(p, "name"), fleet_number(p, "score", 0, score),
                                       fleet_text(p, "path"), fleet_text(p, "refused")});
    }
    table_close(&t, call);
}

/* device ID [approve|revoke] */
static int device(struct cli_call *call)
{
    const struct list_settings *s = call->settings;
    const char *verb = call->operands > 1 ? call->operand[1] : NULL;
    char path[PATH_BYTES], id[256];
    if (verb && strcmp(verb, "approve") != 0 && strcmp(verb, "revoke") != 0)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "a device is approved or revoked, not '%s'",
                        verb);
    snprintf(path, sizeof path, "/api/1/devices/%s%s%s",
             fleet_encode(call->operand[0], id, sizeof id), verb ? "/" : "", verb ? verb : "");
    json_t *body = NULL, *document = NULL;
    if (verb) {
        body = json_object();
        json_t *tags = json_array();
        for (size_t i = 0; i < s->tags.count; i++)
            json_array_append_new(tags, json_string(s->tags.items[i]));
        if (s->name)
            json_object_set_new(body, "name", json_string(s->name));
        json_object_set_new(body, "tags", tags);
    }
    int status = fleet_ask(call, verb ? "POST" : "GET", path, body, NULL, &document);
    json_decref(body);
    if (status)
        return status;
    print_plain(call, document);
    if (!verb)
        print_plugins(call, document);
    cli_answer(call, document);
    return CLI_DONE;
}

/* --- tables of verbs ---------------------------------------------------------------------- */

#define LIMIT                                                                                      \
    {                                                                                              \
        .letter = 'n', .name = "limit", .kind = CLI_INT, .offset = AT(limit), .value = "N",        \
        .minimum = 1, .maximum = 100000, .preset = "50", .help = "at most so many, newest first"   \
    }
#define EXAMPLES (const struct cli_example[])
#define NONE                                                                                       \
    {                                                                                              \
        .name = NULL                                                                               \
    }

static const struct cli_option plain_options[] = {FLEET_OPTIONS, NONE};
static const struct cli_option devices_options[] = {
    FLEET_OPTIONS,
    {.name = "status",
     .kind = CLI_TEXT,
     .offset = AT(status),
     .value = "STATUS",
     .help = "only pending, approved or revoked ones"},
    NONE};
static const struct cli_option device_options[] = {
    FLEET_OPTIONS,
    {.name = "name",
     .kind = CLI_TEXT,
     .offset = AT(name),
     .value = "NAME",
     .help = "what people call it, given with approve"},
    {.name = "tag",
     .kind = CLI_LIST,
     .offset = AT(tags),
     .value = "TAG",
     .help = "to pick cohorts by, given with approve; may be repeated"},
    NONE};
static const struct cli_option models_options[] = {
    FLEET_OPTIONS,
    {.name = "name",
     .kind = CLI_TEXT,
     .offset = AT(name),
     .value = "NAME",
     .help = "name to register under (default: the file's)"},
    {.name = "kind",
     .kind = CLI_TEXT,
     .offset = AT(kind),
     .value = "KIND",
     .help = "base, profile or text (default: told from the content)"},
    NONE};
static const struct cli_option telemetry_options[] = {FLEET_OPTIONS,
                                                      {.name = "device",
                                                       .kind = CLI_TEXT,
                                                       .offset = AT(device),
                                                       .value = "DEVICE",
                                                       .help = "only of this device"},
                                                      {.name = "kind",
                                                       .kind = CLI_TEXT,
                                                       .offset = AT(kind),
                                                       .value = "KIND",
                                                       .help = "only of this kind"},
                                                      {.name = "since",
                                                       .kind = CLI_INT,
                                                       .offset = AT(since),
                                                       .value = "UNIX",
                                                       .help = "only later than this time"},
                                                      LIMIT,
                                                      NONE};
static const struct cli_option decisions_options[] = {FLEET_OPTIONS,
                                                      {.name = "subject",
                                                       .kind = CLI_TEXT,
                                                       .offset = AT(subject),
                                                       .value = "ID",
                                                       .help = "only of this rollout or device"},
                                                      LIMIT,
                                                      NONE};

static const struct cli_verb fleet_status = {
    .name = "status",
    .summary = "the controller itself",
    .options = plain_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = state,
    .examples = EXAMPLES{{"tare fleet status", "is it there, is the broker"}, {NULL, NULL}}};
static const struct cli_verb fleet_devices = {
    .name = "devices",
    .summary = "every device ever seen",
    .options = devices_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = devices,
    .examples = EXAMPLES{{"tare fleet devices --status pending", "who waits to be approved"},
                         {NULL, NULL}}};
static const struct cli_verb fleet_device = {
    .name = "device",
    .summary = "one device: show, approve, revoke",
    .operands = "ID [approve|revoke]",
    .operands_min = 1,
    .operands_max = 2,
    .options = device_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = device,
    .text =
        "ID is the device id, its name, or a unique beginning of the id. Compare the id with the\n"
        "one that `tared --id` prints on the device before you approve it.",
    .examples = EXAMPLES{
        {"tare fleet device 4f21", "what is known about it"},
        {"tare fleet device 4f21 approve --name gateway-7 --tag hall", "let it into the fleet"},
        {NULL, NULL}}};
static const struct cli_verb fleet_models = {
    .name = "models",
    .summary = "bases, profiles and texts: list or register",
    .operands = "[FILE...]",
    .operands_max = INT_MAX,
    .options = models_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = models,
    .examples =
        EXAMPLES{{"tare fleet models", "what is registered"},
                 {"tare fleet models base.gguf profile.gguf held-out.txt", "register three"},
                 {NULL, NULL}}};
static const struct cli_verb fleet_rollouts = {
    .name = "rollouts",
    .summary = "every rollout, newest first",
    .options = plain_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = rollouts,
    .examples = EXAMPLES{{"tare fleet rollouts", "what went out"}, {NULL, NULL}}};
static const struct cli_verb fleet_telemetry = {
    .name = "telemetry",
    .summary = "records that devices sent",
    .options = telemetry_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = telemetry,
    .examples = EXAMPLES{{"tare fleet telemetry --device gateway-7 -n 10", "its ten newest"},
                         {NULL, NULL}}};
static const struct cli_verb fleet_decisions = {
    .name = "decisions",
    .summary = "the trail: what was seen, which rule fired, what was sent",
    .options = decisions_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = decisions,
    .examples =
        EXAMPLES{{"tare fleet decisions --json", "all of it, with full texts"}, {NULL, NULL}}};
static const struct cli_verb fleet_calibration = {
    .name = "calibration",
    .summary = "per device: how far live traffic is from the variant's profile",
    .options = plain_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct list_settings),
    .run = calibration,
    .examples = EXAMPLES{{"tare fleet calibration", "has the workload moved"}, {NULL, NULL}}};

static const struct cli_verb *const verbs[] = {
    &fleet_status,      &fleet_devices,   &fleet_device, &fleet_models,    &fleet_deploy,
    &fleet_rollouts,    &fleet_rollout,   &fleet_bench,  &fleet_telemetry, &fleet_calibration,
    &fleet_recalibrate, &fleet_decisions, NULL};

const struct cli_verb cli_fleet = {.name = "fleet",
                                   .summary =
                                       "devices, rollouts and telemetry, through the controller",
                                   .verbs = verbs};
