/* fleet_rollout.c: `tare fleet deploy|rollout|recalibrate`: what makes devices do something.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/fleet_http.h"
#include "cli/fleet_parts.h"
#include "cli/table.h"

enum { RECIPE_FILE_MAX = 1 << 18, PATH_BYTES = 1024, SEEN_BYTES = 64, POLL_MS = 400 };

struct rollout_settings {
    struct fleet_settings fleet;
    const char *model, *profile, *text, *name;
    struct cli_list devices, tags;
    bool approval, wait;
    int64_t timeout_s;
};

#define AT(field) offsetof(struct rollout_settings, field)

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static bool is_one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (!strcmp(word, *words))
            return true;
    return false;
}

/* --- one rollout -------------------------------------------------------------------------- */

static const char *device_name(const json_t *job)
{
    const char *name = fleet_text(job, "name");
    return name[0] ? name : fleet_text(job, "device");
}

static void print_rollout(const struct cli_call *call, const json_t *r)
{
    const char *reason = fleet_text(r, "reason"), *name = fleet_text(r, "name");
    cli_print(call, "rollout %s%s%s: %s%s%s\n", fleet_text(r, "id"), name[0] ? " " : "", name,
              fleet_text(r, "state"), reason[0] ? ", " : "", reason);
    struct table t;
    size_t i;
    json_t *d;
    table_open(&t, "device|>stage|phase|state|plugin|variant|>bpw|>dPPL %|>KLD|>decode tok/s|code");
    json_array_foreach(json_object_get(r, "devices"), i, d)
    {
        const json_t *m = json_object_get(d, "measured");
        char stage[32], variant[16], bpw[32], dppl[32], kld[32], decode[32];
        snprintf(stage, sizeof stage, "%lld",
                 (long long)json_integer_value(json_object_get(d, "stage")) + 1);
        table_row(&t,
                  (const char *[]){
                      device_name(d), stage, fleet_text(d, "phase"), fleet_text(d, "state"),
                      fleet_text(d, "plugin"), fleet_short(d, "variant", variant),
                      fleet_number(m, "bits_per_weight", 2, bpw),
                      fleet_number(m, "dppl_percent", 2, dppl), fleet_number(m, "kld_mean", 4, kld),
                      fleet_number(m, "decode_tok_s", 1, decode), fleet_text(d, "code")});
    }
    table_close(&t, call);
}

/* What was last said about each device, so that only changes are printed. */
struct seen {
    char (*state)[SEEN_BYTES];
    size_t devices;
    char rollout[SEEN_BYTES];
};

static void note_changes(const struct cli_call *call, struct seen *seen, const json_t *r)
{
    char now[SEEN_BYTES], clock[16];
    time_t t = time(NULL);
    struct tm at = {0};
    localtime_r(&t, &at);
    strftime(clock, sizeof clock, "%H:%M:%S", &at);
    const json_t *jobs = json_object_get(r, "devices");
    if (!seen->state && json_array_size(jobs) > 0) {
        seen->state = calloc(json_array_size(jobs), sizeof *seen->state);
        seen->devices = seen->state ? json_array_size(jobs) : 0;
    }
    size_t i;
    json_t *job;
    json_array_foreach(jobs, i, job)
    {
        const char *state = fleet_text(job, "state"), *code = fleet_text(job, "code");
        bool has_code = code[0] && strcmp(code, "ok") != 0;
        snprintf(now, sizeof now, "%.20s%s%.20s", state[0] ? state : fleet_text(job, "phase"),
                 has_code ? " " : "", has_code ? code : "");
        if (i >= seen->devices || !strcmp(now, seen->state[i]))
            continue;
        snprintf(seen->state[i], SEEN_BYTES, "%s", now);
        cli_note(call, "%s  %-12.32s %s%s%s\n", clock, device_name(job), now,
                 fleet_text(job, "reason")[0] ? ": " : "", fleet_text(job, "reason"));
    }
    snprintf(now, sizeof now, "%.20s, stage %d", fleet_text(r, "state"), fleet_stage(r));
    if (strcmp(now, seen->rollout) != 0)
        cli_note(call, "%s  rollout %s: %s%s%s\n", clock, fleet_text(r, "id"), now,
                 fleet_text(r, "reason")[0] ? ": " : "", fleet_text(r, "reason"));
    snprintf(seen->rollout, sizeof seen->rollout, "%s", now);
}

static int get_rollout(struct cli_call *call, const char *id, json_t **out)
{
    char path[PATH_BYTES], safe[256];
    snprintf(path, sizeof path, "/api/1/rollouts/%s", fleet_encode(id, safe, sizeof safe));
    return fleet_ask(call, "GET", path, NULL, NULL, out);
}

/* Follow a rollout to its end; CLI_FAILED when it did not reach every device. */
static int follow(struct cli_call *call, const char *rollout, int64_t timeout_s)
{
    static const char *const ends[] = {"done", "halted", "failed", "aborted", "reverted", NULL};
    struct seen seen = {0};
    char id[64];
    snprintf(id, sizeof id, "%s", rollout);
    time_t until = time(NULL) + (time_t)timeout_s;
    json_t *r = NULL;
    int status = get_rollout(call, id, &r);
    while (!status) {
        note_changes(call, &seen, r);
        if (is_one_of(fleet_text(r, "state"), ends) || time(NULL) >= until)
            break;
        json_decref(r);
        r = NULL;
        sleep_ms(POLL_MS);
        status = get_rollout(call, id, &r);
    }
    if (!status) {
        const char *state = fleet_text(r, "state");
        print_rollout(call, r);
        if (!is_one_of(state, ends))
            status = cli_fail(call, CLI_FAILED, "rollout", id, "is still %s after %lld s", state,
                              (long long)timeout_s);
        else if (strcmp(state, "done") != 0)
            status = cli_fail(call, CLI_FAILED, "rollout", id, "ended as %s: %s", state,
                              fleet_text(r, "reason"));
        cli_answer(call, r);
    }
    free(seen.state);
    return status;
}

static int rollout(struct cli_call *call)
{
    static const char *const verbs[] = {"pause", "resume", "abort", "revert", "approve", NULL};
    const struct rollout_settings *s = call->settings;
    char path[PATH_BYTES], id[256];
    json_t *r = NULL;
    int status;
    if (call->operands > 1) {
        if (!is_one_of(call->operand[1], verbs))
            return cli_fail(call, CLI_USAGE, NULL, NULL,
                            "a rollout takes pause, resume, abort, revert or approve, not '%s'",
                            call->operand[1]);
        snprintf(path, sizeof path, "/api/1/rollouts/%s/%s",
                 fleet_encode(call->operand[0], id, sizeof id), call->operand[1]);
        status = fleet_ask(call, "POST", path, NULL, NULL, &r);
    } else {
        status = s->wait ? CLI_DONE : get_rollout(call, call->operand[0], &r);
    }
    if (!status && s->wait) {
        json_decref(r);
        return follow(call, call->operand[0], s->timeout_s);
    }
    if (!status) {
        print_rollout(call, r);
        cli_answer(call, r);
    }
    return status;
}

/* --- deploy ------------------------------------------------------------------------------- */

static int read_recipe(struct cli_call *call, const char *path, char **out)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return cli_fail(call, CLI_INPUT, path, NULL, "the recipe cannot be read: %s",
                        strerror(errno));
    int status = CLI_DONE;
    char *text = malloc(RECIPE_FILE_MAX + 1);
    size_t size = text ? fread(text, 1, RECIPE_FILE_MAX + 1, file) : 0;
    if (!text)
        status = cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory for the recipe");
    else if (ferror(file))
        status =
            cli_fail(call, CLI_INPUT, path, NULL, "the recipe cannot be read: %s", strerror(errno));
    else if (size > RECIPE_FILE_MAX)
        status = cli_fail(call, CLI_INPUT, path, NULL,
                          "is larger than %d bytes, too much for a recipe", RECIPE_FILE_MAX);
    else if (memchr(text, 0, size))
        status =
            cli_fail(call, CLI_INPUT, path, NULL, "holds a zero byte, expected YAML or JSON text");
    fclose(file);
    if (status) {
        free(text);
        return status;
    }
    text[size] = 0;
    *out = text;
    return CLI_DONE;
}

static void set_text(json_t *body, const char *key, const char *value)
{
    if (value)
        json_object_set_new(body, key, json_string(value));
}

static void set_list(json_t *body, const char *key, const char *const *items, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_string(items[i]));
    if (count > 0)
        json_object_set_new(body, key, array);
    else
        json_decref(array);
}

static int deploy(struct cli_call *call)
{
    const struct rollout_settings *s = call->settings;
    char *recipe = NULL;
    int status = read_recipe(call, call->operand[0], &recipe);
    if (status)
        return status;
    json_t *body = json_object(), *text = json_string(recipe), *r = NULL;
    free(recipe);
    if (!text) {
        json_decref(body);
        return cli_fail(call, CLI_INPUT, call->operand[0], NULL, "is not UTF-8 text");
    }
    json_object_set_new(body, "recipe", text);
    set_text(body, "model", s->model);
    set_text(body, "profile", s->profile);
    set_text(body, "text", s->text);
    set_text(body, "name", s->name);
    set_list(body, "devices", s->devices.items, s->devices.count);
    set_list(body, "tags", s->tags.items, s->tags.count);
    json_object_set_new(body, "approval", json_boolean(s->approval));
    status = fleet_ask(call, "POST", "/api/1/rollouts", body, NULL, &r);
    json_decref(body);
    if (status)
        return status;
    if (s->wait) {
        char id[64];
        snprintf(id, sizeof id, "%s", fleet_text(r, "id"));
        json_decref(r);
        return follow(call, id, s->timeout_s);
    }
    cli_print(call, "rollout %s is %s; follow it: tare fleet rollout %s --wait\n",
              fleet_text(r, "id"), fleet_text(r, "state"), fleet_text(r, "id"));
    cli_answer(call, r);
    return CLI_DONE;
}

static int recalibrate(struct cli_call *call)
{
    const struct rollout_settings *s = call->settings;
    json_t *body = json_pack("{s:s}", "rollout", call->operand[0]), *r = NULL;
    if (!body)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "'%s' is no id", call->operand[0]);
    int status = fleet_ask(call, "POST", "/api/1/recalibrate", body, NULL, &r);
    json_decref(body);
    if (status)
        return status;
    char id[64];
    snprintf(id, sizeof id, "%s", fleet_text(r, "id"));
    if (s->wait) {
        json_decref(r);
        return follow(call, id, s->timeout_s);
    }
    cli_print(call, "rollout %s renews it\n", id);
    cli_answer(call, r);
    return CLI_DONE;
}

/* --- tables of verbs ---------------------------------------------------------------------- */

#define EXAMPLES (const struct cli_example[])
#define NONE                                                                                       \
    {                                                                                              \
        .name = NULL                                                                               \
    }
#define WAIT                                                                                       \
    {.letter = 'w',                                                                                \
     .name = "wait",                                                                               \
     .kind = CLI_FLAG,                                                                             \
     .offset = AT(wait),                                                                           \
     .help = "follow it to its end; exit 1 unless every device did it"},                           \
    {                                                                                              \
        .name = "timeout", .kind = CLI_INT, .offset = AT(timeout_s), .value = "SECONDS",           \
        .preset = "3600", .minimum = 1, .maximum = 1e7, .help = "how long --wait waits"            \
    }

static const struct cli_option deploy_options[] = {
    FLEET_OPTIONS,
    {.letter = 'm',
     .name = "model",
     .kind = CLI_TEXT,
     .offset = AT(model),
     .value = "BASE",
     .is_required = true,
     .help = "digest or name of a registered base"},
    {.name = "profile",
     .kind = CLI_TEXT,
     .offset = AT(profile),
     .value = "PROFILE",
     .help = "digest or name of a registered profile"},
    {.name = "text",
     .kind = CLI_TEXT,
     .offset = AT(text),
     .value = "TEXT",
     .help = "digest or name of the registered text that gates are measured on"},
    {.name = "name",
     .kind = CLI_TEXT,
     .offset = AT(name),
     .value = "NAME",
     .help = "what people call the rollout"},
    {.name = "device",
     .kind = CLI_LIST,
     .offset = AT(devices),
     .value = "DEVICE",
     .help = "only this device; may be repeated (default: all approved ones)"},
    {.name = "tag",
     .kind = CLI_LIST,
     .offset = AT(tags),
     .value = "TAG",
     .help = "only devices with this tag; may be repeated"},
    {.name = "approval",
     .kind = CLI_FLAG,
     .offset = AT(approval),
     .help = "prepare it and wait until it is approved"},
    WAIT,
    NONE};
static const struct cli_option rollout_options[] = {FLEET_OPTIONS, WAIT, NONE};
const struct cli_verb fleet_deploy = {
    .name = "deploy",
    .summary = "release a recipe in stages",
    .operands = "RECIPE.yaml",
    .operands_min = 1,
    .operands_max = 1,
    .options = deploy_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct rollout_settings),
    .run = deploy,
    .text =
        "The controller resolves the recipe into one signed plan per device, derives the variant "
        "once\n"
        "itself to know its digest, and offers it stage by stage. Each device measures its gates.",
    .examples =
        EXAMPLES{{"tare fleet deploy recipe.yaml --model base.gguf --text held-out.txt --wait",
                  "every approved device, followed to the end"},
                 {"tare fleet deploy recipe.yaml --model base.gguf --tag hall --approval",
                  "one cohort, after a second person has approved"},
                 {NULL, NULL}}};
const struct cli_verb fleet_rollout = {
    .name = "rollout",
    .summary = "one rollout: show, pause, resume, abort, revert",
    .operands = "ID [pause|resume|abort|revert|approve]",
    .operands_min = 1,
    .operands_max = 2,
    .options = rollout_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct rollout_settings),
    .run = rollout,
    .examples = EXAMPLES{{"tare fleet rollout 3", "every device of it, with what it measured"},
                         {"tare fleet rollout 3 revert --wait", "back to what ran before"},
                         {NULL, NULL}}};
const struct cli_verb fleet_recalibrate = {
    .name = "recalibrate",
    .summary = "merge a rollout's statistics and renew its variant now",
    .operands = "ROLLOUT",
    .operands_min = 1,
    .operands_max = 1,
    .options = rollout_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct rollout_settings),
    .run = recalibrate,
    .examples = EXAMPLES{{"tare fleet recalibrate 3 --wait", "do not wait for the drift rule"},
                         {NULL, NULL}}};
