/* cuda_graph_test.c: a small decoder, token by token, on the mock driver: as graphs, launch by launch
 * and on scalar. Equal results, to the bit between the first two; few calls of the driver; what fails
 * in a graph's making is done without. With the argument "without": on a driver that has no graphs. */
#include "tests/harness.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/check_host.h"
#include "hal/load.h"
#include "plugins/scalar/scalar.h"

enum {
    WIDTH = 64,
    HEADS = 2,
    HEAD = WIDTH / HEADS,
    FFN = 96,
    VOCABULARY = 96,
    LAYERS = 2,
    CONTEXT = 48,
    TOKENS = 12,
    LAUNCHES = 1 + LAYERS * 21 + 2 + 1 /* of one token, attention unsplit */
};

static struct hal_plugin cuda;
static struct {
    void (*fail)(const char *call, unsigned nth, int result);
    unsigned (*calls)(const char *call), (*launches)(const char *kernel);
} mock;
static int has_graphs = 1;
static char said[256];

struct layer {
    struct hal_mat norm, q, k, v, o, ffn_norm, gate, up, down, keys, values;
};

struct decoder {
    const struct hal_plugin *p;
    void *dev;
    struct hal_mat table, head, out_norm, angles;
    struct layer layer[LAYERS];
    struct hal_mat x, h, q, k, v, a, gate, up, logits;
    enum err error;
};

static uint32_t seed;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(int32_t)seed * 0x1p-31f;
}

static void make(struct decoder *d, struct hal_mat *m, uint32_t use, uint32_t type, uint32_t rows,
                 uint32_t cols)
{
    static float x[VOCABULARY * FFN];
    static uint8_t bytes[sizeof x];
    const size_t size = block_row_bytes(type, cols) * rows;
    *m = (struct hal_mat){.type = type, .use = use, .rows = rows, .cols = cols};
    CU_ASSERT_EQUAL_FATAL(d->p->mat_new(d->dev, m), ERR_NONE);
    if (use == HAL_CACHE)
        return;
    for (uint32_t i = 0; i < rows * cols; i++)
        x[i] = noise();
    CU_ASSERT_EQUAL(scalar_encode(d->dev, type, HAL_RTN, x, rows, cols, NULL, bytes, size), ERR_NONE);
    CU_ASSERT_EQUAL(d->p->mat_put(d->dev, m, 0, rows, bytes, size), ERR_NONE);
}

static void open_decoder(struct decoder *d, const struct hal_plugin *p, const struct hal_host *host)
{
    memset(d, 0, sizeof *d);
    d->p = p;
    seed = 1;
    CU_ASSERT_EQUAL_FATAL(p->open(host, &d->dev), ERR_NONE);
    make(d, &d->table, HAL_WEIGHT, HAL_Q8_0, VOCABULARY, WIDTH);
    make(d, &d->head, HAL_WEIGHT, HAL_Q8_0, VOCABULARY, WIDTH);
    make(d, &d->out_norm, HAL_ACTIVATION, HAL_F32, 1, WIDTH);
    for (int i = 0; i < LAYERS; i++) {
        struct layer *l = &d->layer[i];
        make(d, &l->norm, HAL_ACTIVATION, HAL_F32, 1, WIDTH);
        make(d, &l->q, HAL_WEIGHT, HAL_Q4_0, WIDTH, WIDTH);
        make(d, &l->k, HAL_WEIGHT, HAL_Q4_0, WIDTH, WIDTH);
        make(d, &l->v, HAL_WEIGHT, HAL_Q8_0, WIDTH, WIDTH);
        make(d, &l->o, HAL_WEIGHT, HAL_Q4_0, WIDTH, WIDTH);
        make(d, &l->ffn_norm, HAL_ACTIVATION, HAL_F32, 1, WIDTH);
        make(d, &l->gate, HAL_WEIGHT, HAL_Q4_0, FFN, WIDTH);
        make(d, &l->up, HAL_WEIGHT, HAL_Q4_0, FFN, WIDTH);
        make(d, &l->down, HAL_WEIGHT, HAL_F16, WIDTH, FFN);
        make(d, &l->keys, HAL_CACHE, HAL_F16, CONTEXT, WIDTH);
        make(d, &l->values, HAL_CACHE, HAL_F16, CONTEXT, WIDTH);
    }
    struct hal_mat *const activation[] = {&d->x, &d->h, &d->q, &d->k, &d->v, &d->a};
    for (int i = 0; i < 6; i++)
        make(d, activation[i], HAL_ACTIVATION, HAL_F32, 1, WIDTH);
    make(d, &d->angles, HAL_ACTIVATION, HAL_F32, 1, HEAD);
    make(d, &d->gate, HAL_ACTIVATION, HAL_F32, 1, FFN);
    make(d, &d->up, HAL_ACTIVATION, HAL_F32, 1, FFN);
    make(d, &d->logits, HAL_ACTIVATION, HAL_F32, 1, VOCABULARY);
}

static void close_decoder(struct decoder *d)
{
    struct hal_mat *const rest[] = {&d->table, &d->head, &d->out_norm, &d->angles, &d->x, &d->h,   &d->q,
                                    &d->k,     &d->v,    &d->a,        &d->gate,   &d->up, &d->logits};
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++)
        d->p->mat_free(d->dev, rest[i]);
    for (int i = 0; i < LAYERS; i++)
        for (struct hal_mat *m = &d->layer[i].norm; m <= &d->layer[i].values; m++)
            d->p->mat_free(d->dev, m);
    d->p->close(d->dev);
}

/* The first error sticks. */
#define DO(op, ...)                                                                                \
    do {                                                                                           \
        if (d->error == ERR_NONE)                                                                  \
            d->error = d->p->op(d->dev, __VA_ARGS__);                                              \
    } while (0)

static void multiply(struct decoder *d, const struct hal_mat *x, const struct hal_mat *y0,
                     const struct hal_mat *w0, const struct hal_mat *y1, const struct hal_mat *w1,
                     const struct hal_mat *y2, const struct hal_mat *w2)
{
    const struct hal_mat *const y[] = {y0, y1, y2}, *const w[] = {w0, w1, w2};
    DO(matmul, y, x, w, y2 != NULL ? 3u : y1 != NULL ? 2u : 1u);
}

static enum err step(struct decoder *d, uint32_t token, uint32_t position, float *logits)
{
    static const struct hal_rope_shape shape = {HEAD, 0, HEAD, HAL_ROPE_NEOX};
    float angles[HEAD];
    /* the newest slots lie apart from the others, so that spans differ from step to step */
    const uint32_t slot = CONTEXT - 1 - position, first[2] = {0, position > 3 ? 2 : 1};
    const struct hal_span spans[2] = {{slot, position + 1 - (position > 3)}, {CONTEXT - 1, 1}};
    const struct hal_attend g = {HEADS, HEADS, HEAD, HEAD, 0.2f, 0.0f, spans, first};
    d->error = ERR_NONE;
    for (int i = 0; i < HEAD / 2; i++) {
        angles[i] = cosf((float)position / (float)(i + 1));
        angles[HEAD / 2 + i] = sinf((float)position / (float)(i + 1));
    }
    DO(mat_put, &d->angles, 0, 1, angles, sizeof angles);
    DO(embed, &d->x, &d->table, &token);
    for (int i = 0; i < LAYERS; i++) {
        struct layer *l = &d->layer[i];
        DO(rmsnorm, &d->h, &d->x, &l->norm, 1e-5f);
        multiply(d, &d->h, &d->q, &l->q, &d->k, &l->k, &d->v, &l->v);
        DO(rope, &d->q, &d->angles, &shape);
        DO(rope, &d->k, &d->angles, &shape);
        DO(store, &l->keys, &d->k, &slot);
        DO(store, &l->values, &d->v, &slot);
        DO(attend, &d->a, &d->q, &l->keys, &l->values, &g);
        multiply(d, &d->a, &d->h, &l->o, NULL, NULL, NULL, NULL);
        DO(add, &d->x, &d->h);
        DO(rmsnorm, &d->h, &d->x, &l->ffn_norm, 1e-5f);
        multiply(d, &d->h, &d->gate, &l->gate, &d->up, &l->up, NULL, NULL);
        DO(glu, &d->gate, &d->gate, &d->up, HAL_SILU);
        multiply(d, &d->gate, &d->h, &l->down, NULL, NULL, NULL, NULL);
        DO(add, &d->x, &d->h);
        DO(scale, &d->x, position % 4 == 0 ? 0.25f : 0.5f); /* nodes that change */
    }
    DO(rmsnorm, &d->h, &d->x, &d->out_norm, 1e-5f);
    multiply(d, &d->h, &d->logits, &d->head, NULL, NULL, NULL, NULL);
    DO(mat_get, &d->logits, 0, 1, logits, VOCABULARY * sizeof *logits);
    return d->error;
}

static uint32_t best(const float *logits)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < VOCABULARY; i++)
        at = logits[i] > logits[at] ? i : at;
    return at;
}

static void hear(int level, const char *message)
{
    (void)level;
    snprintf(said, sizeof said, "%s", message);
}

static struct hal_host host;

static void begin(void)
{
    check_host_start(&host, 1, NULL);
    host.log = hear;
    said[0] = '\0';
}

static void end(void)
{
    CU_ASSERT_EQUAL(check_host_live(), 0);
    CU_ASSERT_PTR_NULL(check_host_fault());
}

static unsigned launched(void)
{
    static const char *const names[] = {"embed_blocks", "rmsnorm", "round_rows",   "matvec_q4_0", "matvec_q8_0",
                                        "rope",         "add",     "dense_matvec", "store_dense", "attend",
                                        "glu",          "scale",   "attend_join",  "matvec_async_q4_0",
                                        "matvec_async_q8_0"};
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        sum += mock.launches(names[i]);
    return sum;
}

/* Graphs, plain launches and scalar go through the same tokens. */
static void same_results(void)
{
    struct decoder graphs, plain, scalar;
    float one[VOCABULARY], two[VOCABULARY], three[VOCABULARY];
    uint32_t token = 5;
    begin();
    open_decoder(&graphs, &cuda, &host);
    open_decoder(&plain, &cuda, &host);
    open_decoder(&scalar, &scalar_plugin, &check_host_plain);
    for (uint32_t i = 0; i < TOKENS; i++) {
        const unsigned before = mock.calls(""), started = launched();
        CU_ASSERT_EQUAL(step(&graphs, token, i, one), ERR_NONE);
        const unsigned calls = mock.calls("") - before;
        CU_ASSERT_EQUAL(launched() - started, LAUNCHES);
        if (has_graphs && i > 1) /* notes, graph, logits; angles; contexts; nodes that have changed */
            CU_ASSERT(calls <= 12);
        if (!has_graphs)
            CU_ASSERT(calls > LAUNCHES);
        if (i == TOKENS - 1)
            printf("\n    token %u: %u calls of the driver, %d kernels\n  ", i, calls, LAUNCHES);
        if (i == 1) /* from here on without: the second time is when a graph is made */
            mock.fail("cuGraphCreate", 1, 801);
        CU_ASSERT_EQUAL(step(&plain, token, i, two), ERR_NONE);
        CU_ASSERT_EQUAL(step(&scalar, token, i, three), ERR_NONE);
        CU_ASSERT_EQUAL(memcmp(one, two, sizeof one), 0);
        double most = 0, largest = 0;
        for (int k = 0; k < VOCABULARY; k++) {
            most = fmax(most, fabs((double)one[k] - (double)three[k]));
            largest = fmax(largest, fabs((double)three[k]));
        }
        CU_ASSERT(most <= 2e-3 * largest);
        token = best(three);
    }
    CU_ASSERT_EQUAL(mock.calls("cuGraphLaunch"), has_graphs ? TOKENS - 1 : 0);
    if (has_graphs)
        CU_ASSERT_STRING_EQUAL(said, "cuda: cuGraphCreate: mock error (801)");
    mock.fail("", 0, 0);
    close_decoder(&graphs);
    close_decoder(&plain);
    close_decoder(&scalar);
    end();
}

/* What a driver refuses when a graph is made or changed is done by launches; a graph that fails to
 * start is an error of the call that waits, and the next step works. */
static void fails(void)
{
    static const struct {
        const char *call;
        unsigned nth;
        uint32_t at; /* token */
        enum err wanted;
    } cases[] = {{"cuGraphCreate", 1, 1, ERR_NONE},
                 {"cuGraphAddKernelNode_v2", 1, 1, ERR_NONE},
                 {"cuGraphAddKernelNode_v2", 30, 1, ERR_NONE},
                 {"cuGraphInstantiateWithFlags", 1, 1, ERR_NONE},
                 {"cuGraphExecKernelNodeSetParams_v2", 1, 4, ERR_NONE},
                 {"cuGraphLaunch", 1, 3, ERR_DEVICE},
                 {"cuMemcpyHtoD_v2", 2, 3, ERR_DEVICE},
                 {"cuCtxSetCurrent", 2, 3, ERR_DEVICE}};
    for (size_t i = 0; has_graphs && i < sizeof cases / sizeof cases[0]; i++) {
        struct decoder d, scalar;
        float one[VOCABULARY], two[VOCABULARY];
        begin();
        open_decoder(&d, &cuda, &host);
        open_decoder(&scalar, &scalar_plugin, &check_host_plain);
        for (uint32_t k = 0; k < 6; k++) {
            if (k == cases[i].at)
                mock.fail(cases[i].call, cases[i].nth, 719);
            const enum err e = step(&d, k, k, one);
            mock.fail("", 0, 0);
            CU_ASSERT_EQUAL(e, k == cases[i].at ? cases[i].wanted : ERR_NONE);
            if (e != ERR_NONE) /* once more, as a caller may */
                CU_ASSERT_EQUAL(step(&d, k, k, one), ERR_NONE);
            CU_ASSERT_EQUAL(step(&scalar, k, k, two), ERR_NONE);
            for (int n = 0; n < VOCABULARY; n++)
                CU_ASSERT(fabsf(one[n] - two[n]) <= 2e-2f);
        }
        CU_ASSERT_PTR_NOT_NULL(strstr(said, "(719)"));
        close_decoder(&d);
        close_decoder(&scalar);
        end();
    }
}

/* What is still queued when a matrix goes or the plugin closes runs before: the mock faults on memory
 * that is gone, and the kernel is counted. */
static void frees_after_use(void)
{
    struct decoder d;
    begin();
    open_decoder(&d, &cuda, &host);
    const unsigned before = mock.launches("scale");
    CU_ASSERT_EQUAL(cuda.scale(d.dev, &d.x, 2.0f), ERR_NONE);
    CU_ASSERT_EQUAL(mock.launches("scale"), before);
    cuda.mat_free(d.dev, &d.x);
    CU_ASSERT_EQUAL(mock.launches("scale"), before + 1);
    CU_ASSERT_EQUAL(cuda.scale(d.dev, &d.h, 2.0f), ERR_NONE);
    mock.fail("cuLaunchKernel", 1, 719);
    cuda.mat_free(d.dev, &d.q); /* has nobody to tell: the next call that waits does */
    float x[WIDTH];
    CU_ASSERT_EQUAL(cuda.mat_get(d.dev, &d.h, 0, 1, x, sizeof x), ERR_DEVICE);
    CU_ASSERT_EQUAL(cuda.mat_get(d.dev, &d.h, 0, 1, x, sizeof x), ERR_NONE);
    close_decoder(&d);
    end();
}

int main(int argc, char **argv)
{
    static CU_TestInfo tests[] = {{"same results, fewer calls", same_results},
                                  {"failures", fails},
                                  {"what is queued runs before memory goes", frees_after_use},
                                  CU_TEST_INFO_NULL};
    char reason[LOAD_REASON_BYTES];
    has_graphs = argc < 2 || strcmp(argv[1], "without") != 0;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || (*(void **)&mock.fail = dlsym(library, "mock_cuda_fail")) == NULL ||
        (*(void **)&mock.calls = dlsym(library, "mock_cuda_calls")) == NULL ||
        (*(void **)&mock.launches = dlsym(library, "mock_cuda_launches")) == NULL) {
        puts("libcuda.so.1 is not the mock: run by ctest, which sets LD_LIBRARY_PATH");
        return 1;
    }
    if (load_plugin(BUILD_DIR "/lib/tare/plugins/cuda.so", NULL, &cuda, reason) != ERR_NONE) {
        puts(reason);
        return 1;
    }
    return harness_run("cuda graphs", tests);
}
