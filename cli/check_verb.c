/* check_verb.c: `tare check`: every operation of a plugin against the scalar reference, and timed.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"
#include "hal/ceiling.h"
#include "hal/select.h"
#include "plugins/scalar/scalar.h"

struct check_settings {
    bool bench, quick;
    int64_t seed;
    const char *op;
};

#define AT(field) offsetof(struct check_settings, field)

static const struct cli_option options[] = {
    {.name = "bench", .kind = CLI_FLAG, .offset = AT(bench), .help = "then time it beside scalar"},
    {.name = "quick",
     .kind = CLI_FLAG,
     .offset = AT(quick),
     .help = "the few cases of a start-up, not all"},
    {.name = "op",
     .kind = CLI_TEXT,
     .value = "NAME",
     .offset = AT(op),
     .help = "only this operation: matmul, attend, encode, ..."},
    {.name = "seed",
     .kind = CLI_INT,
     .value = "N",
     .preset = "1",
     .minimum = 1,
     .maximum = 1e15,
     .offset = AT(seed),
     .help = "of the random inputs"},
    {.name = NULL}};

struct timings {
    struct table table;
    json_t *list;
    struct ceiling speed; /* measured in the same run; 0 when not */
};

/* The greater share of what memory or integer arithmetic could do. Products of integers are held against
 * vectors, and against tiles where they pass them; what stays in a cache may pass the memory's speed. */
static double share_of(const struct ceiling *c, const struct check_timing *t, const char **of)
{
    const double bytes = c->read_gbs > 0 ? t->gbs / c->read_gbs : 0;
    double ops = !strcmp(t->op, "matmul") && c->int8_gops > 0 ? t->gops / c->int8_gops : 0;
    *of = ops > bytes ? "int8" : "read";
    if (ops > 1 && c->tile_gops > 0) {
        ops = t->gops / c->tile_gops;
        *of = "tiles";
    }
    return ops > bytes || !strcmp(*of, "tiles") ? ops : bytes;
}

static void add_timing(void *context, const struct check_timing *t)
{
    struct timings *all = context;
    char ns[32], ratio[32], gops[32] = "", gbs[32], part[32] = "";
    snprintf(ns, sizeof ns, "%.1f", t->ns / 1e3);
    snprintf(ratio, sizeof ratio, "%.2f", t->reference_ns / t->ns);
    if (t->gops > 0)
        snprintf(gops, sizeof gops, "%.1f", t->gops);
    snprintf(gbs, sizeof gbs, "%.2f", t->gbs);
    const char *of = "read";
    const double share = share_of(&all->speed, t, &of);
    if (share > 1 && !strcmp(of, "read"))
        snprintf(part, sizeof part, "in cache");
    else if (share > 0)
        snprintf(part, sizeof part, "%.0f %% %s", 100 * share, of);
    table_row(&all->table, (const char *[]){t->op, t->shape, ns, ratio, gops, gbs, part});
    json_array_append_new(all->list,
                          json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:s}", "op", t->op, "shape",
                                    t->shape, "ns", t->ns, "reference_ns", t->reference_ns, "gops",
                                    t->gops, "gbs", t->gbs, "share", share, "of", of));
}

/* "scalar", "vnni" of the plugin folder, or a file. */
static int find_file(struct cli_call *call, char *path, size_t bytes)
{
    char folder[4000];
    const char *name = call->operand[0], *in = call->common.plugin_folder;
    if (strchr(name, '/') || strstr(name, ".so")) {
        snprintf(path, bytes, "%s", name);
        return CLI_DONE;
    }
    if (!in && load_folder(folder, sizeof folder))
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "the plugin folder is unknown");
    snprintf(path, bytes, "%s/%s.so", in ? in : folder, name);
    return CLI_DONE;
}

static int run_bench(struct cli_call *call, const struct hal_plugin *plugin,
                     const struct check_options *check, json_t *answer)
{
    struct timings all = {.list = json_array()};
    uint32_t threads = check->threads ? check->threads : 2;
    if (!ceiling_measure(threads, CHECK_STREAM_BYTES, 200, &all.speed))
        json_object_set_new(answer, "ceilings",
                            json_pack("{s:f, s:f, s:f, s:i, s:i}", "read_gbs", all.speed.read_gbs,
                                      "int8_gops", all.speed.int8_gops, "tile_gops",
                                      all.speed.tile_gops, "read_bytes", CHECK_STREAM_BYTES,
                                      "threads", (int)threads));
    table_open(&all.table, "operation|shape|>us|>x scalar|>GOPS|>GB/s|>of ceiling");
    enum err e = check_bench(plugin, check, add_timing, &all);
    table_close(&all.table, call);
    json_object_set_new(answer, "timings", all.list);
    if (!e)
        cli_print(call,
                  "ceilings, %u threads: int8 %.0f GOPS in vectors, %.0f in tiles; %d MiB read at %.1f "
                  "GB/s\n",
                  threads, all.speed.int8_gops, all.speed.tile_gops, CHECK_STREAM_BYTES >> 20,
                  all.speed.read_gbs);
    return e ? cli_fail(call, cli_status_of(e), plugin->name, NULL, "%s", cli_sentence(e))
             : CLI_DONE;
}

static int check_scalar(const struct check_options *check, struct select_plugin *p,
                        struct hal_plugin *table)
{
    struct check_report report;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "scalar");
    *table = scalar_plugin;
    p->error = check_plugin(table, check, &report);
    p->cases = report.cases;
    snprintf(p->reason, sizeof p->reason, "%s", report.text);
    return 0;
}

static int status_of(enum err e)
{
    if (e == ERR_MISMATCH || e == ERR_CRASHED || e == ERR_TIMEOUT)
        return CLI_FAILED;
    return e == ERR_UNSUPPORTED ? CLI_ENVIRONMENT : cli_status_of(e);
}

static int check(struct cli_call *call)
{
    const struct check_settings *s = call->settings;
    struct select_plugin p;
    struct hal_plugin table;
    struct cli_keys keys;
    char path[4096];
    int status = cli_plugin_keys(call, &keys);
    if (status || (status = find_file(call, path, sizeof path)))
        return status;
    const struct check_options options_of = {.seed = (uint64_t)s->seed,
                                             .is_quick = s->quick,
                                             .op = s->op,
                                             .path = call->common.path,
                                             .threads = (uint32_t)call->common.threads};
    const struct select_options select = {
        .path = call->common.path, .check = &options_of, .load = {keys.keys, keys.count, 0}};
    int is_scalar = !strcmp(call->operand[0], "scalar");
    if (is_scalar)
        check_scalar(&options_of, &p, &table);
    else
        p.error = select_first_contact(path, &select, &p);
    json_t *answer =
        json_pack("{s:s, s:i, s:b, s:s, s:s}", "plugin", p.name, "cases", (int)p.cases, "agrees",
                  p.error == ERR_NONE, "path", p.caps.path, "reason", p.reason);
    if (p.error) {
        cli_answer(call, answer);
        return cli_fail(call, status_of(p.error), p.name, NULL, "%s", p.reason);
    }
    cli_print(call, "%s: %u cases agree with scalar\n", p.name, p.cases);
    if (s->bench) {
        char reason[LOAD_REASON_BYTES];
        enum err e = is_scalar ? ERR_NONE : load_plugin(path, &select.load, &table, reason);
        status = e ? cli_fail(call, cli_status_of(e), p.name, NULL, "%s", reason)
                   : run_bench(call, &table, &options_of, answer);
    }
    cli_answer(call, answer);
    return status;
}

static const struct cli_example examples[] = {
    {"tare check vnni", "every case, on the best code path of this machine"},
    {"tare check build/lib/tare/plugins/vnni.so --path avx2 --op matmul",
     "one operation, lower path"},
    {"tare check vnni --bench", "and how fast, beside scalar and the memory's read speed"},
    {NULL, NULL}};

const struct cli_verb cli_check = {
    .name = "check",
    .operands = "PLUGIN|FILE.so",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "every operation of a plugin against the scalar reference",
    .text = "Runs in a child process: a plugin that crashes, hangs, writes out of bounds, leaks or "
            "differs fails with the line that reproduces it, and exit status 1.",
    .options = options,
    .examples = examples,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .settings_bytes = sizeof(struct check_settings),
    .run = check};
