/* plugin_key.c: tare-plugin-key, the build's own tool: makes the key pair that plugins are signed
 * with, and signs them, as a kernel's build does for its modules. */
#include <stdio.h>
#include <string.h>

#include "protocol/minisign.h"

static int fail(const char *what, const char *path, enum err e)
{
    fprintf(stderr, "tare-plugin-key: %s %s: %s\n", what, path, err_name(e));
    return 1;
}

/* new KEY HEADER: make KEY unless it is there; write its public half as a C header. */
static int make_key(const char *key_path, const char *header_path)
{
    struct minisign_secret secret;
    struct minisign_public public;
    char text[MINISIGN_FILE_MAX];
    enum err e = minisign_secret_load(key_path, &secret);
    if (e == ERR_NOT_FOUND) {
        e = minisign_generate(&secret);
        if (e == ERR_NONE)
            e = minisign_secret_save(key_path, &secret, "plugins of this build of Tare");
    }
    if (e != ERR_NONE)
        return fail("key", key_path, e);
    minisign_public_of(&secret, &public);
    e = minisign_public_encode(&public, "plugins", text, sizeof text);
    if (e != ERR_NONE)
        return fail("public key of", key_path, e);
    char *line = strchr(text, '\n');
    if (line == NULL)
        return fail("public key of", key_path, ERR_FORMAT);
    line++;
    line[strcspn(line, "\n")] = '\0';
    FILE *file = fopen(header_path, "w");
    if (file == NULL)
        return fail("header", header_path, ERR_IO);
    int bad = fprintf(file,
                      "/* made by the build: who signs its plugins */\n"
                      "#define PLUGIN_KEY \"%s\"\n",
                      line) < 0;
    bad |= fclose(file) != 0;
    return bad ? fail("header", header_path, ERR_IO) : 0;
}

/* sign KEY FILE: FILE.minisign beside it. */
static int sign_file(const char *key_path, const char *path)
{
    struct minisign_secret secret;
    char signature_path[4096];
    const int length = snprintf(signature_path, sizeof signature_path, "%s.minisign", path);
    if (length < 0 || (size_t)length >= sizeof signature_path)
        return fail("path", path, ERR_ARGUMENT);
    enum err e = minisign_secret_load(key_path, &secret);
    if (e != ERR_NONE)
        return fail("key", key_path, e);
    e = minisign_file_sign(&secret, path, "Tare plugin", signature_path);
    return e != ERR_NONE ? fail("sign", path, e) : 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "new") == 0)
        return make_key(argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "sign") == 0)
        return sign_file(argv[2], argv[3]);
    fputs("usage: tare-plugin-key new KEY HEADER | tare-plugin-key sign KEY FILE\n", stderr);
    return 2;
}
