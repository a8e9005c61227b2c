/* Large blocks side by side: they do not overlap, are given back, and a region is used again. */
#include "hal/region.h"
#include "tests/harness.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 64, ROUNDS = 4000 };

static uint32_t state = 1;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static size_t resident(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%*u %lu", &pages) != 1)
        pages = 0;
    if (f != NULL)
        fclose(f);
    return pages * 4096;
}

static int holds(const uint8_t *p, size_t bytes, uint8_t mark)
{
    return p[0] == mark && p[bytes / 2] == mark && p[bytes - 1] == mark;
}

static void blocks_do_not_overlap(void)
{
    uint8_t *block[BLOCKS] = {NULL};
    size_t bytes[BLOCKS] = {0};
    uint32_t bad = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        const uint32_t k = draw() % BLOCKS;
        if (block[k] != NULL) {
            bad += !holds(block[k], bytes[k], (uint8_t)k);
            CU_ASSERT_TRUE(region_release(block[k]));
            block[k] = NULL;
            continue;
        }
        bytes[k] = REGION_LEAST + draw() % (3u << 20);
        block[k] = region_alloc(bytes[k]);
        CU_ASSERT_FATAL(block[k] != NULL);
        bad += (uintptr_t)block[k] % 64 != 0;
        block[k][0] = block[k][bytes[k] / 2] = block[k][bytes[k] - 1] = (uint8_t)k;
    }
    for (uint32_t k = 0; k < BLOCKS; k++) {
        if (block[k] != NULL) {
            bad += !holds(block[k], bytes[k], (uint8_t)k);
            CU_ASSERT_TRUE(region_release(block[k]));
        }
    }
    CU_ASSERT_EQUAL(bad, 0);
}

static void blocks_are_neighbours_and_used_again(void)
{
    const size_t bytes = 1 << 20;
    uint8_t *a = region_alloc(bytes), *b = region_alloc(bytes - 1), *c = region_alloc(bytes);
    CU_ASSERT_FATAL(a != NULL && b != NULL && c != NULL);
    CU_ASSERT(b == a + bytes && c == b + bytes);
    CU_ASSERT_TRUE(region_release(b));
    CU_ASSERT(region_alloc(bytes) == b);
    CU_ASSERT_TRUE(region_release(a));
    CU_ASSERT_TRUE(region_release(b)); /* joined with a's place */
    CU_ASSERT(region_alloc(2 * bytes) == a);
    CU_ASSERT_TRUE(region_release(a));
    CU_ASSERT_TRUE(region_release(c));
    CU_ASSERT_FALSE(region_release(&a)); /* never one of them */
}

static void what_is_released_is_not_resident(void)
{
    const size_t bytes = 64 << 20, slack = 8 << 20;
    uint8_t *keep = region_alloc(REGION_LEAST), *p = region_alloc(bytes);
    CU_ASSERT_FATAL(keep != NULL && p != NULL);
    memset(keep, 1, REGION_LEAST);
    const size_t before = resident();
    memset(p, 1, bytes);
    CU_ASSERT(resident() >= before + bytes - slack);
    CU_ASSERT_TRUE(region_release(p));
#ifndef __SANITIZE_THREAD__ /* its shadow stays */
    CU_ASSERT(resident() <= before + slack);
#endif
    CU_ASSERT(region_alloc(SIZE_MAX) == NULL);
    CU_ASSERT_TRUE(region_release(keep));
}

static void more_than_a_region_is_a_region(void)
{
    const size_t bytes = ((size_t)3 << 30) + 5;
    uint8_t *p = region_alloc(bytes); /* address space; two of its pages are touched */
    CU_ASSERT_FATAL(p != NULL);
    p[0] = p[bytes - 1] = 7;
    CU_ASSERT(p[0] == 7 && p[bytes - 1] == 7);
    CU_ASSERT_TRUE(region_release(p));
}

int main(void)
{
    CU_TestInfo tests[] = {{"blocks do not overlap", blocks_do_not_overlap},
                           {"blocks are neighbours, and used again", blocks_are_neighbours_and_used_again},
                           {"what is released is not resident", what_is_released_is_not_resident},
                           {"more than a region is a region of its own", more_than_a_region_is_a_region},
                           CU_TEST_INFO_NULL};
    return harness_run("region", tests);
}
