/* drift_test.c: when the rule fires, and above all when it does not. */
#include "controller/drift.h"

#include <string.h>

#include "tests/harness.h"

static const struct controller_settings settings = {.drift_limit = 0.1,
                                                    .drift_rearm = 0.06,
                                                    .shadow_kld_limit = 0.5,
                                                    .drift_confirm = 3,
                                                    .drift_rows = 100,
                                                    .drift_interval_s = 3600};

static bool look(struct drift_state *s, double score, double kld, double rows, int64_t now_s)
{
    struct drift_look l = {.score = score, .shadow_kld = kld, .rows = rows, .now_s = now_s};
    return drift_rule(&settings, &l, s);
}

static void fires_once_after_confirmation(void)
{
    struct drift_state s = {.is_armed = true};
    CU_ASSERT_FALSE(look(&s, 0.2, 0, 500, 1000));
    CU_ASSERT_FALSE(look(&s, 0.2, 0, 500, 1001));
    CU_ASSERT_TRUE(look(&s, 0.2, 0, 500, 1002));
    for (int i = 0; i < 50; i++) /* not armed any more, however long it lasts */
        CU_ASSERT_FALSE(look(&s, 0.3, 0, 500, 10000 + i * 1000));
}

static void a_calm_look_starts_the_count_anew(void)
{
    struct drift_state s = {.is_armed = true};
    for (int i = 0; i < 50; i++) {
        CU_ASSERT_FALSE(look(&s, 0.2, 0, 500, i));
        CU_ASSERT_FALSE(look(&s, 0.2, 0, 500, i));
        CU_ASSERT_FALSE(look(&s, 0.09, 0, 500, i)); /* noise around the limit never fires */
    }
}

static void few_rows_say_nothing(void)
{
    struct drift_state s = {.is_armed = true};
    for (int i = 0; i < 10; i++)
        CU_ASSERT_FALSE(look(&s, 0.9, 0, 99, i));
    CU_ASSERT_EQUAL(s.above, 0);
}

static void hysteresis_and_rate_limit(void)
{
    struct drift_state s = {.is_armed = true};
    int64_t now = 10000;
    for (int i = 0; i < 3; i++)
        (void)look(&s, 0.2, 0, 500, now);
    CU_ASSERT_EQUAL(s.fired_s, now);
    CU_ASSERT_FALSE(look(&s, 0.08, 0, 500, now)); /* below the limit, above the lower one */
    CU_ASSERT_FALSE(s.is_armed);
    CU_ASSERT_FALSE(look(&s, 0.05, 0, 500, now));
    CU_ASSERT_TRUE(s.is_armed);
    for (int i = 0; i < 10; i++) /* armed and above, but too soon */
        CU_ASSERT_FALSE(look(&s, 0.2, 0, 500, now + 3599));
    CU_ASSERT_TRUE(look(&s, 0.2, 0, 500, now + 3600));
}

static void shadow_divergence_fires_too(void)
{
    struct drift_state s = {.is_armed = true};
    CU_ASSERT_FALSE(look(&s, 0.01, 0.6, 0, 1)); /* it needs no statistics */
    CU_ASSERT_FALSE(look(&s, 0.01, 0.6, 0, 2));
    CU_ASSERT_TRUE(look(&s, 0.01, 0.6, 0, 3));
    CU_ASSERT_FALSE(look(&s, 0.01, 0.4, 500, 4)); /* not calm yet: above 0.7 of the limit */
    CU_ASSERT_FALSE(s.is_armed);
    CU_ASSERT_FALSE(look(&s, 0.01, 0.3, 500, 5));
    CU_ASSERT_TRUE(s.is_armed);
}

/* A day of noisy looks around a score, one each 10 s: how often does it fire? */
static unsigned day(double centre, double spread, uint32_t seed)
{
    struct drift_state s = {.is_armed = true};
    unsigned fired = 0;
    for (int64_t now = 1; now < 86400; now += 10) {
        seed = seed * 1664525u + 1013904223u;
        double noise = ((double)(seed >> 8) / 16777216.0 - 0.5) * 2 * spread;
        fired += look(&s, centre + noise, 0, 500, now);
    }
    return fired;
}

static void does_not_flap(void)
{
    for (uint32_t seed = 1; seed <= 100; seed++) {
        CU_ASSERT_EQUAL(day(0.05, 0.04, seed), 0);
        CU_ASSERT_EQUAL(day(0.3, 0.1, seed), 1);
        CU_ASSERT(day(0.1, 0.09, seed) <= 24); /* even at the worst not above the rate limit */
    }
}

RUN_SUITE("drift", {"fires once after confirmation", fires_once_after_confirmation},
          {"a calm look starts the count anew", a_calm_look_starts_the_count_anew},
          {"few rows say nothing", few_rows_say_nothing},
          {"hysteresis and rate limit", hysteresis_and_rate_limit},
          {"shadow divergence fires too", shadow_divergence_fires_too},
          {"does not flap", does_not_flap})
