/* stub_worker.c: a worker without an engine, for tests of the agent: it answers each task at once, or as the
 * environment says: STUB_FETCH, STUB_VERIFY, STUB_DERIVE, STUB_SELFTEST, STUB_SERVE, STUB_BENCH, STUB_SHADOW =
 *   ok (default), fail, absent, damaged, crash, hang, garbage, memory
 * STUB_ONCE names a file: when it is there the answer is ok; else it is made, and the environment counts.
 * An answer to GENERATE is "w0 w1 w2 ...", one token per STUB_TOKEN_MS milliseconds, and goes on from the
 * tokens that it is given; STUB_DIE_AT=n crashes after token n.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/wire.h"
#include "protocol/message.h"

enum { PLACES = 8 };

static struct wire_channel channel;

static struct place {
    uint64_t id;
    uint32_t made, most;
} place[PLACES];

static void reply(const struct wire *m)
{
    if (wire_send(&channel, m))
        _exit(0);
}

static void fail(enum err e, const char *why)
{
    struct wire m;
    wire_init(&m, WIRE_FAILED, 1);
    wire_put_u64(&m, WIRE_K_ERR, e);
    wire_put_text(&m, WIRE_K_TEXT, why);
    reply(&m);
    _exit(0);
}

/* By a signal, without a sanitizer's report of it. */
static void die(void)
{
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

/* Does what the variable says, and returns only for "ok". */
static void behave(const char *variable)
{
    const char *mode = getenv(variable), *once = getenv("STUB_ONCE");
    if (!mode || !strcmp(mode, "ok"))
        return;
    if (once && access(once, F_OK) == 0)
        return;
    if (once)
        close(open(once, O_CREAT | O_WRONLY, 0600));
    if (!strcmp(mode, "fail"))
        fail(ERR_UNSUPPORTED, "the stub was told to fail");
    if (!strcmp(mode, "absent"))
        fail(ERR_NOT_FOUND, "the stub finds nothing");
    if (!strcmp(mode, "damaged"))
        fail(ERR_MISMATCH, "the stub sees damage");
    if (!strcmp(mode, "crash"))
        die();
    if (!strcmp(mode, "garbage"))
        if (write(channel.fd, "\x04\x00\x00\x00\xff\xff\xff\xff", 8) == 8)
            pause();
    if (!strcmp(mode, "memory"))
        _exit(ERR_MEMORY);
    for (;;)
        pause(); /* hang */
}

static void make_file(const char *path, uint64_t bytes)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        fail(ERR_IO, "the stub cannot write");
    close(fd);
}

static double number(const char *variable, double preset)
{
    const char *text = getenv(variable);
    return text ? strtod(text, NULL) : preset;
}

static void probe(void)
{
    static struct message_birth b;
    static uint8_t bytes[16384];
    size_t size;
    struct wire m;
    b.epoch = 1;
    memset(b.public_key, 1, 32);
    strcpy(b.agent_version, "stub");
    b.agent_number = 1;
    strcpy(b.probe.arch, "x86_64");
    strcpy(b.probe.cpu, "stub");
    b.probe.cores = 1;
    b.probe.memory_bytes = 1 << 30;
    strcpy(b.plugin[0].name, "scalar");
    b.plugin[0].abi = 1;
    b.plugin[0].score = 1;
    b.plugins = 1;
    strcpy(b.active_plugin, "scalar");
    if (message_birth_encode(&b, bytes, sizeof bytes, &size))
        fail(ERR_FORMAT, "the stub's birth");
    wire_init(&m, WIRE_DONE, 1);
    wire_put_bytes(&m, WIRE_K_BIRTH, bytes, size);
    reply(&m);
}

static void bench(void)
{
    static struct message_result r;
    static uint8_t bytes[4096];
    size_t size;
    struct wire m;
    r.epoch = r.seq = 1;
    memset(r.id, 1, sizeof r.id);
    memset(r.model, 1, sizeof r.model);
    r.rows = 1;
    strcpy(r.row[0].test, "pp8");
    r.row[0].prompt = 8;
    r.row[0].threads = 1;
    r.row[0].repetitions = 1;
    r.row[0].tok_s = 42;
    if (message_result_encode(&r, bytes, sizeof bytes, &size))
        fail(ERR_FORMAT, "the stub's result");
    wire_init(&m, WIRE_DONE, 1);
    wire_put_bytes(&m, WIRE_K_RESULT, bytes, size);
    reply(&m);
}

static void stats(void)
{
    static struct message_sums s;
    static uint8_t bytes[4096];
    static const float squares[4] = {1, 2, 3, 4};
    size_t size;
    struct wire m;
    s.epoch = s.seq = s.window = s.tokens = s.from_ms = s.to_ms = 1;
    s.chunk = s.chunks = 1;
    memset(s.base, 1, 32);
    memset(s.variant, 1, 32);
    s.sums = 1;
    strcpy(s.sum[0].name, "blk.0.attn_q.weight");
    s.sum[0].channels = 4;
    s.sum[0].rows = 7;
    s.sum[0].squares = (struct message_blob){(const uint8_t *)squares, sizeof squares};
    if (message_sums_encode(&s, bytes, sizeof bytes, &size))
        fail(ERR_FORMAT, "the stub's sums");
    wire_init(&m, WIRE_STATS, 0);
    wire_put_u64(&m, WIRE_K_LAST, 1);
    wire_put_u64(&m, WIRE_K_COUNT, 7);
    wire_put_bytes(&m, WIRE_K_SUMS, bytes, size);
    reply(&m);
}

static void hear(const struct wire *m)
{
    const void *tokens;
    size_t bytes = 0;
    struct wire answer;
    if (m->kind == WIRE_COLLECT) {
        stats();
        return;
    }
    for (int i = 0; i < PLACES; i++) {
        if (m->kind == WIRE_CANCEL && place[i].id == m->id) {
            place[i].id = 0;
            const char *log = getenv("STUB_CANCELS");
            if (log)
                close(open(log, O_CREAT | O_WRONLY, 0600));
            return;
        }
        if (m->kind != WIRE_GENERATE || place[i].id)
            continue;
        wire_view(m, WIRE_K_TOKENS, &tokens, &bytes);
        place[i] = (struct place){
            .id = m->id, .made = (uint32_t)(bytes / 4), .most = (uint32_t)wire_u64(m, WIRE_K_GENERATE, 5)};
        return;
    }
    if (m->kind == WIRE_GENERATE) {
        wire_init(&answer, WIRE_END, m->id);
        wire_put_u64(&answer, WIRE_K_ERR, ERR_FULL);
        reply(&answer);
    }
}

static void make_tokens(void)
{
    static uint32_t total;
    uint32_t die_at = (uint32_t)number("STUB_DIE_AT", 0);
    const char *once = getenv("STUB_ONCE");
    struct wire m;
    char text[32];
    for (int i = 0; i < PLACES; i++) {
        struct place *p = &place[i];
        if (!p->id)
            continue;
        if (p->made < p->most) {
            snprintf(text, sizeof text, "w%u ", p->made);
            wire_init(&m, WIRE_TOKEN, p->id);
            wire_put_bytes(&m, WIRE_K_TOKENS, &p->made, 4);
            wire_put_bytes(&m, WIRE_K_TEXT, text, strlen(text));
            reply(&m);
            p->made++;
            if (++total == die_at && !(once && access(once, F_OK) == 0)) {
                if (once)
                    close(open(once, O_CREAT | O_WRONLY, 0600));
                die();
            }
            continue;
        }
        wire_init(&m, WIRE_END, p->id);
        wire_put_u64(&m, WIRE_K_REASON, WIRE_LENGTH);
        wire_put_u64(&m, WIRE_K_PROMPT, 3);
        wire_put_u64(&m, WIRE_K_PREFILL_US, 1000);
        wire_put_u64(&m, WIRE_K_DECODE_US, 1000);
        reply(&m);
        p->id = 0;
    }
}

static void serve(void)
{
    struct wire m;
    wire_init(&m, WIRE_READY, 0);
    reply(&m);
    for (;;) {
        bool busy = false;
        for (int i = 0; i < PLACES; i++)
            busy |= place[i].id != 0;
        struct pollfd p = {.fd = channel.fd, .events = POLLIN};
        if (poll(&p, 1, busy ? (int)number("STUB_TOKEN_MS", 1) : -1) > 0 && wire_fill(&channel))
            _exit(0);
        while (wire_next(&channel, &m) == ERR_NONE)
            hear(&m);
        make_tokens();
    }
}

int main(void)
{
    struct wire m;
    char path[1024];
    uint8_t digest[32];
    wire_channel_open(&channel, 3);
    for (int i = 0; i < 2; i++)
        while (wire_next(&channel, &m) != ERR_NONE)
            if (wire_fill(&channel))
                return 0;
    if (!wire_text(&m, WIRE_K_PATH, path, sizeof path))
        return 1;
    struct wire done;
    wire_init(&done, WIRE_DONE, 1);
    switch (m.kind) {
    case WIRE_PROBE: behave("STUB_PROBE"); probe(); return 0;
    case WIRE_FETCH:
        behave("STUB_FETCH");
        make_file(path, wire_u64(&m, WIRE_K_BYTES, 0));
        break;
    case WIRE_VERIFY: behave("STUB_VERIFY"); break;
    case WIRE_DERIVE:
        behave("STUB_DERIVE");
        make_file(path, 5);
        memset(digest, (int)number("STUB_DIGEST", 0x44), sizeof digest);
        wire_put_bytes(&done, WIRE_K_DIGEST, digest, sizeof digest);
        wire_put_u64(&done, WIRE_K_BYTES, 5);
        wire_put_f64(&done, WIRE_K_SECONDS, 0.5);
        break;
    case WIRE_SELFTEST:
        behave("STUB_SELFTEST");
        wire_put_f64(&done, WIRE_K_PPL, 10.1);
        wire_put_f64(&done, WIRE_K_PPL_BASE, 10);
        wire_put_f64(&done, WIRE_K_KLD, number("STUB_KLD", 0.01));
        wire_put_f64(&done, WIRE_K_KLD_99, 0.1);
        wire_put_f64(&done, WIRE_K_KLD_MAX, 0.2);
        wire_put_f64(&done, WIRE_K_TOP1, 0.98);
        wire_put_f64(&done, WIRE_K_DECODE, number("STUB_DECODE", 50));
        wire_put_f64(&done, WIRE_K_PREFILL, 500);
        wire_put_u64(&done, WIRE_K_RSS, 1 << 20);
        wire_put_f64(&done, WIRE_K_BPW, 4.5);
        wire_put_text(&done, WIRE_K_PLUGIN, "scalar");
        if (getenv("STUB_GATE")) {
            wire_put_u64(&done, WIRE_K_GATE, (uint64_t)number("STUB_GATE", 0));
            wire_put_text(&done, WIRE_K_TEXT, "worst_kld_mean is 0.3 in zh, the limit is 0.1");
        }
        break;
    case WIRE_BENCH: behave("STUB_BENCH"); bench(); return 0;
    case WIRE_SHADOW:
        behave("STUB_SHADOW");
        wire_put_f64(&done, WIRE_K_KLD, 0.5);
        wire_put_f64(&done, WIRE_K_KLD_MAX, 0.2);
        wire_put_u64(&done, WIRE_K_TOP1, 9);
        wire_put_u64(&done, WIRE_K_COUNT, 10);
        break;
    case WIRE_SERVE: behave("STUB_SERVE"); serve(); return 0;
    default: fail(ERR_UNSUPPORTED, "an unknown task");
    }
    reply(&done);
    return 0;
}
