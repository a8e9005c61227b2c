/* job_test.c tests protocol/job.c: every pair of state and event, and every path. */
#include "tests/harness.h"

#include <stdbool.h>
#include <string.h>

#include "protocol/job.h"

/* The whole machine as the design's text has it, one line per state: event letters and where they
 * lead. O offer, A accept, R reject, D defer, d due, S start, F fetched, V verified, X damaged, E
 * derived, P passed, W switch, p proved, r retry, T restart, f fail, C cancel, v revert, c clear.
 */
static const char letters[JOB_EVENTS + 1] = "OARDdSFVXEPWprTfCvc";
static const struct {
    uint32_t state;
    const char *allowed; /* letter, then the next state as a letter 'a' + number */
} expected[] = {
    {JOB_IDLE, "ObTa"},
    {JOB_OFFERED, "ObAcRdDeTbCn"},
    {JOB_ACCEPTED, "SfrcTcfnCn"},
    {JOB_REJECTED, "ObTdca"},
    {JOB_DEFERRED, "ObRddbTeCn"},
    {JOB_FETCHING, "FgrfTffnCn"},
    {JOB_VERIFYING, "VhXfrgTgfnCn"},
    {JOB_DERIVING, "EirhThfnCn"},
    {JOB_SELFTEST, "PjriTifnCn"},
    {JOB_STAGED, "WkrjTjfnCn"},
    {JOB_TRIAL, "plrkTkfmCmvm"},
    {JOB_COMMITTED, "ObTlvmca"},
    {JOB_ROLLED_BACK, "ObTmca"},
    {JOB_FAILED, "ObTnca"},
};

static void table_is_the_design(void)
{
    for (uint32_t s = 0; s < JOB_STATES; s++)
        for (uint32_t e = 0; e < JOB_EVENTS; e++) {
            const char *at = NULL;
            for (const char *p = expected[s].allowed; *p; p += 2)
                if (*p == letters[e])
                    at = p;
            uint32_t next = 77;
            enum err err = job_next(s, e, &next);
            CU_ASSERT_EQUAL(expected[s].state, s);
            CU_ASSERT_EQUAL(err, at ? ERR_NONE : ERR_ARGUMENT);
            CU_ASSERT_EQUAL(next, at ? (uint32_t)(at[1] - 'a') : 77);
        }
    uint32_t next = 77;
    CU_ASSERT_EQUAL(job_next(JOB_STATES, 0, &next), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(job_next(0, JOB_EVENTS, &next), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(next, 77);
}

/* What a path has been through, as bits; every reachable (state, history) is visited. */
enum { SELFTESTED = 1, SWITCHED = 2, PROVED = 4, VERIFIED = 8, DERIVED = 16, HISTORIES = 32 };

static bool seen[JOB_STATES][HISTORIES];

static unsigned history_after(unsigned history, uint32_t event)
{
    switch (event) {
    case JOB_EVENT_OFFER:
    case JOB_EVENT_CLEAR: return 0;
    case JOB_EVENT_VERIFIED: return history | VERIFIED;
    case JOB_EVENT_DERIVED: return history | DERIVED;
    case JOB_EVENT_PASSED: return history | SELFTESTED;
    case JOB_EVENT_SWITCH: return history | SWITCHED;
    case JOB_EVENT_PROVED: return history | PROVED;
    default: return history;
    }
}

static void never_commits_unproved(void)
{
    bool grew = true;
    memset(seen, 0, sizeof seen);
    seen[JOB_IDLE][0] = true;
    while (grew) {
        grew = false;
        for (uint32_t s = 0; s < JOB_STATES; s++)
            for (unsigned h = 0; h < HISTORIES; h++)
                for (uint32_t e = 0; seen[s][h] && e < JOB_EVENTS; e++) {
                    uint32_t next;
                    if (job_next(s, e, &next) != ERR_NONE)
                        continue;
                    bool *to = &seen[next][history_after(h, e)];
                    grew = grew || !*to;
                    *to = true;
                }
    }
    for (unsigned h = 0; h < HISTORIES; h++) {
        CU_ASSERT_TRUE(!seen[JOB_COMMITTED][h] || h == HISTORIES - 1);
        CU_ASSERT_TRUE(!seen[JOB_TRIAL][h] ||
                       (h & (SELFTESTED | SWITCHED)) == (SELFTESTED | SWITCHED));
        CU_ASSERT_TRUE(!seen[JOB_STAGED][h] || (h & SELFTESTED));
        CU_ASSERT_TRUE(!seen[JOB_DERIVING][h] || (h & VERIFIED));
        /* FAILED is before the trial, ROLLED_BACK after it: which slot serves is never in doubt */
        CU_ASSERT_TRUE(!seen[JOB_FAILED][h] || !(h & SWITCHED));
        CU_ASSERT_TRUE(!seen[JOB_ROLLED_BACK][h] || (h & SWITCHED));
    }
    CU_ASSERT_TRUE(seen[JOB_COMMITTED][HISTORIES - 1]);
}

static void no_state_is_stuck(void)
{
    for (uint32_t s = 0; s < JOB_STATES; s++) {
        bool leaves = false, restarts = false;
        for (uint32_t e = 0; e < JOB_EVENTS; e++) {
            uint32_t next = s;
            if (job_next(s, e, &next) == ERR_NONE) {
                leaves = leaves || next != s;
                restarts = restarts || (e == JOB_EVENT_RESTART && next == s);
            }
        }
        CU_ASSERT_TRUE(leaves);
        CU_ASSERT_TRUE(restarts); /* kill -9 leaves the state where it was */
        uint32_t next;
        CU_ASSERT_EQUAL(job_is_ended(s), job_next(s, JOB_EVENT_CLEAR, &next) == ERR_NONE);
    }
}

static void codes_are_final_or_not(void)
{
    for (uint32_t code = 0; code < 100; code++) {
        bool is_named = strcmp(job_code_name(code), "?") != 0;
        bool is_final = (code >= 1 && code <= 19) || (code >= 50 && code <= 99) || code == 0 ||
                        code == JOB_FAIL_MISMATCH;
        CU_ASSERT_TRUE(job_attempts(code) >= 1);
        CU_ASSERT_EQUAL(job_is_retryable(code), is_named && !is_final);
    }
    CU_ASSERT_STRING_EQUAL(job_code_name(JOB_GATE_DPPL), "gate-dppl");
    CU_ASSERT_STRING_EQUAL(job_state_name(JOB_FAILED), "FAILED");
    CU_ASSERT_STRING_EQUAL(job_state_name(JOB_STATES), "?");
    CU_ASSERT_STRING_EQUAL(job_event_name(JOB_EVENT_CLEAR), "clear");
}

RUN_SUITE("job", {"table_is_the_design", table_is_the_design},
          {"never_commits_unproved", never_commits_unproved},
          {"no_state_is_stuck", no_state_is_stuck},
          {"codes_are_final_or_not", codes_are_final_or_not})
