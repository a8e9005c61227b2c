/* prune_solve_test.c: triangles for many sides at once, and a linear that makes up for what the stream lacks. Inputs
 * come from a fixed generator. */
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compress/prune_solve.h"
#include "compress/triangle.h"

enum { N = 203, COLS = 48, ROWS = 20, TOKENS = 1600 };

static uint64_t seed = 1;

static float noise(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / 16777216.0f - 0.5f;
}

/* b of x is what it was made of, and the same bits whoever stands beside it. */
static void sides_are_solved(void)
{
    static float m[N * N];
    static double r[N * N], x[TRIANGLE_SIDES * N], all[TRIANGLE_SIDES * N], few[5 * N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++)
            m[i * N + j] = m[j * N + i] = i == j ? 12 : noise();
    CU_ASSERT_EQUAL_FATAL(hessian_factor(m, N, 0, r, NULL, 2), ERR_NONE);
    triangle_mirror(r, N);
    for (int s = 0; s < TRIANGLE_SIDES; s++)
        for (int i = 0; i < N; i++)
            x[s * N + i] = (double)noise();
    for (int s = 0; s < TRIANGLE_SIDES; s++)
        for (int i = 0; i < N; i++) {
            all[s * N + i] = 0;
            for (int j = 0; j < N; j++)
                all[s * N + i] += (double)m[i * N + j] * x[s * N + j];
        }
    memcpy(few, all + (size_t)7 * N, sizeof few);
    triangle_solve(r, N, all, TRIANGLE_SIDES);
    triangle_solve(r, N, few, 5);
    double worst = 0;
    for (int i = 0; i < TRIANGLE_SIDES * N; i++)
        worst = fmax(worst, fabs(all[i] - x[i]));
    CU_ASSERT_TRUE(worst < 1e-9);
    CU_ASSERT_EQUAL(memcmp(few, all + (size_t)7 * N, sizeof few), 0);
}

/* Rows [x d] of a stream that lacks d = lack x; with rows to judge by or without. */
static struct hessian *lacking(const float *lack, bool is_held)
{
    static float both[TOKENS * (COLS + ROWS)];
    struct hessian *h = NULL;
    for (int t = 0; t < TOKENS; t++) {
        float *x = both + (size_t)t * (COLS + ROWS);
        for (int c = 0; c < COLS; c++)
            x[c] = noise();
        for (int i = 0; i < ROWS; i++) {
            x[COLS + i] = 0;
            for (int c = 0; c < COLS; c++)
                x[COLS + i] += lack[i * COLS + c] * x[c];
        }
    }
    CU_ASSERT_EQUAL_FATAL(hessian_open(COLS + ROWS, &h), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(hessian_add(h, HESSIAN_TRAIN, both, TOKENS - 400, 2), ERR_NONE);
    if (is_held)
        CU_ASSERT_EQUAL_FATAL(hessian_add(h, HESSIAN_HELD, both + (size_t)(TOKENS - 400) * (COLS + ROWS), 400, 1), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(hessian_split(h, COLS), ERR_NONE);
    hessian_finish(h);
    return h;
}

static void what_the_stream_lacks_is_made_up_for(void)
{
    static float w[ROWS * COLS], lack[ROWS * COLS], solved[ROWS * COLS], other[ROWS * COLS];
    uint8_t kept[COLS];
    struct prune_recovery r, again;
    for (int i = 0; i < ROWS * COLS; i++) {
        w[i] = noise();
        lack[i] = 0.2f * noise();
    }
    memset(kept, 1, sizeof kept);
    struct hessian *h = lacking(lack, true);
    memcpy(solved, w, sizeof w);
    memcpy(other, w, sizeof w);
    CU_ASSERT_EQUAL_FATAL(prune_solve_recover(h, kept, solved, ROWS, 1, &r), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(prune_solve_recover(h, kept, other, ROWS, 3, &again), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(solved, other, sizeof w), 0);
    for (int i = 0; i < ROWS * COLS; i++) /* three quarters of it */
        CU_ASSERT_TRUE(fabsf(solved[i] - w[i] - 0.75f * lack[i]) < 0.002f);
    CU_ASSERT_TRUE(fabs(r.before - 0.04) < 0.01 && fabs(r.after / r.before - 0.0625) < 0.01);
    kept[3] = kept[30] = 0;
    memcpy(solved, w, sizeof w);
    CU_ASSERT_EQUAL_FATAL(prune_solve_recover(h, kept, solved, ROWS, 2, &r), ERR_NONE);
    CU_ASSERT_TRUE(solved[3] == 0 && solved[30] == 0 && r.after < r.before && r.after > again.after);
    hessian_close(h);

    memset(kept, 1, sizeof kept);
    h = lacking(lack, false); /* nothing says whether it is a gain */
    memcpy(solved, w, sizeof w);
    CU_ASSERT_EQUAL_FATAL(prune_solve_recover(h, kept, solved, ROWS, 2, &r), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(solved, w, sizeof w), 0);
    hessian_close(h);
}

RUN_SUITE("prune_solve", {"sides_are_solved", sides_are_solved},
          {"what_the_stream_lacks_is_made_up_for", what_the_stream_lacks_is_made_up_for})
