/* encode_golden.h: the bytes of encode, pinned: input that every architecture makes alike, and the
 * hashes of what comes out. They change only together with scalar_encode.h and scalar_search*.c,
 * every plan's digest with them, and PLAN_SCHEMA (compress/plan.h) must then be raised. */
#ifndef ENCODE_GOLDEN_H
#define ENCODE_GOLDEN_H

#include <stddef.h>
#include <stdint.h>

enum { GOLDEN_ROWS = 12, GOLDEN_COLS = 768, GOLDEN_VALUES = GOLDEN_ROWS * GOLDEN_COLS };

/* Integers only, so that every architecture makes the same numbers. */
static inline void golden_fill(float *x, float *importance)
{
    uint32_t state = 12345;
    for (int i = 0; i < GOLDEN_VALUES; i++) {
        int32_t sum = 0;
        for (int k = 0; k < 4; k++) {
            state = state * 1664525u + 1013904223u;
            sum += (int32_t)(state >> 16) - 32768;
        }
        x[i] = (float)sum * 0x1p-20f;
    }
    for (int i = 0; i < GOLDEN_COLS; i++) {
        state = state * 1664525u + 1013904223u;
        importance[i] = (float)(state >> 20) * (float)(state >> 20) * 0x1p-16f;
    }
}

/* FNV-1a */
static inline uint64_t golden_hash(const void *data, size_t size)
{
    const unsigned char *p = data;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

static const struct {
    uint32_t type;
    uint64_t rtn, search, weighted;
} golden[] = {
    {0, UINT64_C(0x010c4fe881f4c42a), UINT64_C(0x010c4fe881f4c42a), UINT64_C(0x010c4fe881f4c42a)},
    {1, UINT64_C(0xbe93f1e32b814301), UINT64_C(0xbe93f1e32b814301), UINT64_C(0xbe93f1e32b814301)},
    {30, UINT64_C(0x93ce895e4ffaa704), UINT64_C(0x93ce895e4ffaa704), UINT64_C(0x93ce895e4ffaa704)},
    {2, UINT64_C(0x421b06a507b553a7), UINT64_C(0x4929eb4e4e44aceb), UINT64_C(0x6686f65bdafe590d)},
    {3, UINT64_C(0x7e227190e1ed4093), UINT64_C(0x2f518f0c8b6c5b9e), UINT64_C(0xfc0b66ad753027bc)},
    {6, UINT64_C(0x49d72302902f472f), UINT64_C(0x264c81e9075c80fa), UINT64_C(0x03f6e683ca8bad4a)},
    {7, UINT64_C(0x0fd1cbee43e9e066), UINT64_C(0xa8ee45ba01e9b773), UINT64_C(0x9b8b4296eeeefe85)},
    {8, UINT64_C(0xd85eef8d38120caa), UINT64_C(0x4af0962e36d982f7), UINT64_C(0x0ba856efe5eb0e4f)},
    {10, UINT64_C(0x2775f194dfbb99ce), UINT64_C(0x77e851e0116452f2), UINT64_C(0x017c4ebae0193498)},
    {11, UINT64_C(0x0647fb7a1b273d34), UINT64_C(0x3be9864c259902b0),
     UINT64_C(0xfca4884e378cd181)},
    {12, UINT64_C(0x58e92d03d3e11fa9), UINT64_C(0x97b88d835d14ce85), UINT64_C(0xe4a7cd12a019a77c)},
    {13, UINT64_C(0x4edb0b1a02c056c4), UINT64_C(0xe1a3a6348e9fc62f), UINT64_C(0x5d8fbc8a2668abcd)},
    {14, UINT64_C(0x302fcf9a2b189284), UINT64_C(0x14a9a777a4e5e7e1), UINT64_C(0x80b3d1a36b0164e8)},
    {20, UINT64_C(0x7c20068cd726fe23), UINT64_C(0x7d281cbb6d8b3512), UINT64_C(0x8480b7c9e3bd7eb9)},
    {23, UINT64_C(0x7dd50883c41d6416), UINT64_C(0x443438534f239a1b), UINT64_C(0x91cc1e8555fc9f9a)},
    {62, UINT64_C(0xb504417b0feca012), UINT64_C(0x3692c5eea03c58c2), UINT64_C(0x7c40b1196b026593)},
};

#endif
