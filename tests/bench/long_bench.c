/* long_bench: one long text within a budget for keys and values: one JSON line.
 *
 *   long_bench MODEL TOKENS [CACHE_KIB [FOLDER [THREADS]]]
 *
 * CACHE_KIB 0: all in memory; FOLDER "-": what is beyond rests in host memory. The digest is of the logits of the
 * last token and of 16 more: with and without a budget it must be the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hal/engine.h"
#include "model/model.h"

enum { MORE = 16 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static long status_kib(const char *key)
{
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtol(line + strlen(key) + 1, NULL, 10);
    if (f)
        fclose(f);
    return kib;
}

static uint64_t digest(uint64_t hash, const float *x, uint32_t count) /* FNV-1a */
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    return hash;
}

static enum err run(struct model *m, uint32_t count, double *prefill_s, double *decode_s, uint64_t *hash)
{
    const uint32_t words = model_info(m)->vocabulary;
    uint32_t *token = malloc(count * sizeof *token);
    const float *row;
    enum err e = token ? ERR_NONE : ERR_MEMORY;
    for (uint32_t i = 0; i < count && !e; i++)
        token[i] = 3 + i * 2654435761u % (words - 3);
    double start = now();
    if (!e)
        e = model_prefill(m, 0, token, count - MORE);
    *prefill_s = now() - start;
    start = now();
    *hash = 0xcbf29ce484222325u;
    for (uint32_t i = count - MORE; !e; i++) {
        if (!(e = model_logits(m, 0, 1, &row)))
            *hash = digest(*hash, row, words);
        if (i == count || e)
            break;
        const struct model_run one = {0, 1, 1, token + i};
        e = model_step(m, &one, 1);
    }
    *decode_s = (now() - start) / MORE;
    free(token);
    return e;
}

int main(int argc, char **argv)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct engine *engine = NULL;
    struct gguf *g = NULL;
    struct model *m = NULL;
    double prefill_s = 0, decode_s = 0;
    uint64_t hash = 0, out = 0, back = 0;
    const uint32_t count = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    if (count <= MORE) {
        fprintf(stderr, "usage: long_bench MODEL TOKENS [CACHE_KIB [FOLDER [THREADS]]]\n");
        return 2;
    }
    const uint64_t kib = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    const struct engine_options how = {.folder = BUILD_DIR "/lib/tare/plugins",
                                       .threads = argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 0};
    const struct model_options options = {
        .context = count, .cache_bytes = kib << 10, .spill_folder = argc > 4 && strcmp(argv[4], "-") ? argv[4] : NULL};
    enum err e = engine_open(&how, &engine, NULL);
    const long before = status_kib("VmRSS");
    if (!e)
        e = gguf_open(argv[1], &g, reason);
    if (!e)
        e = model_open(g, engine, &options, &m, reason);
    if (!e)
        e = run(m, count, &prefill_s, &decode_s, &hash);
    if (e) {
        fprintf(stderr, "long_bench: %s %s\n", err_name(e), reason);
    } else {
        const struct model_info *i = model_info(m);
        model_turned(m, &out, &back);
        printf("{\"tokens\": %u, \"cache_kib\": %llu, \"outside_kib\": %llu, \"weights_kib\": %llu, \"arena_kib\": %llu, "
               "\"rss_before_kib\": %ld, \"rss_kib\": %ld, \"peak_kib\": %ld, \"prefill_tok_s\": %.0f, "
               "\"decode_ms\": %.2f, \"moved_out_mib\": %llu, \"moved_in_mib\": %llu, \"logits\": \"%016llx\"}\n",
               count, (unsigned long long)i->cache_bytes >> 10, (unsigned long long)i->cache_outside_bytes >> 10,
               (unsigned long long)i->weight_bytes >> 10, (unsigned long long)i->arena_bytes >> 10, before,
               status_kib("VmRSS"), status_kib("VmHWM"), (count - MORE) / prefill_s, decode_s * 1e3,
               (unsigned long long)out >> 20, (unsigned long long)back >> 20, (unsigned long long)hash);
    }
    model_close(m);
    gguf_close(g);
    engine_close(engine);
    return e != ERR_NONE;
}
