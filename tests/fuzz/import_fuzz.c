/* import_fuzz.c: any folder: the importer refuses it with one line and leaves no file, or the file that it
 * wrote opens, and a model of it opens and steps, or is refused with one line.
 *
 * The input is config.json, tokenizer.json and model.safetensors behind each other, cut at "\n====\n"; a first
 * part that begins with "model" makes the second one tokenizer.model instead. With one cut only it is a llama2.c
 * checkpoint and its tokenizer. */
#include "tests/fuzz/fuzz.h"

#include <string.h>
#include <unistd.h>

#include "hal/engine.h"
#include "model/import.h"
#include "model/model.h"

#define CUT "\n====\n"

static char folder[] = "/tmp/import_fuzz.XXXXXX";
static struct engine *engine;

static const char *name_in(const char *name)
{
    static char path[4][128];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void clean(void)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer.model", "model.safetensors",
                                        "out.gguf", "out.gguf.part", "in.bin", "tok.bin"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(name_in(names[i]));
}

static void finish(void)
{
    clean();
    rmdir(folder);
    engine_close(engine);
}

static void start(void)
{
    const struct engine_options options = {.plugin = "scalar", .threads = 1, .budget_bytes = 64 << 20};
    HOLDS(mkdtemp(folder) != NULL);
    HOLDS(engine_open(&options, &engine, NULL) == ERR_NONE);
    atexit(finish);
}

static void put(const char *name, const uint8_t *bytes, size_t size)
{
    FILE *f = fopen(name_in(name), "wb");
    HOLDS(f != NULL);
    HOLDS(fwrite(bytes, 1, size, f) == size);
    fclose(f);
}

static bool is_line(const char *reason)
{
    return reason[0] && memchr(reason, 0, GGUF_REASON_BYTES) && !strchr(reason, '\n');
}

static void check_file(void)
{
    char reason[GGUF_REASON_BYTES];
    struct gguf *g = NULL;
    struct model *m = NULL;
    const struct model_options options = {.context = 8, .batch = 4};
    HOLDS(gguf_open(name_in("out.gguf"), &g, reason) == ERR_NONE);
    if (model_open(g, engine, &options, &m, reason) == ERR_NONE) {
        const uint32_t tokens[2] = {0, 0};
        const struct model_run run = {0, 1, 2, tokens};
        (void)!model_step(m, &run, 1);
        model_close(m);
    } else {
        HOLDS(is_line(reason));
    }
    gguf_close(g);
}

static void run(const struct import_options *options)
{
    char reason[GGUF_REASON_BYTES];
    struct import_report report;
    if (import_run(options, &report, reason) == ERR_NONE) {
        check_file();
    } else {
        HOLDS(is_line(reason));
        HOLDS(access(name_in("out.gguf"), F_OK) != 0);
    }
    clean();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!engine)
        start();
    const uint8_t *first = memmem(bytes, size, CUT, strlen(CUT));
    const uint8_t *from = first ? first + strlen(CUT) : bytes;
    const uint8_t *second = first ? memmem(from, (size_t)(bytes + size - from), CUT, strlen(CUT)) : NULL;
    if (!first)
        return 0;
    static char output[128];
    snprintf(output, sizeof output, "%s/out.gguf", folder);
    struct import_options options = {.input = folder, .output = output, .type = IMPORT_KEEP};
    if (!second) {
        static char input[128], tokenizer[128];
        put("in.bin", bytes, (size_t)(first - bytes));
        put("tok.bin", from, (size_t)(bytes + size - from));
        snprintf(input, sizeof input, "%s/in.bin", folder);
        snprintf(tokenizer, sizeof tokenizer, "%s/tok.bin", folder);
        options.input = input;
        options.tokenizer = tokenizer;
        run(&options);
        return 0;
    }
    const size_t mark = size > 5 && memcmp(bytes, "model", 5) == 0 ? 5 : 0;
    put("config.json", bytes + mark, (size_t)(first - bytes) - mark);
    put(mark ? "tokenizer.model" : "tokenizer.json", from, (size_t)(second - from));
    put("model.safetensors", second + strlen(CUT), (size_t)(bytes + size - second) - strlen(CUT));
    run(&options);
    return 0;
}
