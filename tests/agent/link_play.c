/* link_play.c: see link_play.h. */
#include "link_play.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"
#include "protocol/envelope.h"

struct play *play;

static uint64_t hook_now(void *context)
{
    (void)context;
    return link_now_ms(play->link);
}

static bool hook_contact(void *context)
{
    (void)context;
    return link_in_contact(play->link);
}

static void hook_ask(void *context)
{
    (void)context;
    link_ask(play->link);
}

static void hook_posted(void *context)
{
    (void)context;
    link_posted(play->link);
}

static void hook_changed(void *context)
{
    (void)context;
    link_changed(play->link);
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
    serve_trial(play->serve, &m);
    return ERR_NONE;
}

static void hook_untrial(void *context)
{
    (void)context;
    serve_untrial(play->serve);
}

static void hook_restore(void *context)
{
    struct store_txn *t;
    struct slot slot = {0};
    uint32_t active = SLOTS_NONE;
    (void)context;
    CU_ASSERT_FATAL(store_begin(play->store, false, &t) == ERR_NONE);
    if (slots_active(t, &active) == ERR_NONE && active < SLOTS_NONE)
        CU_ASSERT(slots_get(t, active, &slot) == ERR_NONE);
    store_abort(t);
    telemetry_serving(play->telemetry, slot.is_used ? &slot : NULL);
}

static void hook_promote(void *context)
{
    serve_promote(play->serve);
    hook_restore(context);
}

static void hook_ready(void *context)
{
    (void)context;
    jobs_trial_ready(play->jobs);
}

static void hook_answered(void *context, bool is_good)
{
    (void)context;
    jobs_trial_answered(play->jobs, is_good);
}

static bool hook_crashed(void *context, bool by_force, const char *why)
{
    (void)context;
    return jobs_trial_crashed(play->jobs, by_force, why);
}

static bool hook_sampled(void *context)
{
    (void)context;
    return telemetry_is_sampled(play->telemetry);
}

static void hook_token(void *context, uint64_t us)
{
    (void)context;
    telemetry_token(play->telemetry, us);
}

static void hook_finished(void *context, const struct serve_cost *c)
{
    (void)context;
    telemetry_finished(play->telemetry, c);
}

static void hook_stats(void *context, const struct wire *m)
{
    (void)context;
    telemetry_stats(play->telemetry, m);
}

static void hook_down(void *context, const char *why)
{
    (void)context;
    telemetry_error(play->telemetry, ERR_CRASHED, why);
}

void play_open_agent(void)
{
    struct fixture *f = &play->f;
    const struct settings *s = &f->settings;
    CU_ASSERT_FATAL(store_open(f->folder, &play->store) == ERR_NONE);
    struct spool_options spool = {.folder = f->folder,
                                  .quota_bytes = s->ring_bytes,
                                  .epoch = store_epoch(play->store),
                                  .tombstone = telemetry_tombstone};
    CU_ASSERT_FATAL(spool_open(&spool, &play->spool) == ERR_NONE);
    CU_ASSERT_FATAL(task_open(f->loop, s, &play->task) == ERR_NONE);
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
                                .store = play->store,
                                .spool = play->spool};
    CU_ASSERT_FATAL(link_open(&link, &play->link) == ERR_NONE);
    CU_ASSERT_FATAL(serve_open(f->loop, s, &serve, &play->serve) == ERR_NONE);
    struct telemetry_options telemetry = {.loop = f->loop,
                                          .settings = s,
                                          .spool = play->spool,
                                          .serve = play->serve,
                                          .task = play->task,
                                          .epoch = store_epoch(play->store),
                                          .now_ms = hook_now,
                                          .posted = hook_posted};
    CU_ASSERT_FATAL(telemetry_open(&telemetry, &play->telemetry) == ERR_NONE);
    struct bench_options bench = {.loop = f->loop,
                                  .settings = s,
                                  .identity = &f->identity,
                                  .store = play->store,
                                  .task = play->task,
                                  .now_ms = hook_now,
                                  .posted = hook_posted};
    CU_ASSERT_FATAL(bench_open(&bench, &play->bench) == ERR_NONE);
    struct jobs_options jobs = {.loop = f->loop,
                                .settings = s,
                                .identity = &f->identity,
                                .keys = &f->keys,
                                .store = play->store,
                                .task = play->task,
                                .hooks = {.now_ms = hook_now,
                                          .in_contact = hook_contact,
                                          .ask_contact = hook_ask,
                                          .posted = hook_posted,
                                          .changed = hook_changed,
                                          .trial = hook_trial,
                                          .untrial = hook_untrial,
                                          .promote = hook_promote,
                                          .restore = hook_nothing}};
    CU_ASSERT_FATAL(jobs_open(&jobs, &play->jobs) == ERR_NONE);
    hook_restore(NULL);
    /* As a worker's probe gives it. */
    memset(&play->birth, 0, sizeof play->birth);
    strcpy(play->birth.agent_version, "test");
    play->birth.agent_number = 1;
    strcpy(play->birth.probe.arch, "x86_64");
    strcpy(play->birth.probe.cpu, "test");
    play->birth.probe.cores = 1;
    play->birth.probe.memory_bytes = 1;
    uint8_t will[512];
    char topic[TOPIC_MAX];
    size_t size;
    struct transport transport;
    CU_ASSERT_FATAL(topic_encode("demo", f->identity.id, TOPIC_UP_DEATH, topic) == ERR_NONE);
    CU_ASSERT_FATAL(link_will(&f->identity, "demo", store_epoch(play->store), "", will, sizeof will, &size) == ERR_NONE);
    struct transport_options o = {.client_id = f->identity.id, .will_topic = topic, .will = will, .will_bytes = size};
    CU_ASSERT_FATAL(transport_memory_client(play->broker, &o, &transport) == ERR_NONE);
    CU_ASSERT_FATAL(link_start(play->link, &transport, play->jobs, play->bench, play->telemetry, &play->birth) == ERR_NONE);
    jobs_start(play->jobs, &play->birth);
}

void play_close_agent(void)
{
    jobs_close(play->jobs);
    bench_close(play->bench);
    telemetry_close(play->telemetry);
    serve_close(play->serve);
    link_close(play->link);
    task_close(play->task);
    spool_close(play->spool);
    store_close(play->store);
}

void play_begin(void)
{
    play = calloc(1, sizeof *play);
    fixture_open(&play->f);
    play->standing = MESSAGE_APPROVED;
    play->acknowledges = true;
    CU_ASSERT_FATAL(transport_memory_open(NULL, &play->broker) == ERR_NONE);
    struct transport_options o = {.client_id = "controller"};
    CU_ASSERT_FATAL(transport_memory_client(play->broker, &o, &play->director) == ERR_NONE);
    CU_ASSERT_FATAL(play->director.connect(play->director.state) == ERR_NONE);
    for (int i = 0; i < 5; i++)
        play_direct();
    play_open_agent();
}

void play_end(void)
{
    play_close_agent();
    play->director.close(play->director.state);
    transport_memory_close(play->broker);
    fixture_close(&play->f);
    free(play);
}

/* ---- the director ---- */

void play_tell(uint32_t kind, uint32_t type, const uint8_t *payload, size_t bytes)
{
    static uint8_t envelope[16384];
    char topic[TOPIC_MAX];
    uint32_t token;
    size_t size = fixture_sign(&play->f, type, payload, bytes, envelope, sizeof envelope);
    CU_ASSERT_FATAL(topic_encode("demo", play->f.identity.id, kind, topic) == ERR_NONE);
    (void)!play->director.publish(play->director.state, topic, envelope, size, false, &token);
}

void play_acknowledge(uint64_t epoch)
{
    struct message_ack m = {.epoch = epoch, .time_ms = (uint64_t)time(NULL) * 1000};
    uint8_t payload[256];
    size_t size;
    memcpy(m.seq, play->up_to[epoch], sizeof m.seq);
    if (play->acknowledges && message_ack_encode(&m, payload, sizeof payload, &size) == ERR_NONE)
        play_tell(TOPIC_DN_ACK, MESSAGE_ACK, payload, size);
}

/* Counts a record once, whatever is delivered again. */
static bool is_new(uint64_t epoch, uint32_t stream, uint64_t seq)
{
    CU_ASSERT_FATAL(epoch < 8 && seq < 512);
    if (play->twice[epoch][stream][seq])
        return false;
    play->twice[epoch][stream][seq] = true;
    while (play->twice[epoch][stream][play->up_to[epoch][stream] + 1])
        play->up_to[epoch][stream]++;
    return true;
}

static void answer(const struct message_request *r)
{
    struct message_answer m = {.time_ms = (uint64_t)time(NULL) * 1000, .standing = play->standing};
    uint8_t payload[256];
    size_t size;
    char topic[TOPIC_MAX];
    uint32_t token;
    memcpy(m.nonce, r->nonce, sizeof m.nonce);
    CU_ASSERT_FATAL(message_answer_encode(&m, payload, sizeof payload, &size) == ERR_NONE);
    play_tell(TOPIC_DN_RSP, MESSAGE_ANSWER, payload, size);
    if (!play->plan_bytes)
        return;
    CU_ASSERT_FATAL(topic_encode("demo", play->f.identity.id, TOPIC_DN_PLAN, topic) == ERR_NONE);
    (void)!play->director.publish(play->director.state, topic, play->plan, play->plan_bytes, false, &token);
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
        play->records++;
        if (r.kind == MESSAGE_RECORD_LOST)
            play->lost++;
    }
    play_acknowledge(m.epoch);
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
    CU_ASSERT_FATAL(envelope_open(v->payload, v->payload_bytes, play->f.identity.key.public_key, "demo", ENVELOPE_DEVICE,
                                  types[topic.kind], &e) == ERR_NONE);
    switch (topic.kind) {
    case TOPIC_UP_BIRTH:
        play->births++;
        memset(&play->last_birth, 0, sizeof play->last_birth);
        CU_ASSERT(message_birth_decode(e.payload, e.payload_bytes, &play->last_birth) == ERR_NONE);
        break;
    case TOPIC_UP_DEATH: play->deaths++; break;
    case TOPIC_UP_TEL: take_batch(e.payload, e.payload_bytes); break;
    case TOPIC_UP_REQ: {
        struct message_request r = {0};
        play->requests++;
        CU_ASSERT_FATAL(message_request_decode(e.payload, e.payload_bytes, &r) == ERR_NONE);
        answer(&r);
        break;
    }
    case TOPIC_UP_JOB:
        memset(&play->last_job, 0, sizeof play->last_job);
        CU_ASSERT_FATAL(message_job_decode(e.payload, e.payload_bytes, &play->last_job) == ERR_NONE);
        play->jobs_seen += is_new(play->last_job.epoch, MESSAGE_STREAM_JOB, play->last_job.seq);
        play_acknowledge(play->last_job.epoch);
        break;
    case TOPIC_UP_BENCH:
        memset(&play->last_result, 0, sizeof play->last_result);
        CU_ASSERT_FATAL(message_result_decode(e.payload, e.payload_bytes, &play->last_result) == ERR_NONE);
        play->results += is_new(play->last_result.epoch, MESSAGE_STREAM_BENCH, play->last_result.seq);
        play_acknowledge(play->last_result.epoch);
        break;
    case TOPIC_UP_CAL:
        memset(&play->last_sums, 0, sizeof play->last_sums);
        CU_ASSERT_FATAL(message_sums_decode(e.payload, e.payload_bytes, &play->last_sums) == ERR_NONE);
        play->sums += is_new(play->last_sums.epoch, MESSAGE_STREAM_CAL, play->last_sums.seq);
        play_acknowledge(play->last_sums.epoch);
        break;
    default: break;
    }
}

void play_direct(void)
{
    struct transport_event v;
    int wait_ms;
    transport_memory_step(play->broker);
    (void)!play->director.step(play->director.state, &wait_ms);
    while (!play->is_cut && play->director.next(play->director.state, &v) == ERR_NONE) {
        if (v.kind == TRANSPORT_CONNECTED)
            CU_ASSERT(play->director.subscribe(play->director.state, "tare/1/demo/+/up/#") == ERR_NONE);
        if (v.kind == TRANSPORT_MESSAGE)
            take(&v);
    }
}

static bool never(void *context)
{
    (void)context;
    play_direct();
    return false;
}

void play_turn(int ms)
{
    fixture_wait(&play->f, ms, never, NULL);
}

/* Nothing is left to be told. */
bool play_is_quiet(void *context)
{
    struct store_txn *t;
    uint64_t reports = 1;
    (void)context;
    play_direct();
    if (store_begin(play->store, false, &t) == ERR_NONE) {
        if (store_waiting(t, &reports))
            reports = 1;
        store_abort(t);
    }
    return reports == 0 && spool_records(play->spool, SPOOL_TEL) == 0 && spool_records(play->spool, SPOOL_CAL) == 0;
}

bool play_is_committed(void *context)
{
    (void)context;
    play_direct();
    return jobs_state(play->jobs) == JOB_COMMITTED;
}

void play_offer(uint64_t version)
{
    struct message_plan plan;
    fixture_plan(&play->f, version, &plan);
    play->plan_bytes = fixture_sign_plan(&play->f, &plan, play->plan, sizeof play->plan);
}
