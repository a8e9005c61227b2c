/* message_samples.c: examples for tests and for the corpus of the fuzz target. */
#include "tests/protocol/message_samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/job.h"

static const char device[] = "0123456789abcdef0123456789abcdef";

const char *const sample_name[SAMPLES + 1] = {"birth",   "death", "request", "answer", "ack",
                                              "command", "plan",  "job",     "batch",  "benchmark",
                                              "result",  "sums",  "record"};

static void fill(uint8_t *bytes, size_t size, uint8_t start)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(start + i);
}

#define FILL(field, start) fill((field), sizeof(field), (start))
#define TEXT(field, text) strcpy((field), (text))

static void make_birth(struct message_birth *m)
{
    *m = (struct message_birth){.epoch = 7, .agent_number = 1000, .plugins = 2, .slots = 1};
    FILL(m->public_key, 1);
    TEXT(m->agent_version, "0.1.0");
    TEXT(m->name, "gateway-7");
    m->probe = (struct message_probe){.cores = 4,
                                      .memory_bytes = UINT64_C(8) << 30,
                                      .disk_free_bytes = 123456789,
                                      .read_gb_s = 27.5f,
                                      .int8_gops = 468.1f,
                                      .has_energy = true};
    TEXT(m->probe.arch, "x86_64");
    TEXT(m->probe.cpu, "AMD EPYC 9R14");
    TEXT(m->probe.features, "avx2 avx512_vnni");
    m->plugin[0] = (struct message_plugin){.abi = 1, .score = 150};
    TEXT(m->plugin[0].name, "vnni");
    TEXT(m->plugin[0].version, "0.1.0");
    TEXT(m->plugin[0].path, "avx512-vnni");
    FILL(m->plugin[0].digest, 40);
    m->plugin[1] = (struct message_plugin){.abi = 2, .is_refused = true};
    TEXT(m->plugin[1].name, "cuda");
    TEXT(m->plugin[1].reason, "ABI 2, this agent has 1");
    TEXT(m->active_plugin, "vnni");
    m->slot[0] = (struct message_slot){.variant_bytes = 1000000, .is_active = true};
    FILL(m->slot[0].base, 3);
    FILL(m->slot[0].variant, 4);
    FILL(m->slot[0].plan_id, 5);
    m->job_state = JOB_COMMITTED;
    FILL(m->job_plan_id, 5);
    m->newest_plan = 12;
    m->time_ms = 1760000000000;
}

static void make_plan(struct message_sample *s, unsigned variant)
{
    struct message_plan *m = &s->as.plan;
    *m = (struct message_plan){.schema = MESSAGE_SCHEMA,
                               .criticals = 2,
                               .critical = {14, 19},
                               .version = 13,
                               .rollout = 5,
                               .stage = 2,
                               .not_before_ms = 1,
                               .not_after_ms = 1760000000000,
                               .min_agent = 1000,
                               .method = MESSAGE_METHOD_SEARCH,
                               .tensor = s->tensor,
                               .tensors = variant ? MESSAGE_TENSORS_MAX : 3,
                               .variant_bytes = 654321,
                               .trial_s = 30,
                               .trial_requests = 4,
                               .gates = {1.5f, 0.02f, 90.25f, 20.0f, 100.0f, 1 << 30},
                               .watch = {10, 100, 100000}};
    TEXT(m->fleet, "demo");
    memcpy(m->device, device, sizeof device);
    FILL(m->plan_id, 9);
    FILL(m->nonce, 17);
    FILL(m->recipe, 90);
    FILL(m->variant, 99);
    m->base.bytes = 49000000;
    FILL(m->base.digest, 60);
    TEXT(m->base.url, "/b/3c3d");
    FILL(m->profile.digest, 61);
    FILL(m->text.digest, 62);
    TEXT(m->plugin.name, "vnni");
    m->plugin.abi = 1;
    for (uint32_t i = 0; i < m->tensors; i++) {
        struct message_tensor *t = &s->tensor[i];
        memset(t, 0, sizeof *t);
        snprintf(t->name, sizeof t->name, "blk.%u.ffn_down.weight", i);
        t->type = i % 15;
        t->method = i % 3;
    }
}

static void make_record(struct message_record *m, unsigned variant)
{
    *m = (struct message_record){.kind = 1 + variant % 9, .time_ms = 1760000000000 + variant};
    if (variant % 2)
        FILL(m->variant, (uint8_t)variant);
    switch (m->kind) {
    case MESSAGE_RECORD_SKETCH:
        m->of.sketch.metric = MESSAGE_TTFT_US;
        for (uint64_t i = 0; i < 300; i++)
            sketch_add(&m->of.sketch.sketch, i * i * 31 + variant);
        break;
    case MESSAGE_RECORD_MEMORY: m->of.memory.rss_bytes = 1 << 28; break;
    case MESSAGE_RECORD_HEAT: m->of.heat.millicelsius = -1500; break;
    case MESSAGE_RECORD_ENERGY: m->of.energy.millijoules = 91234; break;
    case MESSAGE_RECORD_SHADOW:
        m->of.shadow.tokens = 40;
        m->of.shadow.kld_sum = 0.1;
        m->of.shadow.top1_same = 39;
        break;
    case MESSAGE_RECORD_ERROR: TEXT(m->of.error.text, "schlüssel fehlt"); break;
    case MESSAGE_RECORD_LOST:
        m->of.lost.from = 4;
        m->of.lost.to = 9;
        break;
    case MESSAGE_RECORD_EVENT: TEXT(m->of.event.name, "started"); break;
    default: break; /* a kind of the future, without a body that we know */
    }
}

static void make_batch(struct message_sample *s, unsigned variant)
{
    uint32_t n = 8 + variant;
    size_t used = 0;
    s->as.batch =
        (struct message_batch){.epoch = 3, .first = 100, .record = s->record, .records = n};
    for (uint32_t i = 0; i < n; i++) {
        struct message_record record;
        size_t size = 0;
        make_record(&record, i);
        if (message_record_encode(&record, s->room + used, sizeof s->room - used, &size) !=
            ERR_NONE)
            abort();
        s->record[i] = (struct message_blob){s->room + used, size};
        used += size;
    }
}

static void make_job(struct message_job *m)
{
    *m = (struct message_job){.epoch = 2,
                              .seq = 44,
                              .plan_version = 13,
                              .state = JOB_FAILED,
                              .attempt = 1,
                              .code = JOB_GATE_DPPL,
                              .err = ERR_GATE,
                              .progress_ppm = 1000000,
                              .measured = {.ppl = 12.5f, .dppl_percent = -0.25f, .rss_bytes = 5},
                              .time_ms = 1760000000001};
    FILL(m->plan_id, 9);
    TEXT(m->reason, "perplexity rose by 40 %, the limit is 1 %");
    TEXT(m->plugin, "scalar");
}

static void make_result(struct message_result *m)
{
    *m =
        (struct message_result){.epoch = 2, .seq = 3, .model_bytes = 5, .parameters = 6, .rows = 2};
    FILL(m->id, 1);
    TEXT(m->model_text, "llama 25M Q4_K");
    TEXT(m->row[0].test, "pp512");
    m->row[0].tok_s = 289.5f;
    TEXT(m->row[1].test, "tg128");
    m->row[1].tok_s = 104.0f;
    m->row[1].repetitions = 5;
}

static void make_sums(struct message_sample *s)
{
    static const float squares[3] = {0.0f, 1.5f, 3.0e30f};
    struct message_sums *m = &s->as.sums;
    *m = (struct message_sums){
        .epoch = 2, .seq = 1, .window = 1, .chunk = 1, .chunks = 2, .tokens = 4096, .sums = 1};
    FILL(m->base, 1);
    TEXT(m->sum[0].name, "blk.0.attn_q.weight");
    m->sum[0].channels = 288;
    m->sum[0].offset = 285;
    m->sum[0].rows = 4096;
    memcpy(s->room, squares, sizeof squares);
    m->sum[0].squares = (struct message_blob){s->room, sizeof squares};
}

void sample_make(int which, unsigned variant, struct message_sample *s)
{
    memset(&s->as, 0, sizeof s->as);
    switch (which) {
    case 0: make_birth(&s->as.birth); break;
    case 1: s->as.death = (struct message_death){.epoch = 7}; break;
    case 2: s->as.request = (struct message_request){MESSAGE_ASK_PLAN, 7, {1, 2, 3}, 12}; break;
    case 3:
        s->as.answer = (struct message_answer){{1, 2, 3}, 1760000000000, MESSAGE_APPROVED, 13};
        break;
    case 4: s->as.ack = (struct message_ack){7, {100, 4, 0, UINT64_MAX}, 1}; break;
    case 5:
        s->as.command = (struct message_command){.version = 3, .verb = MESSAGE_CANCEL, .id = 8};
        memcpy(s->as.command.device, device, sizeof device);
        FILL(s->as.command.plan_id, 9);
        TEXT(s->as.command.reason, "halted");
        break;
    case 6: make_plan(s, variant); break;
    case 7: make_job(&s->as.job); break;
    case 8: make_batch(s, variant); break;
    case 9:
        s->as.benchmark = (struct message_benchmark){.version = 4, .prompt = 512, .generate = 128};
        memcpy(s->as.benchmark.device, device, sizeof device);
        FILL(s->as.benchmark.id, 4);
        break;
    case 10: make_result(&s->as.result); break;
    case 11: make_sums(s); break;
    default: make_record(&s->as.record, variant);
    }
}

enum err sample_encode(int which, const struct message_sample *s, uint8_t *out, size_t capacity,
                       size_t *size)
{
    switch (which) {
    case 0: return message_birth_encode(&s->as.birth, out, capacity, size);
    case 1: return message_death_encode(&s->as.death, out, capacity, size);
    case 2: return message_request_encode(&s->as.request, out, capacity, size);
    case 3: return message_answer_encode(&s->as.answer, out, capacity, size);
    case 4: return message_ack_encode(&s->as.ack, out, capacity, size);
    case 5: return message_command_encode(&s->as.command, out, capacity, size);
    case 6: return message_plan_encode(&s->as.plan, out, capacity, size);
    case 7: return message_job_encode(&s->as.job, out, capacity, size);
    case 8: return message_batch_encode(&s->as.batch, out, capacity, size);
    case 9: return message_benchmark_encode(&s->as.benchmark, out, capacity, size);
    case 10: return message_result_encode(&s->as.result, out, capacity, size);
    case 11: return message_sums_encode(&s->as.sums, out, capacity, size);
    default: return message_record_encode(&s->as.record, out, capacity, size);
    }
}

enum err sample_decode(int which, const uint8_t *bytes, size_t size, struct message_sample *s)
{
    switch (which) {
    case 0: return message_birth_decode(bytes, size, &s->as.birth);
    case 1: return message_death_decode(bytes, size, &s->as.death);
    case 2: return message_request_decode(bytes, size, &s->as.request);
    case 3: return message_answer_decode(bytes, size, &s->as.answer);
    case 4: return message_ack_decode(bytes, size, &s->as.ack);
    case 5: return message_command_decode(bytes, size, &s->as.command);
    case 6:
        s->as.plan.tensor = s->tensor;
        s->as.plan.tensors_max = MESSAGE_TENSORS_MAX;
        return message_plan_decode(bytes, size, &s->as.plan);
    case 7: return message_job_decode(bytes, size, &s->as.job);
    case 8:
        s->as.batch.record = s->record;
        s->as.batch.records_max = MESSAGE_RECORDS_MAX;
        return message_batch_decode(bytes, size, &s->as.batch);
    case 9: return message_benchmark_decode(bytes, size, &s->as.benchmark);
    case 10: return message_result_decode(bytes, size, &s->as.result);
    case 11: return message_sums_decode(bytes, size, &s->as.sums);
    default: return message_record_decode(bytes, size, &s->as.record);
    }
}
