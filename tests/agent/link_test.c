#include "harness.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "link_play.h"

static void test_pull(void)
{
    play_begin();
    play_offer(1); /* nobody pushes it: the agent asks */
    CU_ASSERT(fixture_wait(&play->f, 10000, play_is_committed, NULL));
    CU_ASSERT(fixture_wait(&play->f, 10000, play_is_quiet, NULL));
    CU_ASSERT(play->births >= 2 && play->last_birth.epoch == 1 && play->last_birth.slots == 1);
    CU_ASSERT(play->last_birth.slot[0].is_active && play->last_birth.slot[0].variant[0] == 0x44);
    CU_ASSERT(play->last_job.state == JOB_COMMITTED && play->jobs_seen == 9);
    CU_ASSERT(link_is_approved(play->link) && link_in_contact(play->link));
    play_close_agent();
    for (int i = 0; i < 50; i++)
        play_direct();
    CU_ASSERT_EQUAL(play->deaths, 1); /* said good-bye */
    play_open_agent();
    play_turn(200);
    CU_ASSERT(play->last_birth.epoch == 2 && play->last_birth.newest_plan == 1);
    play_end();
}

static void test_approval(void)
{
    play_begin();
    play->standing = MESSAGE_PENDING;
    telemetry_event(play->telemetry, "test", "x", 1);
    telemetry_flush(play->telemetry);
    play_turn(300);
    CU_ASSERT(play->births > 0 && play->requests > 0 && play->records == 0);
    play->standing = MESSAGE_APPROVED;
    play_turn(1200);
    link_ask(play->link);
    CU_ASSERT(fixture_wait(&play->f, 5000, play_is_quiet, NULL));
    CU_ASSERT_EQUAL(play->records, 1);
    play_end();
}

/* Messages are lost, doubled and reordered, the broker dies, the agent starts anew: every record arrives once. */
static void test_faults(void)
{
    struct transport_faults faults = {.seed = 7, .lose = 200, .duplicate = 200, .reorder = 200, .delay = 100, .delay_steps = 5};
    uint32_t made = 0;
    play_begin();
    play_turn(100);
    transport_memory_faults(play->broker, &faults);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 10; i++, made++) {
            telemetry_event(play->telemetry, "count", "", made + 1);
            telemetry_flush(play->telemetry);
            play_turn(10);
        }
        if (round == 1) {
            transport_memory_stop(play->broker, false);
            play_turn(50);
            transport_memory_start(play->broker);
        }
        if (round == 2) {
            play_close_agent();
            play_open_agent();
        }
        transport_memory_cut(play->broker, play->f.identity.id);
    }
    transport_memory_faults(play->broker, NULL);
    for (int i = 0; i < 10 && !fixture_wait(&play->f, 3000, play_is_quiet, NULL); i++)
        transport_memory_cut(play->broker, play->f.identity.id); /* each connection sends everything again */
    CU_ASSERT(play_is_quiet(NULL));
    CU_ASSERT_EQUAL(play->records, made);
    CU_ASSERT_EQUAL(play->lost, 0);
    play_end();
}

/* What was lost on the way comes again within seconds, although the records after it get through. */
static void test_lost_report(void)
{
    play_begin();
    CU_ASSERT(fixture_wait(&play->f, 5000, play_is_quiet, NULL));
    play_turn(200);
    int64_t now = loop_now_ms(play->f.loop);
    loop_fake_clock(play->f.loop, now);
    transport_memory_faults(play->broker, &(struct transport_faults){.seed = 1, .lose = 1000});
    telemetry_event(play->telemetry, "lost", "", 1);
    telemetry_flush(play->telemetry);
    play_turn(50);
    transport_memory_faults(play->broker, NULL);
    uint32_t before = play->records, made = 1;
    while (!play_is_quiet(NULL) && made < 8) {
        now += 5000; /* the interval of telemetry: shorter than the wait for an acknowledgement */
        loop_fake_clock(play->f.loop, now);
        telemetry_event(play->telemetry, "after", "", 1);
        telemetry_flush(play->telemetry);
        made++;
        play_turn(50);
    }
    CU_ASSERT(made <= 6); /* 20 s, and up to one more at random */
    CU_ASSERT(play->records - before >= made);
    play_end();
}

/* A record of an earlier start too, when only what came after it was acknowledged. */
static void test_lost_epoch(void)
{
    play_begin();
    play->acknowledges = false;
    telemetry_event(play->telemetry, "before", "", 1);
    telemetry_flush(play->telemetry);
    play_turn(200);
    play_close_agent();
    play_open_agent();
    play_turn(500);
    play->acknowledges = true;
    telemetry_event(play->telemetry, "after", "", 1);
    telemetry_flush(play->telemetry);
    play_turn(300);
    CU_ASSERT_EQUAL(spool_records(play->spool, SPOOL_TEL), 1);
    loop_fake_clock(play->f.loop, loop_now_ms(play->f.loop) + 21000);
    CU_ASSERT(fixture_wait(&play->f, 2000, play_is_quiet, NULL));
    play_end();
}

/* Without acknowledgements nothing is deleted, whatever the broker says. */
static void test_no_ack(void)
{
    play_begin();
    play->acknowledges = false;
    telemetry_event(play->telemetry, "kept", "", 1);
    telemetry_flush(play->telemetry);
    play_turn(300);
    CU_ASSERT(play->records == 1 && spool_records(play->spool, SPOOL_TEL) == 1);
    /* an acknowledgement by somebody else does not count */
    struct keys_secret ours = play->f.director;
    CU_ASSERT_FATAL(keys_generate(&play->f.director) == ERR_NONE);
    play->acknowledges = true;
    play_acknowledge(1);
    play_turn(200);
    CU_ASSERT_EQUAL(spool_records(play->spool, SPOOL_TEL), 1);
    play->f.director = ours;
    play_acknowledge(1);
    play_turn(200);
    CU_ASSERT_EQUAL(spool_records(play->spool, SPOOL_TEL), 0);
    play_end();
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
    play_tell(TOPIC_DN_CMD, MESSAGE_COMMAND, payload, size);
}

static bool has_result(void *context)
{
    (void)context;
    play_direct();
    return play->results > 0;
}

static bool has_sums(void *context)
{
    (void)context;
    play_direct();
    return play->sums > 0;
}

static void test_orders(void)
{
    struct message_benchmark m = {.version = 5, .prompt = 8, .generate = 4, .repetitions = 1};
    uint8_t payload[1024];
    size_t size;
    play_begin();
    play_offer(1);
    CU_ASSERT(fixture_wait(&play->f, 10000, play_is_committed, NULL));
    snprintf(m.device, sizeof m.device, "%s", play->f.identity.id);
    memset(m.id, 6, sizeof m.id);
    CU_ASSERT_FATAL(message_benchmark_encode(&m, payload, sizeof payload, &size) == ERR_NONE);
    play_tell(TOPIC_DN_BENCH, MESSAGE_BENCHMARK, payload, size);
    CU_ASSERT(fixture_wait(&play->f, 5000, has_result, NULL));
    CU_ASSERT(play->last_result.id[0] == 6 && play->last_result.rows == 1 && play->last_result.model[0] == 0x44);
    play_tell(TOPIC_DN_BENCH, MESSAGE_BENCHMARK, payload, size); /* replayed */
    play_turn(200);
    CU_ASSERT_EQUAL(play->results, 1);
    /* statistics on demand: some tokens are served, then the sums come with the command's id */
    command(6, MESSAGE_CALIBRATE, NULL, play->f.identity.id, 3);
    play_turn(100);
    struct serve_cost cost = {.usage = {.prompt = 3, .made = 2}};
    telemetry_finished(play->telemetry, &cost);
    CU_ASSERT(fixture_wait(&play->f, 5000, has_sums, NULL));
    CU_ASSERT(play->last_sums.command == 6 && play->last_sums.sum[0].rows == 7 && play->last_sums.variant[0] == 0x44 &&
              play->last_sums.base[0] == 0x11);
    /* for another device, then replayed, then right */
    const uint8_t *plan_id = play->last_birth.job_plan_id;
    uint8_t id[16];
    memcpy(id, plan_id, 16);
    command(7, MESSAGE_REVERT, id, "00000000000000000000000000000000", 0);
    command(6, MESSAGE_REVERT, id, play->f.identity.id, 0);
    play_turn(200);
    CU_ASSERT_EQUAL(jobs_state(play->jobs), JOB_COMMITTED);
    command(7, MESSAGE_REVERT, id, play->f.identity.id, 0);
    play_turn(200);
    CU_ASSERT_EQUAL(jobs_state(play->jobs), JOB_ROLLED_BACK);
    CU_ASSERT(fixture_wait(&play->f, 5000, play_is_quiet, NULL));
    CU_ASSERT_EQUAL(play->last_job.code, JOB_REVERTED);
    play_end();
}

/* A shadow run of a sampled answer, when the device is idle. */
static void test_shadow(void)
{
    uint32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct serve_cost cost = {.usage = {.prompt = 3, .made = 5}, .tokens = tokens, .token_count = 8};
    play_begin();
    play_offer(1);
    CU_ASSERT(fixture_wait(&play->f, 10000, play_is_committed, NULL));
    memset(cost.variant, 0x44, 32);
    telemetry_finished(play->telemetry, &cost);
    play_turn(1500);
    uint32_t before = play->records;
    telemetry_flush(play->telemetry);
    CU_ASSERT(fixture_wait(&play->f, 5000, play_is_quiet, NULL));
    CU_ASSERT(play->records > before + 1); /* sketches of the request, and the shadow */
    play_end();
}

RUN_SUITE("link", {"plan by pull, birth, death", test_pull}, {"approval first", test_approval},
          {"faults: once each", test_faults}, {"lost, and sent again", test_lost_report},
          {"lost before a restart", test_lost_epoch}, {"no acknowledgement, no deletion", test_no_ack},
          {"orders", test_orders}, {"shadow", test_shadow})
