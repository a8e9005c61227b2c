/* plugins.c: `tare plugins`: what is in the plugin folder, what serves, and why the rest does not.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"
#include "hal/block.h"
#include "hal/fallback.h"
#include "hal/select.h"

static json_t *types_of(uint64_t types)
{
    json_t *list = json_array();
    uint32_t count;
    const struct block_type *const *all = block_types(&count);
    for (uint32_t i = 0; i < count; i++)
        if (types >> all[i]->type & 1u)
            json_array_append_new(list, json_string(all[i]->name));
    return list;
}

static json_t *on_cpu(uint32_t ops)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < FALLBACK_OPS; i++)
        if (ops >> i & 1u)
            json_array_append_new(list, json_string(fallback_name(i)));
    return list;
}

/* Where the operations of a plugin that serves are done. */
static void say_where(const struct select_plugin *p, char *out, size_t bytes)
{
    size_t at = 0;
    out[0] = 0;
    if (p->fallback_ops == 0 && p->is_serving)
        snprintf(out, bytes, "all");
    for (uint32_t i = 0; i < FALLBACK_OPS && p->is_serving && at < bytes; i++)
        if (p->fallback_ops >> i & 1u)
            at += (size_t)snprintf(out + at, bytes - at, "%s%s", at ? ", " : "all but ", fallback_name(i));
}

static json_t *describe(const struct select_plugin *p)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:b, s:i, s:i}", "name", p->name, "file", p->file,
                          "version", p->version, "serving", p->is_serving, "signed", p->is_signed,
                          "abi", (int)p->abi, "score", (int)p->caps.score);
    json_object_set_new(o, "device", json_string(p->caps.device));
    json_object_set_new(o, "path", json_string(p->caps.path));
    json_object_set_new(o, "paths", json_integer(p->caps.paths));
    json_object_set_new(o, "types", types_of(p->caps.types));
    json_object_set_new(o, "on_cpu", on_cpu(p->fallback_ops));
    json_object_set_new(o, "cases", json_integer(p->cases));
    json_object_set_new(o, "error", p->error ? json_string(err_name(p->error)) : json_null());
    json_object_set_new(o, "reason", json_string(p->reason));
    return o;
}

static int plugins(struct cli_call *call)
{
    struct select_plugin list[SELECT_PLUGINS_MAX];
    struct cli_keys keys;
    struct table t;
    uint32_t count = 0;
    int status = cli_plugin_keys(call, &keys);
    if (status)
        return status;
    const struct select_options options = {
        .folder = call->common.plugin_folder,
        .path = call->common.path,
        .only = call->common.plugin,
        .load = {keys.keys, keys.count, !call->common.plugin_folder && load_is_installed()}};
    enum err e = select_list(&options, list, &count);
    if (e)
        return cli_fail(call, CLI_ENVIRONMENT, options.folder, NULL, "%s", cli_sentence(e));
    json_t *all = json_array();
    table_open(&t, "plugin|version|>ABI|signed|>score|device|path|computes|serves");
    for (uint32_t i = 0; i < count; i++) {
        const struct select_plugin *p = &list[i];
        char abi[16], score[16], where[TABLE_CELL_MAX], serves[TABLE_CELL_MAX];
        say_where(p, where, sizeof where);
        snprintf(abi, sizeof abi, "%u", p->abi);
        snprintf(score, sizeof score, "%u", p->caps.score);
        snprintf(serves, sizeof serves, "%s%.80s",
                 p->is_serving ? "yes" : "no: ", p->is_serving ? "" : p->reason);
        table_row(&t, (const char *[]){p->name, p->version, p->abi ? abi : "",
                                       p->is_signed ? "yes" : "no", score, p->caps.device,
                                       p->caps.path, where, serves});
        json_array_append_new(all, describe(p));
    }
    table_close(&t, call);
    cli_answer(call, json_pack("{s:o}", "plugins", all));
    if (count == 0)
        return cli_fail(call, CLI_ENVIRONMENT, call->common.plugin, NULL, "no such plugin");
    return CLI_DONE;
}

static const struct cli_option options[] = {{.name = NULL}};

static const struct cli_example examples[] = {
    {"tare plugins", "every plugin found, best first, and why a refused one does not serve"},
    {"tare plugins --path avx2 --json", "what could serve on the code path avx2, for programs"},
    {NULL, NULL}};

const struct cli_verb cli_plugins = {
    .name = "plugins",
    .summary = "every plugin found: signature, ABI, score, device, why refused",
    .text = "Each plugin file is verified, loaded and checked against the scalar reference in a "
            "child process, as an agent does before it lets the plugin serve. Under `computes`: which "
            "operations it does itself; the others are done on the CPU.",
    .options = options,
    .examples = examples,
    .shared = CLI_ENGINE | CLI_OUTPUT,
    .run = plugins};
