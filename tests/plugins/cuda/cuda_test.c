/* cuda_test.c: the CUDA plugin on the mock driver: every failure of the driver, memory that does not
 * suffice, older GPUs, which kernel serves, and attention over many slots and spans. */
#include "tests/harness.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hal/block.h"
#include "hal/check_host.h"
#include "hal/load.h"
#include "plugins/cuda/cuda_driver.h"
#include "plugins/scalar/scalar.h"

static struct hal_plugin plugin;
static struct hal_host host;
static char said[256];
static struct {
    void (*fail)(const char *call, unsigned nth, int result);
    void (*memory)(size_t bytes);
    unsigned (*launches)(const char *kernel);
} mock;

static void hear(int level, const char *message)
{
    (void)level;
    snprintf(said, sizeof said, "%s", message);
}

static void begin(const char *path)
{
    check_host_start(&host, 2, path);
    host.log = hear;
    said[0] = '\0';
}

static void *open_plugin(void)
{
    void *dev = NULL;
    begin(NULL);
    CU_ASSERT_EQUAL_FATAL(plugin.open(&host, &dev), ERR_NONE);
    return dev;
}

static void close_plugin(void *dev)
{
    plugin.close(dev);
    CU_ASSERT_EQUAL(check_host_live(), 0);
    CU_ASSERT_PTR_NULL(check_host_fault());
}

static float noise(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state * 0x1p-31f;
}

/* A matrix on both sides. Values from the values of x [rows, cols], or noise when NULL. */
struct both {
    struct hal_mat mine, theirs;
};

static void *reference;

static struct both make(void *dev, uint32_t use, uint32_t type, uint32_t rows, uint32_t cols)
{
    struct both b = {{.type = type, .use = use, .rows = rows, .cols = cols}, {0}};
    const size_t bytes = block_row_bytes(type, cols) * rows, values = (size_t)rows * cols;
    b.theirs = b.mine;
    CU_ASSERT_EQUAL_FATAL(plugin.mat_new(dev, &b.mine), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(scalar_mat_new(reference, &b.theirs), ERR_NONE);
    float *x = malloc(values * sizeof *x);
    CU_ASSERT_PTR_NOT_NULL_FATAL(x);
    for (size_t i = 0; i < values; i++)
        x[i] = noise();
    CU_ASSERT_EQUAL(scalar_encode(reference, type, HAL_RTN, x, rows, cols, NULL, b.theirs.mem,
                                  bytes),
                    ERR_NONE);
    free(x);
    CU_ASSERT_EQUAL(plugin.mat_put(dev, &b.mine, 0, rows, b.theirs.mem, bytes), ERR_NONE);
    return b;
}

static void drop(void *dev, struct both *b)
{
    plugin.mat_free(dev, &b->mine);
    scalar_mat_free(reference, &b->theirs);
}

/* The largest difference of two F32 matrices, relative to the largest value. */
static double difference(void *dev, const struct both *b)
{
    const size_t values = (size_t)b->mine.rows * b->mine.cols;
    float *x = malloc(values * sizeof *x);
    double most = 0.0, largest = 0.0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(x);
    CU_ASSERT_EQUAL(plugin.mat_get(dev, &b->mine, 0, b->mine.rows, x, values * sizeof *x), ERR_NONE);
    for (size_t i = 0; i < values; i++) {
        const double wanted = ((const float *)b->theirs.mem)[i];
        const double d = fabs((double)x[i] - wanted);
        most = d > most || isnan(d) ? d : most;
        largest = fabs(wanted) > largest ? fabs(wanted) : largest;
    }
    free(x);
    return most / largest;
}

/* One product on both sides; the plugin's answer. */
static enum err multiply(void *dev, const struct both *y, const struct both *x,
                         const struct both *w)
{
    const struct hal_mat *const my_y = &y->mine, *const my_w = &w->mine;
    const struct hal_mat *const its_y = &y->theirs, *const its_w = &w->theirs;
    CU_ASSERT_EQUAL(scalar_matmul(reference, &its_y, &x->theirs, &its_w, 1), ERR_NONE);
    return plugin.matmul(dev, &my_y, &x->mine, &my_w, 1);
}

/* Every call that open makes fails once, the first and the second time: an error, words that name
 * the call, nothing kept. The mock itself aborts when device memory is kept. */
static void fails_to_open(void)
{
    static const struct {
        const char *call, *words;
        enum err wanted;
        unsigned times;
    } cases[] = {{"cuDeviceGetCount", "", ERR_UNSUPPORTED, 1},
                 {"cuDeviceGet", "", ERR_UNSUPPORTED, 1},
                 {"cuDeviceGetName", "", ERR_UNSUPPORTED, 1},
                 {"cuDeviceTotalMem_v2", "", ERR_UNSUPPORTED, 1},
                 {"cuDeviceGetAttribute", "", ERR_UNSUPPORTED, 3},
                 {"cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRetain", ERR_DEVICE, 1},
                 {"cuCtxSetCurrent", "cuCtxSetCurrent", ERR_DEVICE, 1},
                 {"cuModuleLoadDataEx", "told to refuse", ERR_DEVICE, 2},
                 {"cuModuleGetFunction", "", ERR_DEVICE, 40},
                 {"cuMemGetInfo_v2", "cuMemGetInfo", ERR_DEVICE, 1},
                 {"cuMemAlloc_v2", "cuMemAlloc", ERR_DEVICE, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (unsigned nth = 1; nth <= cases[i].times; nth++) {
            void *dev = NULL;
            begin(NULL);
            mock.fail(cases[i].call, nth, 719);
            CU_ASSERT_EQUAL(plugin.open(&host, &dev), cases[i].wanted);
            mock.fail("", 0, 0);
            CU_ASSERT_PTR_NOT_NULL(strstr(said, cases[i].words));
            CU_ASSERT_EQUAL(check_host_live(), 0);
        }
    close_plugin(open_plugin());
}

/* The first kernel, then the second of a product does not start; then it works again. */
static void fails_to_launch(void)
{
    void *dev = open_plugin();
    struct both x = make(dev, HAL_ACTIVATION, HAL_F32, 3, 64);
    struct both w = make(dev, HAL_WEIGHT, HAL_Q4_0, 9, 64);
    struct both y = make(dev, HAL_ACTIVATION, HAL_F32, 3, 9);
    float out[9];
    mock.fail("cuLaunchKernel", 1, 719);
    CU_ASSERT_EQUAL(multiply(dev, &y, &x, &w), ERR_NONE); /* queued; the call that waits says it */
    CU_ASSERT_EQUAL(plugin.mat_get(dev, &y.mine, 0, 1, out, sizeof out), ERR_DEVICE);
    CU_ASSERT_STRING_EQUAL(said, "cuda: round_rows: launch failure (719)");
    mock.fail("cuLaunchKernel", 2, 719);
    CU_ASSERT_EQUAL(multiply(dev, &y, &x, &w), ERR_NONE);
    CU_ASSERT_EQUAL(plugin.mat_get(dev, &y.mine, 0, 1, out, sizeof out), ERR_DEVICE);
    CU_ASSERT_STRING_EQUAL(said, "cuda: matvecs_async_q4_0: launch failure (719)");
    CU_ASSERT_EQUAL(multiply(dev, &y, &x, &w), ERR_NONE);
    CU_ASSERT(difference(dev, &y) <= 2e-5);
    mock.fail("cuMemcpyDtoH_v2", 1, 719);
    CU_ASSERT_EQUAL(plugin.mat_get(dev, &y.mine, 0, 1, out, sizeof out), ERR_DEVICE);
    mock.fail("cuMemcpyHtoD_v2", 1, 719);
    CU_ASSERT_EQUAL(plugin.mat_put(dev, &y.mine, 0, 1, out, sizeof out), ERR_DEVICE);
    /* what was not sent must be sent again */
    const uint32_t row[3] = {8, 0, 5};
    struct both z = make(dev, HAL_ACTIVATION, HAL_F32, 3, 64);
    mock.fail("cuMemcpyHtoD_v2", 1, 719);
    CU_ASSERT_EQUAL(plugin.embed(dev, &z.mine, &w.mine, row), ERR_NONE);
    CU_ASSERT_EQUAL(plugin.mat_get(dev, &y.mine, 0, 1, out, sizeof out), ERR_DEVICE);
    CU_ASSERT_EQUAL(plugin.embed(dev, &z.mine, &w.mine, row), ERR_NONE);
    CU_ASSERT_EQUAL(scalar_embed(reference, &z.theirs, &w.theirs, row), ERR_NONE);
    CU_ASSERT(difference(dev, &z) == 0.0);
    drop(dev, &z);
    drop(dev, &y);
    drop(dev, &w);
    drop(dev, &x);
    close_plugin(dev);
}

/* A card of 100 MiB: what does not fit is refused before the driver is asked, and by the driver. */
static void runs_out_of_memory(void)
{
    mock.memory((size_t)100 << 20);
    void *dev = open_plugin();
    struct hal_mat large = {.type = HAL_Q8_0, .use = HAL_WEIGHT, .rows = 4096, .cols = 8192};
    struct hal_mat small = {.type = HAL_Q8_0, .use = HAL_WEIGHT, .rows = 2048, .cols = 8192};
    CU_ASSERT_EQUAL(plugin.mat_new(dev, &large), ERR_MEMORY);
    CU_ASSERT_EQUAL(plugin.mat_new(dev, &small), ERR_NONE);
    struct hal_mat again = small;
    CU_ASSERT_EQUAL(plugin.mat_new(dev, &again), ERR_MEMORY);
    plugin.mat_free(dev, &small);
    mock.fail("cuMemAlloc_v2", 1, 2);
    CU_ASSERT_EQUAL(plugin.mat_new(dev, &small), ERR_MEMORY);
    CU_ASSERT_STRING_EQUAL(said, "cuda: cuMemAlloc: out of memory (2)");
    CU_ASSERT_EQUAL(plugin.mat_new(dev, &small), ERR_NONE);
    plugin.mat_free(dev, &small);
    close_plugin(dev);
    mock.memory((size_t)8 << 20);
    void *none = NULL;
    begin(NULL);
    CU_ASSERT_EQUAL(plugin.open(&host, &none), ERR_MEMORY);
    CU_ASSERT_EQUAL(check_host_live(), 0);
    mock.memory((size_t)4 << 30);
}

static void knows_the_gpu(void)
{
    struct hal_caps caps;
    CU_ASSERT_EQUAL(plugin.probe(NULL, &caps), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(caps.path, "mma");
    CU_ASSERT_STRING_EQUAL(caps.device, "mock GPU 0");
    CU_ASSERT_EQUAL(caps.paths, 2);
    CU_ASSERT_EQUAL(caps.mem_bytes, (uint64_t)4 << 30);
    CU_ASSERT(caps.score >= 1000 && caps.score < 2000);
    CU_ASSERT_EQUAL(plugin.probe("avx2", &caps), ERR_UNSUPPORTED);
    CU_ASSERT_STRING_EQUAL(caps.reason, "this GPU has no such path");
    CU_ASSERT_EQUAL(setenv("MOCK_CUDA_CAPABILITY", "7.5", 1), 0);
    CU_ASSERT_EQUAL(plugin.probe(NULL, &caps), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(caps.path, "dp4a");
    CU_ASSERT_EQUAL(caps.paths, 1);
    CU_ASSERT_EQUAL(plugin.probe("mma", &caps), ERR_UNSUPPORTED);
    close_plugin(open_plugin()); /* without the tensor cores' module */
    CU_ASSERT_EQUAL(setenv("MOCK_CUDA_CAPABILITY", "6.0", 1), 0);
    CU_ASSERT_EQUAL(plugin.probe(NULL, &caps), ERR_UNSUPPORTED);
    CU_ASSERT_STRING_EQUAL(caps.reason, "compute capability below 6.1");
    CU_ASSERT_EQUAL(unsetenv("MOCK_CUDA_CAPABILITY"), 0);
}

/* One, few and many tokens take different kernels and agree with scalar. */
static void chooses_kernels(void)
{
    static const struct {
        uint32_t type, tokens, cols;
        const char *kernel;
    } cases[] = {{HAL_Q4_K, 1, 768, "matvec_async_q4_k"},
                 {HAL_Q4_K, 8, 768, "matvecs_async_q4_k"},
                 {HAL_Q4_K, 70, 768, "tile_async_q4_k"},
                 {HAL_Q5_K, 1, 768, "matvec_q5_k"},
                 {HAL_Q5_K, 8, 768, "matvecs_q5_k"},
                 {HAL_Q5_K, 70, 768, "tile_mma"},
                 {HAL_Q6_K, 9, 768, "tile_mma_halved"},
                 {HAL_BF16, 8, 768, "dense_matvec"},
                 {HAL_F16, 70, 768, "dense_tile"},
                 /* one group, an odd number of them, and several rounds of the rings */
                 {HAL_Q4_0, 1, 32, "matvec_async_q4_0"},
                 {HAL_Q4_0, 3, 32 * 293, "matvecs_async_q4_0"},
                 {HAL_Q8_0, 1, 32 * 293, "matvec_async_q8_0"},
                 {HAL_Q4_K, 1, 256 * 37, "matvec_async_q4_k"},
                 {HAL_Q8_0, 65, 32, "tile_async_q8_0"},
                 {HAL_Q8_0, 9, 96, "tile_async_q8_0"},
                 {HAL_Q4_0, 70, 32 * 13, "tile_async_q4_0"}};
    void *dev = open_plugin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct both x = make(dev, HAL_ACTIVATION, HAL_F32, cases[i].tokens, cases[i].cols);
        struct both w = make(dev, HAL_WEIGHT, cases[i].type, 75, cases[i].cols);
        struct both y = make(dev, HAL_ACTIVATION, HAL_F32, cases[i].tokens, 75);
        const unsigned before = mock.launches(cases[i].kernel);
        CU_ASSERT_EQUAL(multiply(dev, &y, &x, &w), ERR_NONE);
        CU_ASSERT(difference(dev, &y) <= 2e-5);
        CU_ASSERT_EQUAL(mock.launches(cases[i].kernel), before + 1);
        drop(dev, &y);
        drop(dev, &w);
        drop(dev, &x);
    }
    close_plugin(dev);
}

/* Rows put in pieces lie where rows put at once do. */
static void puts_in_pieces(void)
{
    static const uint32_t types[] = {HAL_Q3_K, HAL_Q5_1, HAL_NF4, HAL_F16}, cut[] = {0, 5, 6, 33};
    void *dev = open_plugin();
    for (size_t i = 0; i < 4; i++) {
        struct both x = make(dev, HAL_ACTIVATION, HAL_F32, 2, 512);
        struct both w = make(dev, HAL_WEIGHT, types[i], 33, 512);
        struct both y = make(dev, HAL_ACTIVATION, HAL_F32, 2, 33);
        const size_t row = block_row_bytes(types[i], 512);
        plugin.mat_free(dev, &w.mine);
        CU_ASSERT_EQUAL(plugin.mat_new(dev, &w.mine), ERR_NONE);
        for (int piece = 0; piece < 3; piece++)
            CU_ASSERT_EQUAL(plugin.mat_put(dev, &w.mine, cut[piece], cut[piece + 1] - cut[piece],
                                           (const char *)w.theirs.mem + cut[piece] * row,
                                           row * (cut[piece + 1] - cut[piece])),
                            ERR_NONE);
        CU_ASSERT_EQUAL(multiply(dev, &y, &x, &w), ERR_NONE);
        CU_ASSERT(difference(dev, &y) <= 2e-5);
        drop(dev, &y);
        drop(dev, &w);
        drop(dev, &x);
    }
    close_plugin(dev);
}

/* Few rows that see many slots, in spans of all lengths and out of order: split over blocks, then
 * joined. Heads of 320 values take two pieces. */
static void splits_attention(void)
{
    enum { SLOTS = 900, HEADS = 4, KV = 2, KEY = 48, VALUE = 320 };
    void *dev = open_plugin();
    struct both q = make(dev, HAL_ACTIVATION, HAL_F32, 2, HEADS * KEY);
    struct both k = make(dev, HAL_CACHE, HAL_F16, SLOTS, KV * KEY);
    struct both v = make(dev, HAL_CACHE, HAL_Q8_0, SLOTS, KV * VALUE);
    struct both y = make(dev, HAL_ACTIVATION, HAL_F32, 2, HEADS * VALUE);
    struct hal_span spans[80];
    uint32_t n = 0, at = SLOTS;
    for (uint32_t length = 1; at > 60 && n < 79; length = length % 31 + 1) {
        at -= length;
        spans[n++] = (struct hal_span){at, length};
    }
    spans[n] = (struct hal_span){0, 3};
    const uint32_t first[3] = {0, n, n + 1};
    const struct hal_attend g = {HEADS, KV, KEY, VALUE, 0.3f, 0.0f, spans, first};
    const unsigned before = mock.launches("attend_join");
    CU_ASSERT_EQUAL(plugin.attend(dev, &y.mine, &q.mine, &k.mine, &v.mine, &g), ERR_NONE);
    CU_ASSERT_EQUAL(scalar_attend(reference, &y.theirs, &q.theirs, &k.theirs, &v.theirs, &g),
                    ERR_NONE);
    CU_ASSERT(difference(dev, &y) <= 2e-5);
    CU_ASSERT_EQUAL(mock.launches("attend_join"), before + 1);
    drop(dev, &y);
    drop(dev, &v);
    drop(dev, &k);
    drop(dev, &q);
    close_plugin(dev);
}

/* More spans than the device has room for at once: rows in passes. */
static void attends_in_passes(void)
{
    enum { ROWS = 3, EACH = 100000, SLOTS = 8 };
    void *dev = open_plugin();
    struct both q = make(dev, HAL_ACTIVATION, HAL_F32, ROWS, 8);
    struct both k = make(dev, HAL_CACHE, HAL_F16, SLOTS, 8);
    struct both y = make(dev, HAL_ACTIVATION, HAL_F32, ROWS, 8);
    struct hal_span *spans = calloc(ROWS * EACH, sizeof *spans);
    uint32_t first[ROWS + 1];
    CU_ASSERT_PTR_NOT_NULL_FATAL(spans);
    for (uint32_t i = 0; i < ROWS * EACH; i++)
        spans[i] = (struct hal_span){i % SLOTS, i % 97 == i / EACH};
    for (uint32_t r = 0; r <= ROWS; r++)
        first[r] = r * EACH;
    const struct hal_attend g = {1, 1, 8, 8, 0.5f, 0.0f, spans, first};
    const unsigned before = mock.launches("attend");
    CU_ASSERT_EQUAL(plugin.attend(dev, &y.mine, &q.mine, &k.mine, &k.mine, &g), ERR_NONE);
    CU_ASSERT_EQUAL(scalar_attend(reference, &y.theirs, &q.theirs, &k.theirs, &k.theirs, &g),
                    ERR_NONE);
    CU_ASSERT(difference(dev, &y) <= 2e-5);
    CU_ASSERT_EQUAL(mock.launches("attend"), before + 2);
    const uint32_t all[2] = {0, ROWS * EACH};
    const struct hal_attend too_many = {1, 1, 8, 8, 0.5f, 0.0f, spans, all};
    struct hal_mat one_q = q.mine, one_y = y.mine;
    one_q.rows = one_y.rows = 1;
    CU_ASSERT_EQUAL(plugin.attend(dev, &one_y, &one_q, &k.mine, &k.mine, &too_many), ERR_MEMORY);
    free(spans);
    drop(dev, &y);
    drop(dev, &k);
    drop(dev, &q);
    close_plugin(dev);
}

int main(void)
{
    static CU_TestInfo tests[] = {{"open fails cleanly at every driver call", fails_to_open},
                                  {"launches and copies fail cleanly", fails_to_launch},
                                  {"memory runs out", runs_out_of_memory},
                                  {"probe", knows_the_gpu},
                                  {"kernels by number of tokens", chooses_kernels},
                                  {"weights in pieces", puts_in_pieces},
                                  {"attention split over slots", splits_attention},
                                  {"attention in passes of spans", attends_in_passes},
                                  CU_TEST_INFO_NULL};
    char reason[LOAD_REASON_BYTES];
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || (*(void **)&mock.fail = dlsym(library, "mock_cuda_fail")) == NULL ||
        (*(void **)&mock.memory = dlsym(library, "mock_cuda_memory")) == NULL ||
        (*(void **)&mock.launches = dlsym(library, "mock_cuda_launches")) == NULL) {
        puts("libcuda.so.1 is not the mock: run by ctest, which sets LD_LIBRARY_PATH");
        return 1;
    }
    if (load_plugin(BUILD_DIR "/lib/tare/plugins/cuda.so", NULL, &plugin, reason) != ERR_NONE) {
        puts(reason);
        return 1;
    }
    if (scalar_plugin.open(&check_host_plain, &reference) != ERR_NONE)
        return 1;
    const int bad = harness_run("cuda", tests);
    scalar_plugin.close(reference);
    return bad;
}
