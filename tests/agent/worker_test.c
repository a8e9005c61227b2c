#include "harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/worker.h"
#include "agent_fixture.h"
#include "protocol/message.h"

/* The real tared-worker on the small model that the repository carries. */
#define MODEL SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf"

static struct fixture f;
static struct worker *worker;

static struct heard {
    bool ready, ended, failed, done, is_gone;
    char plugin[256]; /* what serves, and why others do not */
    char text[4096];
    size_t used;
    uint32_t tokens[256];
    uint32_t made, reason, cached;
    double logprob_sum;
    enum err error;
    struct wire last;
    uint8_t digest[32];
    uint32_t stats, sums;
    struct message_birth birth;
    struct message_result result;
} heard[8]; /* by id */

static void on_message(void *context, struct worker *w, const struct wire *m)
{
    struct heard *h = &heard[m->id & 7];
    const void *at;
    size_t bytes;
    (void)context;
    (void)w;
    switch (m->kind) {
    case WIRE_READY:
        h->ready = true;
        if (!wire_text(m, WIRE_K_PLUGIN, h->plugin, sizeof h->plugin))
            h->plugin[0] = 0;
        break;
    case WIRE_TOKEN:
        if (wire_view(m, WIRE_K_TOKENS, &at, &bytes) && bytes == 4 && h->made < 256)
            memcpy(&h->tokens[h->made++], at, 4);
        if (wire_view(m, WIRE_K_TEXT, &at, &bytes) && h->used + bytes < sizeof h->text) {
            memcpy(h->text + h->used, at, bytes);
            h->used += bytes;
        }
        if (wire_view(m, WIRE_K_TOP, &at, &bytes) && bytes >= 5) {
            float logprob;
            memcpy(&logprob, at, 4);
            h->logprob_sum += (double)logprob;
        }
        break;
    case WIRE_END:
        h->ended = true;
        h->reason = (uint32_t)wire_u64(m, WIRE_K_REASON, 0);
        h->cached = (uint32_t)wire_u64(m, WIRE_K_CACHED, 0);
        h->error = (enum err)wire_u64(m, WIRE_K_ERR, 0);
        break;
    case WIRE_STATS:
        h->stats++;
        if (wire_view(m, WIRE_K_SUMS, &at, &bytes)) {
            static struct message_sums s;
            memset(&s, 0, sizeof s);
            CU_ASSERT(message_sums_decode(at, bytes, &s) == ERR_NONE);
            h->sums += s.sums;
        }
        h->done = wire_u64(m, WIRE_K_LAST, 0) != 0;
        break;
    case WIRE_FAILED:
        h->failed = true;
        h->error = (enum err)wire_u64(m, WIRE_K_ERR, 0);
        wire_text(m, WIRE_K_TEXT, h->text, sizeof h->text);
        break;
    case WIRE_DONE:
        h->done = true;
        h->last = *m;
        if (wire_view(m, WIRE_K_DIGEST, &at, &bytes) && bytes == 32)
            memcpy(h->digest, at, 32);
        if (wire_view(m, WIRE_K_BIRTH, &at, &bytes))
            CU_ASSERT(message_birth_decode(at, bytes, &h->birth) == ERR_NONE);
        if (wire_view(m, WIRE_K_RESULT, &at, &bytes))
            CU_ASSERT(message_result_decode(at, bytes, &h->result) == ERR_NONE);
        break;
    default: break;
    }
}

static void on_ended(void *context, struct worker *w, enum worker_end end, const char *why)
{
    (void)context;
    (void)w;
    (void)end;
    (void)why;
    for (int i = 0; i < 8; i++)
        heard[i].is_gone = true;
}

static void begin(const struct wire *m)
{
    struct worker_options o = {
        .loop = f.loop, .settings = &f.settings, .name = "test", .message = on_message, .ended = on_ended};
    memset(heard, 0, sizeof heard);
    CU_ASSERT_FATAL(worker_open(&o, &worker) == ERR_NONE);
    CU_ASSERT_FATAL(worker_send(worker, m) == ERR_NONE);
}

static void end(void)
{
    worker_close(worker);
    worker = NULL;
}

static void open_all(void)
{
    fixture_open(&f);
    worker_set_program(BUILD_DIR "/bin/tared-worker");
    strcpy(f.settings.plugin, "scalar");
    f.settings.threads = 1;
}

static bool is_over(void *context)
{
    struct heard *h = context;
    return h->done || h->failed || h->ended || h->is_gone;
}

static bool is_ready(void *context)
{
    struct heard *h = context;
    return h->ready || h->failed || h->is_gone;
}

static void serve_keeping(uint32_t sequences, double rate, uint32_t keep)
{
    struct wire m;
    wire_init(&m, WIRE_SERVE, 0);
    wire_put_text(&m, WIRE_K_PATH, fixture_link(&f, MODEL));
    wire_put_u64(&m, WIRE_K_SEQUENCES, sequences);
    wire_put_u64(&m, WIRE_K_CONTEXT, 128);
    wire_put_f64(&m, WIRE_K_RATE, rate);
    wire_put_u64(&m, WIRE_K_KEEP, keep);
    begin(&m);
    CU_ASSERT(fixture_wait(&f, 30000, is_ready, &heard[0]));
    CU_ASSERT_FATAL(heard[0].ready);
    CU_ASSERT_EQUAL(strncmp(heard[0].plugin, "scalar c11", 10), 0);
}

static void serve(uint32_t sequences, double rate)
{
    serve_keeping(sequences, rate, 0);
}

static void ask(uint64_t id, const char *prompt, uint32_t most, const char *stop, const uint32_t *tokens, uint32_t made)
{
    struct wire m;
    wire_init(&m, WIRE_GENERATE, id);
    wire_put_bytes(&m, WIRE_K_PROMPT, prompt, strlen(prompt));
    wire_put_u64(&m, WIRE_K_GENERATE, most);
    wire_put_f64(&m, WIRE_K_TEMPERATURE, 0);
    wire_put_f64(&m, WIRE_K_TOP_P, 1);
    wire_put_u64(&m, WIRE_K_TOP, 2);
    if (stop)
        wire_put_bytes(&m, WIRE_K_STOP, stop, strlen(stop) + 1);
    if (made)
        wire_put_bytes(&m, WIRE_K_TOKENS, tokens, made * 4);
    CU_ASSERT_FATAL(worker_send(worker, &m) == ERR_NONE);
}

static void wait_for(uint64_t id)
{
    CU_ASSERT(fixture_wait(&f, 60000, is_over, &heard[id]));
    CU_ASSERT_EQUAL(heard[id].error, ERR_NONE);
}

/* What the calibration run found is kept beside the variant, used again, and measured anew when the settings
 * that it was for change. */
static void test_tuned(void)
{
    struct stat first, second, third;
    char kept[320], text[2048] = "";
    open_all();
    f.settings.threads = 0;
    serve(2, 0);
    end();
    snprintf(kept, sizeof kept, "%s.tune", fixture_link(&f, MODEL));
    CU_ASSERT_EQUAL_FATAL(stat(kept, &first), 0);
    FILE *file = fopen(kept, "r");
    CU_ASSERT_FATAL(file != NULL && fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    CU_ASSERT(strstr(text, "|scalar 1 c11 ") != NULL && strstr(text, "\nthreads ") != NULL);
    serve(2, 0);
    ask(1, "The city of", 4, NULL, NULL, 0);
    wait_for(1);
    end();
    CU_ASSERT_EQUAL(stat(kept, &second), 0);
    CU_ASSERT_EQUAL(first.st_ino, second.st_ino);
    serve(3, 0);
    end();
    CU_ASSERT_EQUAL(stat(kept, &third), 0);
    CU_ASSERT(third.st_ino != first.st_ino || third.st_mtim.tv_nsec != first.st_mtim.tv_nsec);
    fixture_close(&f);
}

/* Together or alone, whole or continued: the same tokens. */
static void test_generate(void)
{
    static const char *const prompts[] = {"The city of", "Once upon a time there was a", "He said"};
    struct heard alone[3], whole;
    open_all();
    serve(3, 0);
    for (int i = 0; i < 3; i++) {
        memset(&heard[1], 0, sizeof heard[1]);
        ask(1, prompts[i], 16, NULL, NULL, 0);
        wait_for(1);
        CU_ASSERT(heard[1].made == 16 && heard[1].used > 10 && heard[1].reason == WIRE_LENGTH);
        CU_ASSERT(heard[1].logprob_sum < 0);
        alone[i] = heard[1];
    }
    for (uint32_t i = 0; i < 3; i++)
        ask(i + 2, prompts[i], 16, NULL, NULL, 0);
    for (uint32_t i = 0; i < 3; i++) {
        wait_for(i + 2);
        CU_ASSERT(heard[i + 2].made == 16 && !memcmp(heard[i + 2].tokens, alone[i].tokens, 64));
        CU_ASSERT(heard[i + 2].used == alone[i].used && !memcmp(heard[i + 2].text, alone[i].text, alone[i].used));
    }
    /* continued after 5 tokens by another worker: what is said joins what was said */
    whole = alone[1];
    memset(&heard[5], 0, sizeof heard[5]);
    ask(5, prompts[1], 16, NULL, whole.tokens, 5);
    wait_for(5);
    CU_ASSERT(heard[5].made == 11 && !memcmp(heard[5].tokens, whole.tokens + 5, 44));
    CU_ASSERT(heard[5].used < whole.used &&
              !memcmp(heard[5].text, whole.text + whole.used - heard[5].used, heard[5].used));
    /* a stop string: nothing of it or behind it is said */
    char stop[4] = {whole.text[6], whole.text[7], whole.text[8], 0};
    whole.text[whole.used] = 0;
    size_t before = (size_t)(strstr(whole.text, stop) - whole.text);
    memset(&heard[6], 0, sizeof heard[6]);
    ask(6, prompts[1], 16, stop, NULL, 0);
    wait_for(6);
    CU_ASSERT(heard[6].reason == WIRE_STOPPED && heard[6].used == before && !memcmp(heard[6].text, whole.text, before));
    /* a prompt beyond the context */
    char long_prompt[4000];
    memset(long_prompt, 'a', sizeof long_prompt);
    long_prompt[sizeof long_prompt - 1] = 0;
    ask(7, long_prompt, 4, NULL, NULL, 0);
    CU_ASSERT(fixture_wait(&f, 30000, is_over, &heard[7]));
    CU_ASSERT_EQUAL(heard[7].error, ERR_FULL);
    end();
    fixture_close(&f);
}

/* Asked anew: how it was answered, into out. */
static void ask_anew(const char *prompt, uint32_t most, struct heard *out)
{
    memset(&heard[1], 0, sizeof heard[1]);
    ask(1, prompt, most, NULL, NULL, 0);
    wait_for(1);
    *out = heard[1];
}

static bool is_same_answer(const struct heard *a, const struct heard *b)
{
    return a->made == b->made && !memcmp(a->tokens, b->tokens, a->made * 4) && a->logprob_sum == b->logprob_sum &&
           a->used == b->used && !memcmp(a->text, b->text, a->used);
}

/* What an earlier request left in the cache changes no answer. */
static void test_prefix(void)
{
    static const char *const prompts[] = {
        "Once upon a time there was a little girl who lived in a house near the sea. One day she",
        "Once upon a time there was a little girl who lived in a house near the sea. One day her dog",
        "Once upon a time there was a little girl who lived in a house near the",
        "Once upon a time there was a little boy"};
    struct heard alone[4], again, longer;
    char more[600];
    open_all();
    serve(1, 0);
    for (int i = 0; i < 4; i++) {
        ask_anew(prompts[i], 12, &alone[i]);
        CU_ASSERT(alone[i].made == 12 && alone[i].cached == 0); /* nothing is kept */
    }
    end();
    serve_keeping(2, 0, 2);
    for (int i = 0; i < 8; i++) { /* each begins as one before it does, in the middle of a page of 32 */
        ask_anew(prompts[i % 4], 12, &again);
        CU_ASSERT(is_same_answer(&again, &alone[i % 4]));
        CU_ASSERT((again.cached > 8) == (i > 0));
    }
    /* a chat goes on: all that was said is there, but the last token, which was never fed */
    snprintf(more, sizeof more, "%s%.*s", prompts[0], (int)alone[0].used, alone[0].text);
    ask_anew(prompts[0], 12, &again);
    ask_anew(more, 4, &longer);
    CU_ASSERT(longer.made == 4 && longer.cached >= 20);
    end();
    fixture_close(&f);
}

static void test_window(void)
{
    struct wire m;
    open_all();
    serve(1, 1);
    ask(1, "The city of", 4, NULL, NULL, 0);
    wait_for(1);
    wire_init(&m, WIRE_COLLECT, 0);
    CU_ASSERT(worker_send(worker, &m) == ERR_NONE);
    CU_ASSERT(fixture_wait(&f, 10000, is_over, &heard[0]));
    CU_ASSERT(heard[0].stats >= 1 && heard[0].sums >= 28); /* 7 linears in 4 layers */
    uint32_t first = heard[0].stats;
    heard[0].done = false;
    CU_ASSERT(worker_send(worker, &m) == ERR_NONE); /* a new window, nothing in it */
    CU_ASSERT(fixture_wait(&f, 10000, is_over, &heard[0]));
    CU_ASSERT_EQUAL(heard[0].stats, first + 1);
    end();
    fixture_close(&f);
}

static void task(struct wire *m)
{
    begin(m);
    CU_ASSERT(fixture_wait(&f, 90000, is_over, &heard[m->id]));
}

static void test_tasks(void)
{
    struct wire m;
    uint32_t tokens[12] = {1, 300, 400, 500, 310, 320, 330, 340, 350, 360, 370, 380};
    open_all();
    wire_init(&m, WIRE_PROBE, 1);
    task(&m);
    CU_ASSERT(heard[1].done && heard[1].birth.plugins >= 1 && heard[1].birth.probe.cores >= 1);
    CU_ASSERT_STRING_EQUAL(heard[1].birth.active_plugin, "scalar");
    end();
    wire_init(&m, WIRE_BENCH, 1);
    wire_put_text(&m, WIRE_K_PATH, MODEL);
    wire_put_u64(&m, WIRE_K_PROMPT, 8);
    wire_put_u64(&m, WIRE_K_GENERATE, 4);
    wire_put_u64(&m, WIRE_K_REPEAT, 2);
    task(&m);
    CU_ASSERT(heard[1].done && heard[1].result.rows == 2 && heard[1].result.row[0].tok_s > 0);
    CU_ASSERT_STRING_EQUAL(heard[1].result.row[1].test, "tg4");
    end();
    wire_init(&m, WIRE_SHADOW, 1); /* a model against itself */
    wire_put_text(&m, WIRE_K_BASE, MODEL);
    wire_put_text(&m, WIRE_K_PATH, MODEL);
    wire_put_bytes(&m, WIRE_K_TOKENS, tokens, sizeof tokens);
    wire_put_u64(&m, WIRE_K_PREFIX, 4);
    task(&m);
    CU_ASSERT(heard[1].done && wire_u64(&heard[1].last, WIRE_K_COUNT, 0) == 8);
    CU_ASSERT(wire_u64(&heard[1].last, WIRE_K_TOP1, 0) == 8 && wire_f64(&heard[1].last, WIRE_K_KLD, 1) < 1e-6);
    end();
    wire_init(&m, WIRE_SELFTEST, 1); /* without a text: speed and memory only */
    wire_put_text(&m, WIRE_K_BASE, MODEL);
    wire_put_text(&m, WIRE_K_PATH, MODEL);
    task(&m);
    CU_ASSERT(heard[1].done && wire_f64(&heard[1].last, WIRE_K_DECODE, 0) > 0);
    CU_ASSERT(wire_f64(&heard[1].last, WIRE_K_BPW, 0) > 15 && wire_u64(&heard[1].last, WIRE_K_RSS, 0) > 1 << 20);
    CU_ASSERT(wire_f64(&heard[1].last, WIRE_K_PPL, -1) == -1);
    end();
    wire_init(&m, WIRE_BENCH, 1);
    wire_put_text(&m, WIRE_K_PATH, SOURCE_DIR "/README.md");
    wire_put_u64(&m, WIRE_K_PROMPT, 8);
    task(&m);
    CU_ASSERT(heard[1].failed && heard[1].text[0] != 0);
    end();
    fixture_close(&f);
}

/* ---- fetch ---- */

RUN_SUITE("worker", {"probe, bench, shadow, test", test_tasks},
          {"generation", test_generate}, {"prefixes", test_prefix}, {"tuned", test_tuned},
          {"window of statistics", test_window})
