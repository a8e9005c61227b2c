/* encode_arm.c: the bytes of encode on another architecture: built by a cross compiler without any
 * library, run under emulation. Prints and returns how many hashes differ. */
#include <stdio.h>
#include <stdlib.h>

#include "hal/block.h"
#include "plugins/scalar/scalar.h"
#include "tests/plugins/encode_golden.h"

static float x[GOLDEN_VALUES], importance[GOLDEN_COLS];
static uint8_t out[GOLDEN_VALUES * 4];

static void *take(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void give_back(void *p, size_t bytes)
{
    (void)bytes;
    free(p);
}

static void silence(int level, const char *message)
{
    (void)level;
    (void)message;
}

static int check_one(void *dev, uint32_t type, uint32_t method, const float *h, uint64_t wanted)
{
    const size_t bytes = block_row_bytes(type, GOLDEN_COLS) * GOLDEN_ROWS;
    if (scalar_plugin.encode(dev, type, method, x, GOLDEN_ROWS, GOLDEN_COLS, h, out, bytes) !=
        ERR_NONE)
        return 1;
    if (golden_hash(out, bytes) == wanted)
        return 0;
    printf("%s method %u%s differs\n", block_type(type)->name, method,
           h != NULL ? " weighted" : "");
    return 1;
}

int main(void)
{
    const struct hal_host host = {take, give_back, silence, 2, NULL};
    const size_t count = sizeof golden / sizeof golden[0];
    void *dev = NULL;
    int bad = 0;
    if (scalar_plugin.open(&host, &dev) != ERR_NONE)
        return 1;
    golden_fill(x, importance);
    for (size_t i = 0; i < count; i++) {
        bad += check_one(dev, golden[i].type, HAL_RTN, NULL, golden[i].rtn);
        bad += check_one(dev, golden[i].type, HAL_SEARCH, NULL, golden[i].search);
        bad += check_one(dev, golden[i].type, HAL_SEARCH, importance, golden[i].weighted);
    }
    scalar_plugin.close(dev);
    printf("%zu types, %d hashes differ\n", count, bad);
    return bad != 0;
}
