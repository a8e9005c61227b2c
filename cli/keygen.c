/* keygen.c: tare keygen: a new key pair, in the files that minisign reads. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/files.h"
#include "protocol/hex.h"
#include "protocol/keys.h"
#include "protocol/minisign.h"

struct keygen_settings {
    const char *out;
    const char *public_path;
    int role;
};

static const char *const roles[] = {"root", "targets", "director", "device"};

static const struct cli_option options[] = {
    {.letter = 'o',
     .name = "output",
     .kind = CLI_TEXT,
     .value = "FILE.key",
     .is_required = true,
     .offset = offsetof(struct keygen_settings, out),
     .help = "the secret key to write; never replaces a file"},
    {.name = "public",
     .kind = CLI_TEXT,
     .value = "FILE.pub",
     .offset = offsetof(struct keygen_settings, public_path),
     .help = "the public key to write; default: the secret key's name with .pub behind it"},
    {.name = "role",
     .kind = CLI_CHOICE,
     .value = "ROLE",
     .choices = "root|targets|director|device",
     .preset = "targets",
     .offset = offsetof(struct keygen_settings, role),
     .help = "what the key is for, written into its comment"},
    {.name = NULL}};

static int keygen(struct cli_call *call)
{
    const struct keygen_settings *s = call->settings;
    struct minisign_secret secret;
    struct minisign_public public;
    char public_path[4096], comment[64], id[KEYS_ID_HEX];
    int n = s->public_path ? snprintf(public_path, sizeof public_path, "%s", s->public_path)
                           : snprintf(public_path, sizeof public_path, "%s.pub", s->out);
    if (n < 0 || (size_t)n >= sizeof public_path)
        return cli_fail(call, CLI_USAGE, s->out, NULL, "the name is too long");
    struct files files = {0};
    int status = files_write(&files, call, "--output", s->out);
    if (status == CLI_DONE)
        status = files_write(&files, call, "--public", public_path);
    files_close(&files); /* made in one go: nothing to hold on to */
    if (status != CLI_DONE)
        return status;
    snprintf(comment, sizeof comment, "tare %s key", roles[s->role]);
    enum err e = minisign_generate(&secret);
    if (e)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL,
                        "the system has no source of randomness");
    minisign_public_of(&secret, &public);
    e = minisign_secret_save(s->out, &secret, comment);
    keys_id_hex(public.public_key, id);
    memset(&secret, 0, sizeof secret);
    if (e == ERR_FULL)
        return cli_fail(call, CLI_INPUT, s->out, NULL,
                        "exists already, and a key is never replaced");
    if (e)
        return cli_fail(call, CLI_ENVIRONMENT, s->out, NULL, "cannot be written: %s",
                        cli_sentence(e));
    if ((e = minisign_public_save(public_path, &public, comment)))
        return cli_fail(call, CLI_ENVIRONMENT, public_path, NULL, "cannot be written: %s",
                        cli_sentence(e));
    cli_answer(call, json_pack("{s:s, s:s, s:s, s:s}", "secret", s->out, "public", public_path,
                               "id", id, "role", roles[s->role]));
    cli_print(call, "%s\n%s\nid %s\n", s->out, public_path, id);
    return CLI_DONE;
}

static const struct cli_example examples[] = {
    {"tare keygen -o targets.key", "a key that signs bases and plugins"},
    {"tare keygen -o director.key --role director", "the controller's key"},
    {NULL, NULL}};

const struct cli_verb cli_keygen = {
    .name = "keygen",
    .summary = "make a key pair",
    .text =
        "The files are minisign's (unencrypted secret key, mode 0600). The id is the hash of the "
        "public key; of a device key it is the device id.",
    .options = options,
    .examples = examples,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct keygen_settings),
    .run = keygen};
