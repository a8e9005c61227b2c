/* catalogue.c: registered files. */
#include "controller/catalogue.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress/digest.h"
#include "controller/doc.h"
#include "model/gguf.h"
#include "protocol/text.h"

enum { SNIFF_BYTES = 4096, TEXT_MAX = 64 << 20 };

static void put_text(json_t *doc, const char *key, const struct gguf *g, const char *from)
{
    struct gguf_text text;
    char copy[128];
    if (gguf_string(g, from, &text) != ERR_NONE || text.bytes >= sizeof copy ||
        !text_is_utf8((const uint8_t *)text.text, text.bytes))
        return;
    memcpy(copy, text.text, text.bytes);
    copy[text.bytes] = '\0';
    doc_set_text(doc, key, copy);
}

static enum err examine_gguf(const char *path, json_t *doc, char why[CATALOGUE_WHY])
{
    struct gguf *g = NULL;
    struct gguf_text type = {"", 0};
    char reason[GGUF_REASON_BYTES] = "";
    enum err e = gguf_open(path, &g, reason);
    if (e) {
        snprintf(why, CATALOGUE_WHY, "%s", reason[0] ? reason : err_name(e));
        return e;
    }
    bool has_type = gguf_string(g, "general.type", &type) == ERR_NONE;
    if (has_type && type.bytes == 7 && memcmp(type.text, "imatrix", 7) == 0) {
        doc_set_text(doc, "kind", "profile");
        doc_set_int(doc, "entries", gguf_tensors(g) / 2);
        put_text(doc, "base", g, "tare.profile.base_sha256");
    } else {
        uint64_t parameters = 0;
        for (uint32_t i = 0; i < gguf_tensors(g); i++)
            parameters += gguf_tensor(g, i)->rows * gguf_tensor(g, i)->shape[0];
        doc_set_text(doc, "kind", "base");
        doc_set_int(doc, "tensors", gguf_tensors(g));
        doc_set_int(doc, "parameters", (int64_t)parameters);
        put_text(doc, "architecture", g, "general.architecture");
        put_text(doc, "title", g, "general.name");
        if (gguf_tensors(g) == 0 || !doc_text(doc, "architecture")[0]) {
            snprintf(why, CATALOGUE_WHY, "%s: expected a model: no tensors or no general.architecture",
                     path);
            e = ERR_FORMAT;
        }
    }
    gguf_close(g);
    return e;
}

static enum err examine_text(const char *path, uint64_t bytes, json_t *doc, char why[CATALOGUE_WHY])
{
    if (bytes == 0 || bytes > TEXT_MAX) {
        snprintf(why, CATALOGUE_WHY, "%s: expected a text of 1 byte to 64 MiB", path);
        return ERR_FORMAT;
    }
    char *text = malloc((size_t)bytes);
    FILE *f = fopen(path, "rbe");
    enum err e = !text ? ERR_MEMORY : !f ? ERR_IO : ERR_NONE;
    if (!e && fread(text, 1, (size_t)bytes, f) != bytes)
        e = ERR_IO;
    if (!e && !text_is_utf8((const uint8_t *)text, (size_t)bytes)) {
        snprintf(why, CATALOGUE_WHY, "%s: neither GGUF nor UTF-8 text", path);
        e = ERR_FORMAT;
    }
    if (f)
        fclose(f);
    free(text);
    if (!e)
        doc_set_text(doc, "kind", "text");
    return e;
}

static enum err sniff(const char *path, bool *is_gguf, char why[CATALOGUE_WHY])
{
    struct stat st;
    char magic[4] = "";
    if (path[0] != '/') {
        snprintf(why, CATALOGUE_WHY, "%s: expected an absolute path", path);
        return ERR_ARGUMENT;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        snprintf(why, CATALOGUE_WHY, "%.200s: %s", path,
                 fd < 0 ? strerror(errno) : "expected a regular file");
        if (fd >= 0)
            close(fd);
        return ERR_IO;
    }
    ssize_t n = read(fd, magic, sizeof magic);
    close(fd);
    *is_gguf = n == (ssize_t)sizeof magic && memcmp(magic, "GGUF", 4) == 0;
    return ERR_NONE;
}

enum err catalogue_examine(const char *path, const char *name, const char *kind, json_t **out,
                           char why[CATALOGUE_WHY])
{
    char digest[65];
    uint64_t bytes = 0;
    bool is_gguf = false;
    why[0] = '\0';
    enum err e = sniff(path, &is_gguf, why);
    if (e)
        return e;
    const char *slash = strrchr(path, '/');
    json_t *doc = json_pack("{s:s,s:s}", "path", path, "name", name[0] ? name : slash + 1);
    if (!doc) {
        snprintf(why, CATALOGUE_WHY, "path and name must be UTF-8");
        return ERR_FORMAT;
    }
    e = digest_file(path, digest, &bytes);
    if (!e) {
        doc_set_text(doc, "digest", digest);
        doc_set_int(doc, "bytes", (int64_t)bytes);
        e = is_gguf ? examine_gguf(path, doc, why) : examine_text(path, bytes, doc, why);
    }
    if (!e && kind[0] && strcmp(kind, doc_text(doc, "kind")) != 0) {
        snprintf(why, CATALOGUE_WHY, "%.200s: expected a %.20s, but this is a %s", path, kind,
                 doc_text(doc, "kind"));
        e = ERR_ARGUMENT;
    }
    if (e) {
        if (!why[0])
            snprintf(why, CATALOGUE_WHY, "%.200s: %s", path, err_name(e));
        json_decref(doc);
        return e;
    }
    *out = doc;
    return ERR_NONE;
}

enum err catalogue_add(struct registry_txn *t, json_t *file, int64_t now_s)
{
    doc_set_int(file, "registered", now_s);
    return registry_put_doc(t, REGISTRY_FILES, doc_text(file, "digest"), file);
}

enum err catalogue_find(struct registry_txn *t, const char *kind, const char *what, json_t **out)
{
    json_t *all = NULL, *best = NULL;
    size_t fitting = 0, i;
    json_t *file;
    enum err e = registry_list(t, REGISTRY_FILES, NULL, false, 0, &all);
    if (e)
        return e;
    size_t length = strlen(what);
    json_array_foreach(all, i, file)
    {
        const char *digest = doc_text(file, "digest");
        if (kind && strcmp(kind, doc_text(file, "kind")) != 0)
            continue;
        bool is_exact = strcmp(digest, what) == 0;
        bool is_start = length >= 8 && strncmp(digest, what, length) == 0;
        if (!is_exact && !is_start && strcmp(doc_text(file, "name"), what) != 0)
            continue;
        best = file;
        fitting++;
        if (is_exact) {
            fitting = 1;
            break;
        }
    }
    e = fitting == 1 ? ERR_NONE : fitting == 0 ? ERR_NOT_FOUND : ERR_ARGUMENT;
    if (!e)
        *out = json_incref(best);
    json_decref(all);
    return e;
}

enum err catalogue_path(const struct controller *c, const char *sha256, char out[CONTROLLER_PATH])
{
    int n = snprintf(out, CONTROLLER_PATH, "%s/artifacts/%.64s", c->settings.state, sha256);
    return n > 0 && n < CONTROLLER_PATH ? ERR_NONE : ERR_ARGUMENT;
}
