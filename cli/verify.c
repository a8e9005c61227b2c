/* verify.c: tare verify: is this file what the holder of the key signed? */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "protocol/keys.h"
#include "protocol/minisign.h"

struct verify_settings {
    const char *key;
    const char *signature;
};

static const struct cli_option options[] = {
    {.letter = 'k',
     .name = "key",
     .kind = CLI_TEXT,
     .value = "FILE.pub",
     .is_required = true,
     .offset = offsetof(struct verify_settings, key),
     .help = "the public key: a file, or its base64 line"},
    {.letter = 'x',
     .name = "signature",
     .kind = CLI_TEXT,
     .value = "FILE.minisig",
     .offset = offsetof(struct verify_settings, signature),
     .help = "default: the file's name with .minisig behind it"},
    {.name = NULL}};

static int load_key(struct cli_call *call, const char *key, struct minisign_public *out)
{
    if (minisign_public_decode(key, strlen(key), out) == ERR_NONE)
        return CLI_DONE;
    enum err e = minisign_public_load(key, out);
    if (e == ERR_NOT_FOUND)
        return cli_fail(call, CLI_INPUT, key, NULL, "neither a file nor a minisign public key");
    if (e)
        return cli_fail(call, (enum cli_status)cli_status_of(e), key, NULL,
                        "not a minisign public key: %s", cli_sentence(e));
    return CLI_DONE;
}

static int explain(struct cli_call *call, const char *path, const char *signature_path, enum err e)
{
    switch (e) {
    case ERR_SIGNATURE:
        return cli_fail(call, CLI_FAILED, path, NULL, "the signature does not verify");
    case ERR_NOT_FOUND:
        return cli_fail(call, CLI_INPUT, signature_path, NULL,
                        "absent, or made by another key, or %s is absent", path);
    case ERR_UNSUPPORTED:
        return cli_fail(
            call, CLI_INPUT, signature_path, NULL,
            "a legacy signature, not prehashed: expected one by tare sign or minisign -S");
    case ERR_FORMAT:
        return cli_fail(call, CLI_INPUT, signature_path, NULL, "not a minisign signature");
    default:
        return cli_fail(call, (enum cli_status)cli_status_of(e), path, NULL, "%s", cli_sentence(e));
    }
}

static int verify(struct cli_call *call)
{
    const struct verify_settings *s = call->settings;
    const char *path = call->operand[0];
    struct minisign_public key;
    struct minisign_signature signature;
    char signature_path[4096], id[KEYS_ID_HEX];
    int status = load_key(call, s->key, &key);
    if (status != CLI_DONE)
        return status;
    int n = s->signature ? snprintf(signature_path, sizeof signature_path, "%s", s->signature)
                         : snprintf(signature_path, sizeof signature_path, "%s.minisig", path);
    if (n < 0 || (size_t)n >= sizeof signature_path)
        return cli_fail(call, CLI_USAGE, path, NULL, "the name is too long");
    enum err e = minisign_file_verify(&key, path, signature_path, &signature);
    if (e)
        return explain(call, path, signature_path, e);
    keys_id_hex(key.public_key, id);
    cli_answer(call, json_pack("{s:s, s:s, s:s, s:b}", "file", path, "key", id, "trusted_comment",
                               signature.trusted_comment, "verified", 1));
    cli_print(call, "%s: verified, key %s\ntrusted comment: %s\n", path, id,
              signature.trusted_comment);
    return CLI_DONE;
}

static const struct cli_example examples[] = {
    {"tare verify -k targets.key.pub base.gguf", "checks base.gguf against base.gguf.minisig"},
    {NULL, NULL}};

const struct cli_verb cli_verify = {.name = "verify",
                                    .summary = "check a file's signature",
                                    .operands = "FILE",
                                    .operands_min = 1,
                                    .operands_max = 1,
                                    .options = options,
                                    .examples = examples,
                                    .shared = CLI_OUTPUT,
                                    .settings_bytes = sizeof(struct verify_settings),
                                    .run = verify};
