#include "harness.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/link.h"
#include "agent_fixture.h"
#include "protocol/envelope.h"

/* A whole agent but its programs, on a broker in memory, and a director that the test plays. */
static struct play {
    struct fixture f;
    struct store *store;
    struct spool *spool;
    struct task *task;
    struct serve *serve;
    struct telemetry *telemetry;
    struct bench *bench;
    struct jobs *jobs;
    struct link *link;
    struct message_birth birth;
    struct transport_memory *broker;
    struct transport director;
    /* What the director has seen. */
    uint32_t births, deaths, requests, jobs_seen, records, lost, results, sums;
    uint32_t standing;
    bool acknowledges;
    bool is_cut; /* the director does not look */
    uint8_t plan[8192];
    size_t plan_bytes;
    struct message_job last_job;
    struct message_result last_result;
    struct message_sums last_sums;
    struct message_birth last_birth;
    uint64_t up_to[8][MESSAGE_STREAMS]; /* by epoch */
    bool twice[8][MESSAGE_STREAMS][512];
} *p;

static uint64_t hook_now(void *context)
{
    (void)context;
    return link_now_ms(p->link);
}

static bool hook_contact(void *context)
{
    (void)context;
    return link_in_contact(p->link);
}

static void hook_ask(void *context)
{
    (void)context;
    link_ask(p->link);
}

static void hook_posted(void *context)
{
    (void)context;
    link_posted(p->link);
}

static void hook_changed(void *context)
{
    (void)context;
    link_changed(p->link);
}

static void hook_nothing(void *context)
{
    (void)context;
}

static enum err hook_trial(void *context, const char *path, const struct message_plan *plan)
{
    struct serve_model m = {.path = ""};
    (void)context;
    snprintf(m.path, sizeof m.path, "%s", path);
    memcpy(m.variant, plan->variant, 32);
    serve_trial(p->serve, &m);
    return ERR_NONE;
}

static void hook_untrial(void *context)
{
    (void)context;
    serve_untrial(p->serve);
}

static void hook_restore(void *context)
{
    struct store_txn *t;
    struct slot slot = {0};
    uint32_t active = SLOTS_NONE;
    (void)context;
    CU_ASSERT_FATAL(store_begin(p->store, false, &t) == ERR_NONE);
    if (slots_active(t, &active) == ERR_NONE && active < SLOTS_NONE)
        CU_ASSERT(slots_get(t, active, &slot) == ERR_NONE);
    store_abort(t);
    telemetry_serving(p->telemetry, slot.is_used ? &slot : NULL);
}

static void hook_promote(void *context)
{
    serve_promote(p->serve);
    hook_restore(context);
}

static void hook_ready(void *context)
{
    (void)context;
    jobs_trial_ready(p->jobs);
}

static void hook_answered(void *context, bool is_good)
{
    (void)context;
    jobs_trial_answered(p->jobs, is_good);
}

static bool hook_crashed(void *context, bool by_force, const char *why)
{
    (void)context;
    return jobs_trial_crashed(p->jobs, by_force, why);
}

static bool hook_sampled(void *context)
{
    (void)context;
    return telemetry_is_sampled(p->telemetry);
}

static void hook_token(void *context, uint64_t us)
{
    (void)context;
    telemetry_token(p->telemetry, us);
}

static void hook_finished(void *context, const struct serve_cost *c)
{
    (void)context;
    telemetry_finished(p->telemetry, c);
}

static void hook_stats(void *context, const struct wire *m)
{
    (void)context;
    telemetry_stats(p->telemetry, m);
}

static void hook_down(void *context, const char *why)
{
    (void)context;
    telemetry_error(p->telemetry, ERR_CRASHED, why);
}

static void open_agent(void)
{
    struct fixture *f = &p->f;
    const struct settings *s = &f->settings;
    CU_ASSERT_FATAL(store_open(f->folder, &p->store) == ERR_NONE);
    struct spool_options spool = {.folder = f->folder,
                                  .quota_bytes = s->ring_bytes,
                                  .epoch = store_epoch(p->store),
                                  .tombstone = telemetry_tombstone};
    CU_ASSERT_FATAL(spool_open(&spool, &p->spool) == ERR_NONE);
    CU_ASSERT_FATAL(task_open(f->loop, s, &p->task) == ERR_NONE);
    struct serve_hooks serve = {.trial_ready = hook_ready,
                                .trial_answered = hook_answered,
                                .trial_crashed = hook_crashed,
                                .is_sampled = hook_sampled,
                                .token = hook_token,
                                .finished = hook_finished,
                                .stats = hook_stats,
                                .crashed = hook_down};
    struct link_options link = {.loop = f->loop,
                                .settings = s,
                                .identity = &f->identity,
                                .keys = &f->keys,
                                .store = p->store,
                                .spool = p->spool};
    CU_ASSERT_FATAL(link_open(&link, &p->link) == ERR_NONE);
    CU_ASSERT_FATAL(serve_open(f->loop, s, &serve, &p->serve) == ERR_NONE);
    struct telemetry_options telemetry = {.loop = f->loop,
                                          .settings = s,
                                          .spool = p->spool,
                                          .serve = p->serve,
                                          .task = p->task,
                                          .epoch = store_epoch(p->store),
                                          .now_ms = hook_now,
                                          .posted = hook_posted};
    CU_ASSERT_FATAL(telemetry_open(&telemetry, &p->telemetry) == ERR_NONE);
    struct bench_options bench = {.loop = f->loop,
                                  .settings = s,
                                  .identity = &f->identity,
                                  .store = p->store,
                                  .task = p->task,
                                  .now_ms = hook_now,
                                  .posted = hook_posted};
    CU_ASSERT_FATAL(bench_open(&bench, &p->bench) == ERR_NONE);
    struct jobs_options jobs = {.loop = f->loop,
                                .settings = s,
                                .identity = &f->identity,
                                .keys = &f->keys,
                                .store = p->store,
                                .task = p->task,
                                .hooks = {.now_ms = hook_now,
                                          .in_contact = hook_contact,
                                          .ask_contact = hook_ask,
                                          .posted = hook_posted,
                                          .changed = hook_changed,
                                          .trial = hook_trial,
                                          .untrial = hook_untrial,
                                          .promote = hook_promote,
                                          .restore = hook_nothing}};
    CU_ASSERT_FATAL(jobs_open(&jobs, &p->jobs) == ERR_NONE);
    hook_restore(NULL);
    /* As a worker's probe gives it. */
    memset(&p->birth, 0, sizeof p->birth);
    strcpy(p->birth.agent_version, "test");
    p->birth.agent_number = 1;
    strcpy(p->birth.probe.arch, "x86_64");
    strcpy(p->birth.probe.cpu, "test");
    p->birth.probe.cores = 1;
    p->birth.probe.memory_bytes = 1;
    uint8_t will[512];
    char topic[TOPIC_MAX];
    size_t size;
    struct transport transport;
    CU_ASSERT_FATAL(topic_encode("demo", f->identity.id, TOPIC_UP_DEATH, topic) == ERR_NONE);
    CU_ASSERT_FATAL(link_will(&f->identity, "demo", store_epoch(p->store), "", will, sizeof will, &size) == ERR_NONE);
    struct transport_options o = {.client_id = f->identity.id, .will_topic = topic, .will = will, .will_bytes = size};
    CU_ASSERT_FATAL(transport_memory_client(p->broker, &o, &transport) == ERR_NONE);
    CU_ASSERT_FATAL(link_start(p->link, &transport, p->jobs, p->bench, p->telemetry, &p->birth) == ERR_NONE);
    jobs_start(p->jobs, &p->birth);
}

static void close_agent(void)
{
    jobs_close(p->jobs);
    bench_close(p->bench);
    telemetry_close(p->telemetry);
    serve_close(p->serve);
    link_close(p->link);
    task_close(p->task);
    spool_close(p->spool);
    store_close(p->store);
}

static void direct(void);

static void begin(void)
{
    p = calloc(1, sizeof *p);
    fixture_open(&p->f);
    p->standing = MESSAGE_APPROVED;
    p->acknowledges = true;
    CU_ASSERT_FATAL(transport_memory_open(NULL, &p->broker) == ERR_NONE);
    struct transport_options o = {.client_id = "controller"};
    CU_ASSERT_FATAL(transport_memory_client(p->broker, &o, &p->director) == ERR_NONE);
    CU_ASSERT_FATAL(p->director.connect(p->director.state) == ERR_NONE);
    for (int i = 0; i < 5; i++)
        direct();
    open_agent();
}

static void end(void)
{
    close_agent();
    p->director.close(p->director.state);
    transport_memory_close(p->broker);
    fixture_close(&p->f);
    free(p);
}

/* ---- the director ---- */

static void tell(uint32_t kind, uint32_t type, const uint8_t *payload, size_t bytes)
{
    static uint8_t envelope[16384];
    char topic[TOPIC_MAX];
    uint32_t token;
    size_t size = fixture_sign(&p->f, type, payload, bytes, envelope, sizeof envelope);
    CU_ASSERT_FATAL(topic_encode("demo", p->f.identity.id, kind, topic) == ERR_NONE);
    (void)!p->director.publish(p->director.state, topic, envelope, size, false, &token);
}

static void acknowledge(uint64_t epoch)
{
    struct message_ack m = {.epoch = epoch, .time_ms = (uint64_t)time(NULL) * 1000};
    uint8_t payload[256];
    size_t size;
    memcpy(m.seq, p->up_to[epoch], sizeof m.seq);
    if (p->acknowledges && message_ack_encode(&m, payload, sizeof payload, &size) == ERR_NONE)
        tell(TOPIC_DN_ACK, MESSAGE_ACK, payload, size);
}

/* Counts a record once, whatever is delivered again. */
static bool is_new(uint64_t epoch, uint32_t stream, uint64_t seq)
{
    CU_ASSERT_FATAL(epoch < 8 && seq < 512);
    if (p->twice[epoch][stream][seq])
        return false;
    p->twice[epoch][stream][seq] = true;
    while (p->twice[epoch][stream][p->up_to[epoch][stream] + 1])
        p->up_to[epoch][stream]++;
    return true;
}

static void answer(const struct message_request *r)
{
    struct message_answer m = {.time_ms = (uint64_t)time(NULL) * 1000, .standing = p->standing};
    uint8_t payload[256];
    size_t size;
    char topic[TOPIC_MAX];
    uint32_t token;
    memcpy(m.nonce, r->nonce, sizeof m.nonce);
    CU_ASSERT_FATAL(message_answer_encode(&m, payload, sizeof payload, &size) == ERR_NONE);
    tell(TOPIC_DN_RSP, MESSAGE_ANSWER, payload, size);
    if (!p->plan_bytes)
        return;
    CU_ASSERT_FATAL(topic_encode("demo", p->f.identity.id, TOPIC_DN_PLAN, topic) == ERR_NONE);
    (void)!p->director.publish(p->director.state, topic, p->plan, p->plan_bytes, false, &token);
}

static void take_batch(const uint8_t *payload, size_t size)
{
    static struct message_blob blobs[MESSAGE_RECORDS_MAX];
    struct message_batch m = {.record = blobs, .records_max = MESSAGE_RECORDS_MAX};
    CU_ASSERT_FATAL(message_batch_decode(payload, size, &m) == ERR_NONE);
    for (uint32_t i = 0; i < m.records; i++) {
        static struct message_record r;
        memset(&r, 0, sizeof r);
        CU_ASSERT(message_record_decode(blobs[i].at, blobs[i].size, &r) == ERR_NONE);
        if (!is_new(m.epoch, MESSAGE_STREAM_TEL, m.first + i))
            continue;
        p->records++;
        if (r.kind == MESSAGE_RECORD_LOST)
            p->lost++;
    }
    acknowledge(m.epoch);
}

static void take(const struct transport_event *v)
{
    static const uint32_t types[TOPIC_KINDS] = {
        [TOPIC_UP_BIRTH] = MESSAGE_BIRTH, [TOPIC_UP_DEATH] = MESSAGE_DEATH, [TOPIC_UP_TEL] = MESSAGE_BATCH,
        [TOPIC_UP_JOB] = MESSAGE_JOB,     [TOPIC_UP_REQ] = MESSAGE_REQUEST, [TOPIC_UP_BENCH] = MESSAGE_RESULT,
        [TOPIC_UP_CAL] = MESSAGE_SUMS};
    struct envelope e;
    struct topic topic;
    CU_ASSERT_FATAL(topic_decode(v->topic, strlen(v->topic), &topic) == ERR_NONE);
    CU_ASSERT_FATAL(envelope_open(v->payload, v->payload_bytes, p->f.identity.key.public_key, "demo", ENVELOPE_DEVICE,
                                  types[topic.kind], &e) == ERR_NONE);
    switch (topic.kind) {
    case TOPIC_UP_BIRTH:
        p->births++;
        memset(&p->last_birth, 0, sizeof p->last_birth);
        CU_ASSERT(message_birth_decode(e.payload, e.payload_bytes, &p->last_birth) == ERR_NONE);
        break;
    case TOPIC_UP_DEATH: p->deaths++; break;
    case TOPIC_UP_TEL: take_batch(e.payload, e.payload_bytes); break;
    case TOPIC_UP_REQ: {
        struct message_request r = {0};
        p->requests++;
        CU_ASSERT_FATAL(message_request_decode(e.payload, e.payload_bytes, &r) == ERR_NONE);
        answer(&r);
        break;
    }
    case TOPIC_UP_JOB:
        memset(&p->last_job, 0, sizeof p->last_job);
        CU_ASSERT_FATAL(message_job_decode(e.payload, e.payload_bytes, &p->last_job) == ERR_NONE);
        p->jobs_seen += is_new(p->last_job.epoch, MESSAGE_STREAM_JOB, p->last_job.seq);
        acknowledge(p->last_job.epoch);
        break;
    case TOPIC_UP_BENCH:
        memset(&p->last_result, 0, sizeof p->last_result);
        CU_ASSERT_FATAL(message_result_decode(e.payload, e.payload_bytes, &p->last_result) == ERR_NONE);
        p->results += is_new(p->last_result.epoch, MESSAGE_STREAM_BENCH, p->last_result.seq);
        acknowledge(p->last_result.epoch);
        break;
    case TOPIC_UP_CAL:
        memset(&p->last_sums, 0, sizeof p->last_sums);
        CU_ASSERT_FATAL(message_sums_decode(e.payload, e.payload_bytes, &p->last_sums) == ERR_NONE);
        p->sums += is_new(p->last_sums.epoch, MESSAGE_STREAM_CAL, p->last_sums.seq);
        acknowledge(p->last_sums.epoch);
        break;
    default: break;
    }
}

static void direct(void)
{
    struct transport_event v;
    int wait_ms;
    transport_memory_step(p->broker);
    (void)!p->director.step(p->director.state, &wait_ms);
    while (!p->is_cut && p->director.next(p->director.state, &v) == ERR_NONE) {
        if (v.kind == TRANSPORT_CONNECTED)
            CU_ASSERT(p->director.subscribe(p->director.state, "tare/1/demo/+/up/#") == ERR_NONE);
        if (v.kind == TRANSPORT_MESSAGE)
            take(&v);
    }
}

static bool never(void *context)
{
    (void)context;
    direct();
    return false;
}

static void turn(int ms)
{
    fixture_wait(&p->f, ms, never, NULL);
}

/* Nothing is left to be told. */
static bool is_quiet(void *context)
{
    struct store_txn *t;
    uint64_t reports = 1;
    (void)context;
    direct();
    if (store_begin(p->store, false, &t) == ERR_NONE) {
        if (store_waiting(t, &reports))
            reports = 1;
        store_abort(t);
    }
    return reports == 0 && spool_records(p->spool, SPOOL_TEL) == 0 && spool_records(p->spool, SPOOL_CAL) == 0;
}

static bool is_committed(void *context)
{
    (void)context;
    direct();
    return jobs_state(p->jobs) == JOB_COMMITTED;
}

static void offer(uint64_t version)
{
    struct message_plan plan;
    fixture_plan(&p->f, version, &plan);
    p->plan_bytes = fixture_sign_plan(&p->f, &plan, p->plan, sizeof p->plan);
}

/* ---- tests ---- */

static void test_pull(void)
{
    begin();
    offer(1); /* nobody pushes it: the agent asks */
    CU_ASSERT(fixture_wait(&p->f, 10000, is_committed, NULL));
    CU_ASSERT(fixture_wait(&p->f, 10000, is_quiet, NULL));
    CU_ASSERT(p->births >= 2 && p->last_birth.epoch == 1 && p->last_birth.slots == 1);
    CU_ASSERT(p->last_birth.slot[0].is_active && p->last_birth.slot[0].variant[0] == 0x44);
    CU_ASSERT(p->last_job.state == JOB_COMMITTED && p->jobs_seen == 9);
    CU_ASSERT(link_is_approved(p->link) && link_in_contact(p->link));
    close_agent();
    for (int i = 0; i < 50; i++)
        direct();
    CU_ASSERT_EQUAL(p->deaths, 1); /* said good-bye */
    open_agent();
    turn(200);
    CU_ASSERT(p->last_birth.epoch == 2 && p->last_birth.newest_plan == 1);
    end();
}

static void test_approval(void)
{
    begin();
    p->standing = MESSAGE_PENDING;
    telemetry_event(p->telemetry, "test", "x", 1);
    telemetry_flush(p->telemetry);
    turn(300);
    CU_ASSERT(p->births > 0 && p->requests > 0 && p->records == 0);
    p->standing = MESSAGE_APPROVED;
    turn(1200);
    link_ask(p->link);
    CU_ASSERT(fixture_wait(&p->f, 5000, is_quiet, NULL));
    CU_ASSERT_EQUAL(p->records, 1);
    end();
}

/* Messages are lost, doubled and reordered, the broker dies, the agent starts anew: every record arrives once. */
static void test_faults(void)
{
    struct transport_faults faults = {.seed = 7, .lose = 200, .duplicate = 200, .reorder = 200, .delay = 100, .delay_steps = 5};
    uint32_t made = 0;
    begin();
    turn(100);
    transport_memory_faults(p->broker, &faults);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 10; i++, made++) {
            telemetry_event(p->telemetry, "count", "", made + 1);
            telemetry_flush(p->telemetry);
            turn(10);
        }
        if (round == 1) {
            transport_memory_stop(p->broker, false);
            turn(50);
            transport_memory_start(p->broker);
        }
        if (round == 2) {
            close_agent();
            open_agent();
        }
        transport_memory_cut(p->broker, p->f.identity.id);
    }
    transport_memory_faults(p->broker, NULL);
    for (int i = 0; i < 10 && !fixture_wait(&p->f, 3000, is_quiet, NULL); i++)
        transport_memory_cut(p->broker, p->f.identity.id); /* each connection sends everything again */
    CU_ASSERT(is_quiet(NULL));
    CU_ASSERT_EQUAL(p->records, made);
    CU_ASSERT_EQUAL(p->lost, 0);
    end();
}

/* What was lost on the way comes again within seconds, although the records after it get through. */
static void test_lost_report(void)
{
    begin();
    CU_ASSERT(fixture_wait(&p->f, 5000, is_quiet, NULL));
    turn(200);
    int64_t now = loop_now_ms(p->f.loop);
    loop_fake_clock(p->f.loop, now);
    transport_memory_faults(p->broker, &(struct transport_faults){.seed = 1, .lose = 1000});
    telemetry_event(p->telemetry, "lost", "", 1);
    telemetry_flush(p->telemetry);
    turn(50);
    transport_memory_faults(p->broker, NULL);
    uint32_t before = p->records, made = 1;
    while (!is_quiet(NULL) && made < 8) {
        now += 5000; /* the interval of telemetry: shorter than the wait for an acknowledgement */
        loop_fake_clock(p->f.loop, now);
        telemetry_event(p->telemetry, "after", "", 1);
        telemetry_flush(p->telemetry);
        made++;
        turn(50);
    }
    CU_ASSERT(made <= 6); /* 20 s, and up to one more at random */
    CU_ASSERT(p->records - before >= made);
    end();
}

/* A record of an earlier start too, when only what came after it was acknowledged. */
static void test_lost_epoch(void)
{
    begin();
    p->acknowledges = false;
    telemetry_event(p->telemetry, "before", "", 1);
    telemetry_flush(p->telemetry);
    turn(200);
    close_agent();
    open_agent();
    turn(500);
    p->acknowledges = true;
    telemetry_event(p->telemetry, "after", "", 1);
    telemetry_flush(p->telemetry);
    turn(300);
    CU_ASSERT_EQUAL(spool_records(p->spool, SPOOL_TEL), 1);
    loop_fake_clock(p->f.loop, loop_now_ms(p->f.loop) + 21000);
    CU_ASSERT(fixture_wait(&p->f, 2000, is_quiet, NULL));
    end();
}

/* Without acknowledgements nothing is deleted, whatever the broker says. */
static void test_no_ack(void)
{
    begin();
    p->acknowledges = false;
    telemetry_event(p->telemetry, "kept", "", 1);
    telemetry_flush(p->telemetry);
    turn(300);
    CU_ASSERT(p->records == 1 && spool_records(p->spool, SPOOL_TEL) == 1);
    /* an acknowledgement by somebody else does not count */
    struct keys_secret ours = p->f.director;
    CU_ASSERT_FATAL(keys_generate(&p->f.director) == ERR_NONE);
    p->acknowledges = true;
    acknowledge(1);
    turn(200);
    CU_ASSERT_EQUAL(spool_records(p->spool, SPOOL_TEL), 1);
    p->f.director = ours;
    acknowledge(1);
    turn(200);
    CU_ASSERT_EQUAL(spool_records(p->spool, SPOOL_TEL), 0);
    end();
}

static void command(uint64_t version, uint32_t verb, const uint8_t *plan_id, const char *device, uint64_t tokens)
{
    struct message_command m = {.version = version, .verb = verb, .tokens = tokens, .id = version};
    uint8_t payload[1024];
    size_t size;
    snprintf(m.device, sizeof m.device, "%s", device);
    if (plan_id)
        memcpy(m.plan_id, plan_id, 16);
    m.not_after_ms = ((uint64_t)time(NULL) + 60) * 1000;
    CU_ASSERT_FATAL(message_command_encode(&m, payload, sizeof payload, &size) == ERR_NONE);
    tell(TOPIC_DN_CMD, MESSAGE_COMMAND, payload, size);
}

static bool has_result(void *context)
{
    (void)context;
    direct();
    return p->results > 0;
}

static bool has_sums(void *context)
{
    (void)context;
    direct();
    return p->sums > 0;
}

static void test_orders(void)
{
    struct message_benchmark m = {.version = 5, .prompt = 8, .generate = 4, .repetitions = 1};
    uint8_t payload[1024];
    size_t size;
    begin();
    offer(1);
    CU_ASSERT(fixture_wait(&p->f, 10000, is_committed, NULL));
    snprintf(m.device, sizeof m.device, "%s", p->f.identity.id);
    memset(m.id, 6, sizeof m.id);
    CU_ASSERT_FATAL(message_benchmark_encode(&m, payload, sizeof payload, &size) == ERR_NONE);
    tell(TOPIC_DN_BENCH, MESSAGE_BENCHMARK, payload, size);
    CU_ASSERT(fixture_wait(&p->f, 5000, has_result, NULL));
    CU_ASSERT(p->last_result.id[0] == 6 && p->last_result.rows == 1 && p->last_result.model[0] == 0x44);
    tell(TOPIC_DN_BENCH, MESSAGE_BENCHMARK, payload, size); /* replayed */
    turn(200);
    CU_ASSERT_EQUAL(p->results, 1);
    /* statistics on demand: some tokens are served, then the sums come with the command's id */
    command(6, MESSAGE_CALIBRATE, NULL, p->f.identity.id, 3);
    turn(100);
    struct serve_cost cost = {.usage = {.prompt = 3, .made = 2}};
    telemetry_finished(p->telemetry, &cost);
    CU_ASSERT(fixture_wait(&p->f, 5000, has_sums, NULL));
    CU_ASSERT(p->last_sums.command == 6 && p->last_sums.sum[0].rows == 7 && p->last_sums.variant[0] == 0x44 &&
              p->last_sums.base[0] == 0x11);
    /* for another device, then replayed, then right */
    const uint8_t *plan_id = p->last_birth.job_plan_id;
    uint8_t id[16];
    memcpy(id, plan_id, 16);
    command(7, MESSAGE_REVERT, id, "00000000000000000000000000000000", 0);
    command(6, MESSAGE_REVERT, id, p->f.identity.id, 0);
    turn(200);
    CU_ASSERT_EQUAL(jobs_state(p->jobs), JOB_COMMITTED);
    command(7, MESSAGE_REVERT, id, p->f.identity.id, 0);
    turn(200);
    CU_ASSERT_EQUAL(jobs_state(p->jobs), JOB_ROLLED_BACK);
    CU_ASSERT(fixture_wait(&p->f, 5000, is_quiet, NULL));
    CU_ASSERT_EQUAL(p->last_job.code, JOB_REVERTED);
    end();
}

/* A shadow run of a sampled answer, when the device is idle. */
static void test_shadow(void)
{
    uint32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct serve_cost cost = {.usage = {.prompt = 3, .made = 5}, .tokens = tokens, .token_count = 8};
    begin();
    offer(1);
    CU_ASSERT(fixture_wait(&p->f, 10000, is_committed, NULL));
    memset(cost.variant, 0x44, 32);
    telemetry_finished(p->telemetry, &cost);
    turn(1500);
    uint32_t before = p->records;
    telemetry_flush(p->telemetry);
    CU_ASSERT(fixture_wait(&p->f, 5000, is_quiet, NULL));
    CU_ASSERT(p->records > before + 1); /* sketches of the request, and the shadow */
    end();
}

RUN_SUITE("link", {"plan by pull, birth, death", test_pull}, {"approval first", test_approval},
          {"faults: once each", test_faults}, {"lost, and sent again", test_lost_report},
          {"lost before a restart", test_lost_epoch}, {"no acknowledgement, no deletion", test_no_ack},
          {"orders", test_orders}, {"shadow", test_shadow})
