/* sample_test.c: the choice follows the distribution, the cuts and the seed. */
#include "tests/harness.h"

#include <math.h>

#include "model/sample.h"

enum { WORDS = 5 };
/* softmax: 0.5 0.25 0.125 0.0625 0.0625 */
static const float logits[WORDS] = {0.0f, 1.38629436f, 2.07944154f, 0.0f, 0.69314718f};
static const double wanted[WORDS] = {0.0625, 0.25, 0.5, 0.0625, 0.125};

static void draws(struct sample_options options, double share[WORDS])
{
    enum { DRAWS = 40000 };
    struct sampler *s = NULL;
    struct sample_choice c = {0, 0};
    CU_ASSERT_EQUAL_FATAL(sample_open(&options, WORDS, &s), ERR_NONE);
    for (int i = 0; i < WORDS; i++)
        share[i] = 0;
    for (int i = 0; i < DRAWS; i++) {
        CU_ASSERT_EQUAL(sample_next(s, logits, &c), ERR_NONE);
        share[c.token] += 1.0 / DRAWS;
    }
    sample_close(s);
}

static void follows_the_distribution(void)
{
    double share[WORDS];
    draws((struct sample_options){.temperature = 1, .seed = 7}, share);
    for (int i = 0; i < WORDS; i++)
        CU_ASSERT_DOUBLE_EQUAL(share[i], wanted[i], 0.01);
    draws((struct sample_options){.temperature = 1, .top_k = 2, .seed = 7}, share);
    CU_ASSERT_DOUBLE_EQUAL(share[2], 2.0 / 3, 0.01);
    CU_ASSERT_DOUBLE_EQUAL(share[1], 1.0 / 3, 0.01);
    draws((struct sample_options){.temperature = 1, .top_p = 0.8f, .seed = 7}, share);
    CU_ASSERT_DOUBLE_EQUAL(share[2], 0.5 / 0.875, 0.01);
    CU_ASSERT_DOUBLE_EQUAL(share[4], 0.125 / 0.875, 0.01);
    CU_ASSERT_EQUAL(share[0] + share[3], 0);
    draws((struct sample_options){.temperature = 0.5f, .seed = 7}, share);
    CU_ASSERT_DOUBLE_EQUAL(share[2], 0.25 / (0.25 + 0.0625 + 0.015625 + 2 * 0.00390625), 0.01);
    draws((struct sample_options){.temperature = 0, .seed = 7}, share);
    CU_ASSERT_DOUBLE_EQUAL(share[2], 1, 1e-9);
}

/* From the greatest logits alone: the same tokens, draw by draw; ties and NaN among them. */
static void few_are_enough(void)
{
    enum { MANY = 300, DRAWS = 400 };
    static const struct sample_options options[] = {{.temperature = 0},
                                                    {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f},
                                                    {.temperature = 2, .top_k = 1},
                                                    {.temperature = 1, .top_k = 64},
                                                    {.temperature = 3, .top_k = 7, .top_p = 0.5f}};
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        struct sampler *a = NULL, *b = NULL;
        CU_ASSERT_EQUAL_FATAL(sample_open(&options[i], MANY, &a), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(sample_open(&options[i], MANY, &b), ERR_NONE);
        const uint32_t wants = sample_wants(b);
        CU_ASSERT_EQUAL(wants, options[i].temperature > 0 ? options[i].top_k : 1);
        for (int n = 0; n < DRAWS; n++) {
            float many[MANY], logit[64];
            struct sample_choice order[64], x = {0, 0}, y = {1, 0};
            uint32_t token[64], got = 0;
            for (int k = 0; k < MANY; k++) {
                state = state * 1664525u + 1013904223u;
                many[k] = (float)(state >> 28) * 0.5f; /* of 16 values, so with ties */
            }
            many[state >> 24] = NAN;
            CU_ASSERT_EQUAL(sample_top(a, many, wants, order, &got), ERR_NONE);
            CU_ASSERT_EQUAL_FATAL(got, wants);
            for (uint32_t k = 0; k < wants; k++) {
                token[k] = order[k].token;
                logit[k] = many[token[k]];
            }
            CU_ASSERT_EQUAL(sample_next(a, many, &x), ERR_NONE);
            CU_ASSERT_EQUAL(sample_from(b, token, logit, &y), ERR_NONE);
            CU_ASSERT_EQUAL(x.token, y.token);
        }
        const uint32_t none[64] = {UINT32_MAX};
        const float zeros[64] = {0};
        CU_ASSERT_EQUAL(wants == 1 ? sample_from(b, none, zeros, &(struct sample_choice){0, 0}) : ERR_ARGUMENT,
                        ERR_ARGUMENT);
        sample_close(a);
        sample_close(b);
    }
    struct sampler *all = NULL;
    CU_ASSERT_EQUAL_FATAL(sample_open(&(struct sample_options){.temperature = 1, .top_k = 65}, MANY, &all), ERR_NONE);
    CU_ASSERT_EQUAL(sample_wants(all), 0);
    sample_close(all);
}

static void seed_repeats(void)
{
    struct sampler *a = NULL, *b = NULL, *c = NULL;
    struct sample_options options = {.temperature = 2, .seed = 42};
    CU_ASSERT_EQUAL_FATAL(sample_open(&options, WORDS, &a), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(sample_open(&options, WORDS, &b), ERR_NONE);
    options.seed = 43;
    CU_ASSERT_EQUAL_FATAL(sample_open(&options, WORDS, &c), ERR_NONE);
    int differs = 0;
    for (int i = 0; i < 200; i++) {
        struct sample_choice x = {0, 0}, y = {0, 0}, z = {0, 0};
        CU_ASSERT_EQUAL(sample_next(a, logits, &x), ERR_NONE);
        CU_ASSERT_EQUAL(sample_next(b, logits, &y), ERR_NONE);
        CU_ASSERT_EQUAL(sample_next(c, logits, &z), ERR_NONE);
        CU_ASSERT_EQUAL(x.token, y.token);
        CU_ASSERT_DOUBLE_EQUAL(x.logprob, log(wanted[x.token]), 1e-5);
        differs += x.token != z.token;
    }
    CU_ASSERT(differs > 50);
    sample_close(a);
    sample_close(b);
    sample_close(c);
}

static void top_and_bad_input(void)
{
    struct sampler *s = NULL;
    struct sample_options options = {.temperature = 1};
    struct sample_choice top[8];
    uint32_t got = 0;
    CU_ASSERT_EQUAL_FATAL(sample_open(&options, WORDS, &s), ERR_NONE);
    CU_ASSERT_EQUAL(sample_top(s, logits, 8, top, &got), ERR_NONE);
    CU_ASSERT_EQUAL(got, WORDS);
    static const uint32_t order[WORDS] = {2, 1, 4, 0, 3}; /* the tie goes to the lower token */
    for (uint32_t i = 0; i < WORDS; i++) {
        CU_ASSERT_EQUAL(top[i].token, order[i]);
        CU_ASSERT_DOUBLE_EQUAL(top[i].logprob, log(wanted[order[i]]), 1e-5);
    }
    const float nothing[WORDS] = {NAN, NAN, -INFINITY, NAN, NAN};
    CU_ASSERT_EQUAL(sample_next(s, nothing, top), ERR_ARGUMENT);
    const float one[WORDS] = {NAN, NAN, 3, NAN, NAN};
    CU_ASSERT_EQUAL(sample_next(s, one, top), ERR_NONE);
    CU_ASSERT_EQUAL(top[0].token, 2);
    sample_close(s);
    options.temperature = -1;
    CU_ASSERT_EQUAL(sample_open(&options, WORDS, &s), ERR_ARGUMENT);
    options = (struct sample_options){.temperature = 1, .top_p = 1.5f};
    CU_ASSERT_EQUAL(sample_open(&options, WORDS, &s), ERR_ARGUMENT);
}

RUN_SUITE("model/sample", {"follows the distribution", follows_the_distribution},
          {"the seed repeats", seed_repeats}, {"the greatest alone", few_are_enough}, {"top and bad input", top_and_bad_input})
