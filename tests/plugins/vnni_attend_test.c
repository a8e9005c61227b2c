/* Attention over spans of every form, against scalar, on every path of this machine. */
#include "tests/harness.h"
#include "tests/plugins/vnni_fixture.h"

#include <math.h>
#include <stdlib.h>

enum { SLOTS = 200, ROWS_MAX = 70, SPANS_MAX = 4 * ROWS_MAX };

/* What row r sees. */
enum view {
    VIEW_CAUSAL,   /* slots 0 .. r + 60 */
    VIEW_WINDOW,   /* the last 20 */
    VIEW_PAGES,    /* pages of 16 in another order, then a part of one */
    VIEW_SEQUENCE, /* two sequences, by turns */
    VIEW_NOTHING,  /* every third row sees nothing */
    VIEWS
};

struct spans {
    struct hal_span span[SPANS_MAX * 8];
    uint32_t first[ROWS_MAX + 1];
    uint32_t count;
};

static void see(struct spans *s, uint32_t slot, uint32_t slots)
{
    s->span[s->count++] = (struct hal_span){slot, slots};
}

static void make_spans(struct spans *s, enum view view, uint32_t rows)
{
    s->count = 0;
    for (uint32_t r = 0; r < rows; r++) {
        s->first[r] = s->count;
        const uint32_t length = r + 60;
        switch (view) {
        case VIEW_CAUSAL: see(s, 0, length); break;
        case VIEW_WINDOW: see(s, length - 20, 20); break;
        case VIEW_PAGES:
            for (uint32_t page = 0; page < length / 16; page++)
                see(s, (page * 5 + 3) % 12 * 16, 16);
            see(s, (length / 16 * 5 + 3) % 12 * 16, length % 16);
            break;
        case VIEW_SEQUENCE: see(s, r % 2 * 100, 10 + r / 2); break;
        default:
            if (r % 3 != 0)
                see(s, 7, 33 + r % 5);
        }
    }
    s->first[rows] = s->count;
}

static int make(struct vnni_fixture *f, uint32_t rows, uint32_t cols, float size, uint32_t seed,
                struct vnni_pair *out)
{
    const size_t count = (size_t)rows * cols;
    float *x = malloc(count * sizeof *x);
    if (x == NULL || !vnni_fixture_new(f, HAL_F32, HAL_ACTIVATION, rows, cols, out))
        return 0;
    uint32_t state = seed;
    for (size_t i = 0; i < count; i++)
        x[i] = size * vnni_fixture_uniform(&state);
    const int ok = vnni_fixture_put(f, out, x, count * sizeof *x);
    free(x);
    return ok;
}

/* A cache filled through store; both sides must hold the same bytes. is_strange: one value of slot 5 is infinite. */
static int make_cache(struct vnni_fixture *f, uint32_t type, uint32_t cols, uint32_t seed, int is_strange,
                      struct vnni_pair *out)
{
    struct vnni_pair x;
    const struct hal_mat one = {.type = HAL_F32, .use = HAL_ACTIVATION, .rows = 1, .cols = cols};
    struct hal_mat mine = one, theirs = one;
    const uint32_t strange = 5;
    float *huge = calloc(cols, sizeof *huge);
    uint32_t slot[SLOTS];
    for (uint32_t i = 0; i < SLOTS; i++)
        slot[i] = (i * 7) % SLOTS;
    if (huge == NULL)
        return 0;
    huge[0] = 1e6f; /* beyond F16 */
    mine.mem = theirs.mem = huge;
    const int ok =
        make(f, SLOTS, cols, 1.0f, seed, &x) &&
        vnni_fixture_new(f, type, HAL_CACHE, SLOTS, cols, out) &&
        f->plugin->store(f->dev, &out->mine, &x.mine, slot) == ERR_NONE &&
        scalar_plugin.store(f->reference, &out->theirs, &x.theirs, slot) == ERR_NONE &&
        (!is_strange || (f->plugin->store(f->dev, &out->mine, &mine, &strange) == ERR_NONE &&
                         scalar_plugin.store(f->reference, &out->theirs, &theirs, &strange) == ERR_NONE)) &&
        vnni_fixture_equal(f, out, block_row_bytes(type, cols) * SLOTS);
    vnni_fixture_free(f, &x);
    free(huge);
    return ok;
}

struct shape {
    uint32_t heads, kv_heads, key_dim, value_dim, rows, type;
    float softcap, size;
    int strange_key, strange_value;
};

/* A row alone has the bits that it has among others. */
static int is_same_alone(struct vnni_fixture *f, const struct vnni_pair *y, const struct vnni_pair *q,
                         const struct vnni_pair *k, const struct vnni_pair *v, const struct hal_attend *all)
{
    const uint32_t rows = y->mine.rows, cols = y->mine.cols;
    float *together = malloc((size_t)rows * cols * sizeof *together);
    int is_same = together != NULL;
    if (together)
        memcpy(together, y->mine.mem, (size_t)rows * cols * sizeof *together);
    for (uint32_t r = 0; r < rows && is_same; r++) {
        struct hal_attend g = *all;
        struct hal_mat one = y->mine, asks = q->mine;
        g.first = all->first + r;
        one.rows = asks.rows = 1;
        asks.mem = (float *)q->mine.mem + (size_t)r * q->mine.cols;
        is_same = f->plugin->attend(f->dev, &one, &asks, &k->mine, &v->mine, &g) == ERR_NONE &&
                  memcmp(one.mem, together + (size_t)r * cols, cols * sizeof *together) == 0;
    }
    free(together);
    return is_same;
}

static double attend_case(struct vnni_fixture *f, const struct shape *s, enum view view)
{
    static struct spans spans;
    struct vnni_pair q, k, v, y;
    double difference = 1e9;
    make_spans(&spans, view, s->rows);
    const struct hal_attend g = {.heads = s->heads, .kv_heads = s->kv_heads, .key_dim = s->key_dim,
                                 .value_dim = s->value_dim,
                                 .scale = 1.0f / sqrtf((float)s->key_dim), .softcap = s->softcap,
                                 .spans = spans.span, .first = spans.first};
    if (!make(f, s->rows, s->heads * s->key_dim, s->size, 1, &q) ||
        !make(f, s->rows, s->heads * s->value_dim, 1.0f, 2, &y) ||
        !make_cache(f, s->type, s->kv_heads * s->key_dim, 3, s->strange_key, &k) ||
        !make_cache(f, s->type, s->kv_heads * s->value_dim, 4, s->strange_value, &v))
        return difference;
    if (f->plugin->attend(f->dev, &y.mine, &q.mine, &k.mine, &v.mine, &g) == ERR_NONE &&
        scalar_plugin.attend(f->reference, &y.theirs, &q.theirs, &k.theirs, &v.theirs, &g) ==
            ERR_NONE)
        difference = vnni_fixture_difference(f, &y);
    CU_ASSERT(is_same_alone(f, &y, &q, &k, &v, &g));
    vnni_fixture_free(f, &q);
    vnni_fixture_free(f, &k);
    vnni_fixture_free(f, &v);
    vnni_fixture_free(f, &y);
    return difference;
}

static const struct shape shapes[] = {
    {4, 4, 32, 32, 1, HAL_F16, 0, 3, 0, 0},    {8, 2, 64, 64, 70, HAL_F16, 0, 3, 0, 0},
    {16, 1, 128, 128, 33, HAL_F16, 0, 9, 0, 0}, {9, 3, 80, 48, 17, HAL_F16, 0, 3, 0, 0},
    {6, 2, 17, 23, 5, HAL_F16, 0, 3, 0, 0},    {130, 1, 32, 32, 3, HAL_F16, 0, 3, 0, 0},
    {8, 2, 64, 64, 40, HAL_Q8_0, 0, 3, 0, 0},  {8, 4, 64, 96, 2, HAL_Q4_0, 0, 3, 0, 0},
    {8, 2, 64, 64, 19, HAL_F16, 5, 20, 0, 0},  {12, 2, 192, 128, 21, HAL_Q8_0, 0, 40, 0, 0},
    {300, 1, 32, 32, 2, HAL_Q8_0, 0, 3, 0, 0}, {2, 2, 64, 64, 64, HAL_Q4_0, 9, 3, 0, 0},
    {2, 2, 64, 64, 24, HAL_F16, 0, 3, 1, 0},   {2, 2, 64, 64, 24, HAL_F16, 0, 3, 0, 1},
};

static void every_view_and_shape(void)
{
    const char *path;
    for (uint32_t p = 0; (path = vnni_fixture_path(p)) != NULL; p++) {
        struct vnni_fixture f;
        CU_ASSERT_FATAL(vnni_fixture_open(&f, path, 3));
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            for (int view = 0; view < VIEWS; view++) {
                const double d = attend_case(&f, &shapes[i], (enum view)view);
                CU_ASSERT(d <= 2e-5);
                if (!(d <= 2e-5))
                    printf("%s shape %zu view %d: %g\n", path, i, view, d);
            }
        }
        vnni_fixture_close(&f);
        CU_ASSERT(vnni_fixture_bytes() == 0);
    }
}

int main(void)
{
    if (vnni_fixture_path(0) == NULL) {
        printf("skipped: this processor has no AVX2\n");
        return HARNESS_SKIPPED;
    }
    CU_TestInfo tests[] = {{"every view and shape", every_view_and_shape}, CU_TEST_INFO_NULL};
    return harness_run("vnni_attend", tests);
}
