/* worker_probe.c: what machine this is and which plugins serve: the part of a birth that only a worker can
 * know. */
#include "agent/worker_parts.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "compress/digest.h"
#include "hal/ceiling.h"
#include "hal/device.h"
#include "hal/select.h"
#include "protocol/hex.h"
#include "protocol/message.h"

enum { MEASURE_MS = 80, STREAM_BYTES = 64 << 20, STREAM_LEAST = 4 << 20, BIRTH_BYTES = 32 << 10 };

static void digest_of(const char *file, uint8_t digest[32])
{
    char hex[DIGEST_HEX];
    if (!file[0] || digest_file(file, hex, NULL) || hex_decode(hex, DIGEST_HEX - 1, digest, DIGEST_BYTES))
        memset(digest, 0, DIGEST_BYTES);
}

static void set_text(char *out, size_t capacity, const char *text)
{
    size_t bytes = strlen(text); /* names for people: cut where they must be */
    if (bytes > capacity - 1)
        bytes = capacity - 1;
    memcpy(out, text, bytes);
    out[bytes] = 0;
}

/* What is short of memory is measured on less of it. */
static enum err measure(uint32_t threads, struct ceiling *out)
{
    enum err e;
    size_t bytes = STREAM_BYTES;
    while ((e = ceiling_measure(threads, bytes, MEASURE_MS, out)) == ERR_MEMORY && bytes > STREAM_LEAST)
        bytes /= 2;
    return e;
}

static void fill_probe(struct worker_self *w, struct message_probe *p)
{
    struct device_info info;
    struct ceiling speed;
    if (device_probe(NULL, &info))
        return;
    set_text(p->arch, sizeof p->arch, info.machine);
    set_text(p->cpu, sizeof p->cpu, info.cpu);
    device_features(info.features, p->features, sizeof p->features);
    for (char *c = p->features; *c; c++)
        *c = *c == ',' ? ' ' : *c;
    p->cores = info.cores;
    p->memory_bytes = info.limit_bytes ? info.limit_bytes : info.memory_bytes;
    p->has_temperature = info.has_temperature != 0;
    p->has_energy = info.has_energy != 0;
    worker_beat(w, 0, 0);
    if (measure(w->threads ? w->threads : info.threads, &speed) == ERR_NONE) {
        p->read_gb_s = (float)speed.read_gbs;
        p->int8_gops = (float)speed.int8_gops;
    }
}

static void fill_plugins(struct worker_self *w, struct message_birth *b)
{
    static struct select_plugin found[SELECT_PLUGINS_MAX];
    struct select_options o = {.folder = w->folder[0] ? w->folder : NULL,
                               .path = w->path[0] ? w->path : NULL,
                               .load = {.keys = w->key_count ? w->key : NULL, .key_count = w->key_count}};
    uint32_t count = 0;
    if (select_list(&o, found, &count))
        worker_log(4, "the folder of plugins cannot be read");
    for (uint32_t i = 0; i < count && i < MESSAGE_PLUGINS_MAX; i++) {
        const struct select_plugin *f = &found[i];
        struct message_plugin *p = &b->plugin[b->plugins++];
        set_text(p->name, sizeof p->name, f->name);
        set_text(p->version, sizeof p->version, f->version);
        set_text(p->path, sizeof p->path, f->caps.path);
        set_text(p->reason, sizeof p->reason, f->reason);
        p->abi = f->abi;
        p->score = f->caps.score;
        p->is_refused = !f->is_serving;
        digest_of(f->file, p->digest);
        bool is_ours = !w->plugin[0] || strcmp(w->plugin, f->name) == 0;
        if (f->is_serving && is_ours && !b->active_plugin[0])
            set_text(b->active_plugin, sizeof b->active_plugin, f->name);
    }
}

void worker_probe(struct worker_self *w)
{
    static struct message_birth b;
    static uint8_t bytes[BIRTH_BYTES];
    size_t size;
    struct wire m;
    /* The agent says who it is; a decoder wants these not to be zero. */
    b.epoch = 1;
    memset(b.public_key, 1, sizeof b.public_key);
    set_text(b.agent_version, sizeof b.agent_version, AGENT_VERSION);
    b.agent_number = AGENT_NUMBER;
    fill_probe(w, &b.probe);
    worker_beat(w, 0, 0);
    fill_plugins(w, &b);
    enum err e = message_birth_encode(&b, bytes, sizeof bytes, &size);
    if (e) {
        worker_fail(w, e, "the probe cannot be written");
        return;
    }
    wire_init(&m, WIRE_DONE, w->id);
    wire_put_bytes(&m, WIRE_K_BIRTH, bytes, size);
    worker_reply(w, &m);
}
