/* sign.c: tare sign: a signature beside each file, as minisign makes them. */
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/files.h"
#include "protocol/keys.h"
#include "protocol/minisign.h"

struct sign_settings {
    const char *key;
    const char *comment;
};

static const struct cli_option options[] = {
    {.letter = 'k',
     .name = "key",
     .kind = CLI_TEXT,
     .value = "FILE.key",
     .is_required = true,
     .offset = offsetof(struct sign_settings, key),
     .help = "the secret key"},
    {.name = "comment",
     .kind = CLI_TEXT,
     .value = "TEXT",
     .offset = offsetof(struct sign_settings, comment),
     .help = "trusted comment; default: time and file name"},
    {.name = NULL}};

static int load_key(struct cli_call *call, const char *path, struct minisign_secret *out)
{
    switch (minisign_secret_load(path, out)) {
    case ERR_NONE: return CLI_DONE;
    case ERR_NOT_FOUND: return cli_fail(call, CLI_INPUT, path, NULL, "there is no such file");
    case ERR_ARGUMENT:
        return cli_fail(call, CLI_INPUT, path, NULL, "others may read it: expected mode 0600");
    case ERR_UNSUPPORTED:
        return cli_fail(call, CLI_INPUT, path, NULL,
                        "an encrypted key: expected one made by tare keygen or minisign -G -W");
    case ERR_IO: return cli_fail(call, CLI_ENVIRONMENT, path, NULL, "cannot be read");
    default: return cli_fail(call, CLI_INPUT, path, NULL, "not a minisign secret key");
    }
}

static int sign(struct cli_call *call)
{
    const struct sign_settings *s = call->settings;
    struct minisign_secret key;
    int status = load_key(call, s->key, &key);
    json_t *made = json_array();
    for (int i = 0; status == CLI_DONE && i < call->operands; i++) {
        char path[4096];
        int n = snprintf(path, sizeof path, "%s.minisig", call->operand[i]);
        struct files files = {0};
        files_read(&files, s->key);
        files_read(&files, call->operand[i]);
        if (n > 0 && (size_t)n < sizeof path && access(call->operand[i], F_OK) == 0 &&
            (status = files_write(&files, call, NULL, path)) != CLI_DONE) {
            files_close(&files);
            break;
        }
        enum err e = n < 0 || (size_t)n >= sizeof path
                         ? ERR_ARGUMENT
                         : minisign_file_sign(&key, call->operand[i], s->comment, path);
        if (e == ERR_ARGUMENT)
            status = cli_fail(call, CLI_USAGE, call->operand[i], "--comment",
                              "expected one line of fewer than %d bytes", MINISIGN_COMMENT_MAX);
        else if (e)
            status = cli_fail(call, (enum cli_status)cli_status_of(e), call->operand[i], NULL, "%s",
                              cli_sentence(e));
        files_close(&files);
        if (e)
            break;
        json_array_append_new(made, json_string(path));
        cli_print(call, "%s\n", path);
    }
    volatile uint8_t *wipe = (volatile uint8_t *)&key;
    for (size_t i = 0; i < sizeof key; i++)
        wipe[i] = 0;
    if (status != CLI_DONE) {
        json_decref(made);
        return status;
    }
    cli_answer(call, json_pack("{s:o}", "signatures", made));
    return CLI_DONE;
}

static const struct cli_example examples[] = {
    {"tare sign -k targets.key base.gguf", "writes base.gguf.minisig"},
    {"tare sign -k targets.key vnni.so --comment 'role=targets version=3'", NULL},
    {NULL, NULL}};

const struct cli_verb cli_sign = {.name = "sign",
                                  .summary = "sign files; stock minisign -V accepts the signatures",
                                  .operands = "FILE...",
                                  .operands_min = 1,
                                  .operands_max = 4096,
                                  .options = options,
                                  .examples = examples,
                                  .shared = CLI_OUTPUT,
                                  .settings_bytes = sizeof(struct sign_settings),
                                  .run = sign};
