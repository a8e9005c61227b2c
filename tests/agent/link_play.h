/* link_play.h: a whole agent but its programs, on a broker in memory, and a director that the test plays. */
#ifndef LINK_PLAY_H
#define LINK_PLAY_H

#include "agent/link.h"
#include "agent_fixture.h"

struct play {
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
};

extern struct play *play;

/* A broker, the director, and the agent on it; play_end closes all of it. */
void play_begin(void);
void play_end(void);
/* The agent alone, on the store it left. */
void play_open_agent(void);
void play_close_agent(void);
/* One round of broker and director. */
void play_direct(void);
/* Rounds of everything for so long. */
void play_turn(int ms);
/* For fixture_wait: nothing is left to be told; the plan is committed. Both let the director work. */
bool play_is_quiet(void *context);
bool play_is_committed(void *context);
/* From now on the director answers with a plan of this version. */
void play_offer(uint64_t version);
/* Signed by the director, to the agent. */
void play_tell(uint32_t kind, uint32_t type, const uint8_t *payload, size_t bytes);
void play_acknowledge(uint64_t epoch);

#endif
