/* fleet_bench.c: `tare fleet bench`: devices measure their variant where it serves. */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/fleet_http.h"
#include "cli/fleet_parts.h"
#include "cli/table.h"

enum { POLL_NS = 400000000 };

struct bench_settings {
    struct fleet_settings fleet;
    bool wait;
    int64_t timeout_s, prompt, generate, repeats;
};

#define AT(field) offsetof(struct bench_settings, field)

static void print_bench(const struct cli_call *call, const json_t *all)
{
    struct table t;
    size_t i, j;
    json_t *b, *row;
    table_open(&t, "device|state|model|plugin|path|test|>tok/s|>+-|>RSS|reason");
    json_array_foreach(all, i, b)
    {
        const json_t *result =
            json_object_get(b, "result") ? json_object_get(b, "result") : (const json_t *)b;
        const json_t *rows = json_object_get(result, "rows");
        char device[16], speed[32], spread[32], rss[32] = "";
        const char *name =
            fleet_text(b, "name")[0] ? fleet_text(b, "name") : fleet_short(b, "device", device);
        if (json_array_size(rows) == 0)
            table_row(&t, (const char *[]){name, fleet_text(b, "state"), "", "", "", "", "", "", "",
                                           fleet_text(result, "reason")});
        json_array_foreach(rows, j, row)
        {
            cli_bytes(json_number_value(json_object_get(row, "rss_bytes")), rss);
            table_row(
                &t, (const char *[]){name, fleet_text(b, "state"), fleet_text(result, "model_text"),
                                     fleet_text(row, "plugin"), fleet_text(row, "path"),
                                     fleet_text(row, "test"), fleet_number(row, "tok_s", 1, speed),
                                     fleet_number(row, "tok_s_deviation", 1, spread), rss, ""});
        }
    }
    table_close(&t, call);
}

/* Of the newest list, the entries whose id is in asked; *open counts those without an answer. */
static json_t *pick(const json_t *asked, const json_t *listed, size_t *open)
{
    json_t *out = json_array(), *a, *l;
    size_t i, j;
    *open = 0;
    json_array_foreach(asked, i, a)
    {
        json_t *found = a;
        json_array_foreach(
            listed, j, l) if (!strcmp(fleet_text(a, "id"), fleet_text(l, "id")) &&
                              !strcmp(fleet_text(a, "device"), fleet_text(l, "device"))) found = l;
        *open += !strcmp(fleet_text(found, "state"), "asked");
        json_array_append(out, found);
    }
    return out;
}

static int bench(struct cli_call *call)
{
    const struct bench_settings *s = call->settings;
    json_t *body = json_object(), *devices = json_array(), *document = NULL;
    for (int i = 0; i < call->operands; i++)
        json_array_append_new(devices, json_string(call->operand[i]));
    if (call->operands > 0)
        json_object_set(body, "devices", devices);
    json_decref(devices);
    json_object_set_new(body, "prompt_tokens", json_integer(s->prompt));
    json_object_set_new(body, "generate_tokens", json_integer(s->generate));
    json_object_set_new(body, "repeats", json_integer(s->repeats));
    int status = fleet_ask(call, "POST", "/api/1/bench", body, NULL, &document);
    json_decref(body);
    if (status)
        return status;
    json_t *asked = json_incref(json_object_get(document, "bench")), *now = json_incref(asked);
    size_t open = json_array_size(asked);
    time_t until = time(NULL) + (time_t)s->timeout_s;
    json_decref(document);
    while (s->wait && open > 0 && !status && time(NULL) < until) {
        json_t *newest = NULL;
        nanosleep(&(struct timespec){0, POLL_NS}, NULL);
        status = fleet_ask(call, "GET", "/api/1/bench?limit=1000", NULL, NULL, &newest);
        if (!status) {
            json_decref(now);
            now = pick(asked, json_object_get(newest, "bench"), &open);
        }
        json_decref(newest);
    }
    if (!status && s->wait && open > 0)
        status =
            cli_fail(call, CLI_FAILED, "bench", NULL, "%zu of %zu devices did not answer in %lld s",
                     open, json_array_size(asked), (long long)s->timeout_s);
    size_t i, failed = 0;
    json_t *one;
    json_array_foreach(now, i, one) failed +=
        !strcmp(fleet_text(one, "state"), "failed") || !strcmp(fleet_text(one, "state"), "expired");
    if (!status && failed > 0)
        status = cli_fail(call, CLI_FAILED, "bench", NULL, "%zu of %zu devices could not measure",
                          failed, json_array_size(asked));
    print_bench(call, now);
    cli_answer(call, json_pack("{s:o}", "bench", now));
    json_decref(asked);
    return status;
}

static const struct cli_option bench_options[] = {
    FLEET_OPTIONS,
    {.letter = 'p',
     .name = "prompt",
     .kind = CLI_INT,
     .offset = AT(prompt),
     .value = "N",
     .preset = "512",
     .maximum = 1 << 20,
     .help = "tokens of the prefill test; 0: none"},
    {.letter = 'n',
     .name = "generate",
     .kind = CLI_INT,
     .offset = AT(generate),
     .value = "N",
     .preset = "128",
     .maximum = 1 << 20,
     .help = "tokens of the decode test; 0: none"},
    {.letter = 'r',
     .name = "repeats",
     .kind = CLI_INT,
     .offset = AT(repeats),
     .value = "N",
     .preset = "5",
     .minimum = 1,
     .maximum = 1000,
     .help = "repetitions"},
    {.letter = 'w',
     .name = "wait",
     .kind = CLI_FLAG,
     .offset = AT(wait),
     .help = "wait for the results; exit 1 unless every device measured"},
    {.name = "timeout",
     .kind = CLI_INT,
     .offset = AT(timeout_s),
     .value = "SECONDS",
     .preset = "600",
     .minimum = 1,
     .maximum = 1e7,
     .help = "how long --wait waits"},
    {.name = NULL}};

const struct cli_verb fleet_bench = {
    .name = "bench",
    .summary = "ask devices to measure their variant",
    .operands = "[DEVICE...]",
    .operands_max = INT_MAX,
    .options = bench_options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct bench_settings),
    .run = bench,
    .examples = (const struct cli_example[]){
        {"tare fleet bench --wait", "prefill and decode of every approved device"},
        {"tare fleet bench gateway-7 -p 128 -n 32 -r 3 --wait", "one device, shorter"},
        {NULL, NULL}}};
