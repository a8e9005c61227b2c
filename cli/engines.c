/* engines.c: the engine that the shared options ask for. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/engine.h"

static void log_line(int level, const char *message)
{
    if (level <= 4)
        fprintf(stderr, "tare: %s\n", message);
}

/* A key is a file in minisign's form (a comment, then the key) or the base64 line itself. */
static int read_key(struct cli_call *call, const char *text, char line[CLI_KEY_BYTES])
{
    FILE *file = fopen(text, "r");
    if (!file) {
        if (strlen(text) == 56 && !strchr(text, '/')) {
            snprintf(line, CLI_KEY_BYTES, "%s", text);
            return CLI_DONE;
        }
        return cli_fail(call, CLI_INPUT, text, NULL, "cannot be read as a minisign public key: %s",
                        strerror(errno));
    }
    int status = CLI_DONE;
    do {
        if (!fgets(line, CLI_KEY_BYTES, file))
            status = cli_fail(call, CLI_INPUT, text, NULL,
                              "is no minisign public key: no line with the key");
    } while (!status && !strncmp(line, "untrusted comment:", 18));
    line[strcspn(line, "\r\n")] = 0;
    fclose(file);
    return status;
}

int cli_plugin_keys(struct cli_call *call, struct cli_keys *out)
{
    const struct cli_list *given = &call->common.plugin_keys;
    out->count = 0;
    if (given->count > CLI_KEYS_MAX)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "--plugin-key may be given %d times",
                        CLI_KEYS_MAX);
    for (size_t i = 0; i < given->count; i++) {
        int status = read_key(call, given->items[i], out->lines[i]);
        if (status)
            return status;
        out->keys[out->count++] = out->lines[i];
    }
    return CLI_DONE;
}

int cli_engine_open(struct cli_call *call, struct engine **out)
{
    const struct cli_common *common = &call->common;
    struct cli_keys keys;
    int status = cli_plugin_keys(call, &keys);
    if (status)
        return status;
    struct engine_options options = {.plugin = common->plugin,
                                     .path = common->path,
                                     .threads = (uint32_t)common->threads,
                                     .folder = common->plugin_folder,
                                     .keys = keys.keys,
                                     .key_count = keys.count,
                                     .budget_bytes = (uint64_t)common->memory_bytes,
                                     .log = common->quiet ? NULL : log_line};
    struct engine_refusal refusal = {0};
    struct engine *engine = NULL;
    enum err e = engine_open(&options, &engine, &refusal);
    if (e)
        return cli_fail(call, CLI_ENVIRONMENT, common->plugin ? common->plugin : "plugins", NULL,
                        "%s", refusal.reason[0] ? refusal.reason : cli_sentence(e));
    *out = engine;
    return CLI_DONE;
}
