/* tune_store.c: what was measured, in a text file that people can read. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "model/tune.h"

#define TUNE_HEAD "tare tune 1\n"
enum { FILE_BYTES = 4096, PATH_BYTES = 1024, DISTURBED_S = 600 };

void tune_key(const struct device_info *device, const struct engine *e, const char *identity,
              const struct tune_wish *wish, char key[TUNE_KEY_BYTES])
{
    char features[200];
    device_features(device->features, features, sizeof features);
    snprintf(key, TUNE_KEY_BYTES, "%s|%s|%s|%s|%u/%u cpus|quota %.2f|limit %llu|%s %s %s %u|%s|%u %u %u %u %u %u %u",
             device->machine, device->cpu, device->board, features, device->allowed_cpus, device->cpus,
             device->quota_cpus, (unsigned long long)device->limit_bytes, e->ops.name, e->ops.version, e->caps.path,
             e->host.threads, identity, wish->threads, wish->chunk, wish->cache, wish->context, wish->sequences,
             wish->prompt, wish->generate);
    for (char *c = key; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = '?';
}

enum err tune_save(const char *path, const char *key, const struct tune_choice *c)
{
    char temporary[PATH_BYTES];
    const int n = snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof temporary)
        return ERR_IO;
    FILE *f = fopen(temporary, "we");
    if (!f)
        return ERR_IO;
    fprintf(f, TUNE_HEAD "key %s\nthreads %u\nchunk %u\nprefill %.6g\ndecode %.6g\nseconds %.3f\nsamples %u\ndisturbed %d\n", key,
            c->threads, c->chunk, c->prefill_tok_s, c->decode_tok_s, c->seconds, c->samples, c->is_disturbed);
    const bool is_bad = fflush(f) != 0 || fsync(fileno(f)) != 0 || ferror(f) != 0;
    if (fclose(f) != 0 || is_bad || rename(temporary, path) != 0) {
        unlink(temporary);
        return ERR_IO;
    }
    return ERR_NONE;
}

/* The text after "name " at the start of a line. */
static const char *field(const char *text, const char *name)
{
    const size_t length = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            return line + length + 1;
    }
    return NULL;
}

static double number(const char *text, const char *name, double least, double most, bool *is_bad)
{
    const char *at = field(text, name);
    char *end = NULL;
    const double value = at ? strtod(at, &end) : 0;
    if (!at || end == at || *end != '\n' || !(value >= least && value <= most))
        *is_bad = true;
    return value;
}

enum err tune_load(const char *path, const char *key, struct tune_choice *choice)
{
    char text[FILE_BYTES];
    bool is_bad = false;
    struct stat st;
    FILE *f = fopen(path, "re");
    if (!f)
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    const size_t bytes = fread(text, 1, sizeof text - 1, f);
    const time_t now = time(NULL), then = fstat(fileno(f), &st) == 0 ? st.st_mtim.tv_sec : 0;
    fclose(f);
    text[bytes] = 0;
    const char *stored = field(text, "key");
    if (strncmp(text, TUNE_HEAD, strlen(TUNE_HEAD)) != 0 || !stored)
        return ERR_FORMAT;
    if (strncmp(stored, key, strlen(key)) != 0 || stored[strlen(key)] != '\n')
        return ERR_STALE;
    struct tune_choice c = *choice;
    c.threads = (uint32_t)number(text, "threads", 1, 4096, &is_bad);
    c.chunk = (uint32_t)number(text, "chunk", 1, 1 << 16, &is_bad);
    c.prefill_tok_s = number(text, "prefill", 0, 1e12, &is_bad);
    c.decode_tok_s = number(text, "decode", 0, 1e12, &is_bad);
    c.seconds = number(text, "seconds", 0, 1e6, &is_bad);
    c.samples = (uint32_t)number(text, "samples", 0, 1e6, &is_bad);
    c.is_disturbed = number(text, "disturbed", 0, 1, &is_bad) > 0;
    if (is_bad)
        return ERR_FORMAT;
    if (c.is_disturbed && (now < then || now - then > DISTURBED_S))
        return ERR_STALE;
    c.is_kept = true;
    if (c.chunk > choice->chunk)
        c.chunk = choice->chunk; /* memory is as it is today */
    tune_say(&c, "threads %u, chunk %u: as measured before, %.1f tok/s in, %.1f out", c.threads, c.chunk,
             c.prefill_tok_s, c.decode_tok_s);
    *choice = c;
    return ERR_NONE;
}
