/* seen_test.c: an acknowledgement never covers a gap, whatever the order. */
#include "controller/seen.h"

#include <stdlib.h>
#include <string.h>

#include "tests/harness.h"

static uint32_t draw(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Against a plain table of booleans, in random order with repeats and ranges. */
static void agrees_with_a_table(void)
{
    for (uint32_t seed = 1; seed <= 300; seed++) {
        struct seen s = {0};
        bool has[260] = {false};
        uint32_t state = seed;
        for (int i = 0; i < 300; i++) {
            uint64_t first = 1 + draw(&state) % 200, last = first + draw(&state) % 8;
            enum err e = seen_add(&s, first, last, 0);
            CU_ASSERT(e == ERR_NONE || e == ERR_FULL);
            for (uint64_t k = first; k <= last && !e; k++)
                has[k] = true;
            uint64_t up_to = 0;
            while (has[up_to + 1])
                up_to++;
            CU_ASSERT_EQUAL_FATAL(s.up_to, up_to);
        }
        for (uint64_t k = 1; k < 250; k++)
            CU_ASSERT_EQUAL(seen_has(&s, k), has[k]);
        json_t *doc = seen_to_doc(&s);
        struct seen back;
        seen_from_doc(doc, &back);
        json_decref(doc);
        CU_ASSERT_EQUAL(back.up_to, s.up_to);
        CU_ASSERT_EQUAL(back.ranges, s.ranges);
        CU_ASSERT_EQUAL(memcmp(back.range, s.range, s.ranges * sizeof s.range[0]), 0);
    }
}

static void refuses_more_gaps_than_it_keeps(void)
{
    struct seen s = {0};
    for (uint64_t k = 0; k < SEEN_RANGES_MAX; k++)
        CU_ASSERT_EQUAL(seen_add(&s, 10 + 2 * k, 10 + 2 * k, 0), ERR_NONE);
    struct seen before = s;
    CU_ASSERT_EQUAL(seen_add(&s, 1000, 1000, 0), ERR_FULL);
    CU_ASSERT_EQUAL(memcmp(&before, &s, sizeof s), 0);
    CU_ASSERT_EQUAL(seen_add(&s, 1, 10 + 2 * SEEN_RANGES_MAX, 0), ERR_NONE);
    CU_ASSERT_EQUAL(s.ranges, 0);
    CU_ASSERT_EQUAL(seen_add(&s, 0, 0, 0), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(seen_add(&s, 5, 4, 0), ERR_ARGUMENT);
}

static void gives_up_a_gap_by_time_and_repeats(void)
{
    struct seen s = {0};
    CU_ASSERT_EQUAL(seen_add(&s, 5, 9, 1000), ERR_NONE);
    CU_ASSERT_EQUAL(seen_repeat(&s, 1000 + SEEN_GAP_S), 0);
    CU_ASSERT_EQUAL(seen_repeat(&s, 1000 + SEEN_GAP_S), 0);
    CU_ASSERT_EQUAL(seen_add(&s, 1, 1, 1000 + SEEN_GAP_S), ERR_NONE); /* it is being filled */
    for (int i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(seen_repeat(&s, 1000 + SEEN_GAP_S + 1), 0);
    CU_ASSERT_EQUAL(seen_repeat(&s, 1000 + 2 * SEEN_GAP_S), 3);
    CU_ASSERT_EQUAL(s.up_to, 9);
}

RUN_SUITE("seen", {"agrees with a table", agrees_with_a_table},
          {"refuses more gaps than it keeps", refuses_more_gaps_than_it_keeps},
          {"gives up a gap by time and repeats", gives_up_a_gap_by_time_and_repeats})
