/* block.c: the formats by number and name, rows, and what is common to all blocks. */
#include "hal/block.h"

#include <string.h>
#include <strings.h>

#include "hal/block_layout.h"
#include "hal/half.h"

static const struct block_type type_f32 = {"F32", HAL_F32, 1, 4, 1, 0, 0};
static const struct block_type type_f16 = {"F16", HAL_F16, 1, 2, 1, 0, 0};
static const struct block_type type_bf16 = {"BF16", HAL_BF16, 1, 2, 1, 0, 0};

static const int8_t table_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
static const int8_t table_nf4[16] = {-127, -88, -67, -50, -36, -23, -12, 0,
                                     10,   20,  31,  43,  56,  71,  92,  127};

static const struct block_layout *layout_of(uint32_t type)
{
    switch (type) {
    case HAL_Q4_0: return &block_layout_q4_0;
    case HAL_Q4_1: return &block_layout_q4_1;
    case HAL_Q5_0: return &block_layout_q5_0;
    case HAL_Q5_1: return &block_layout_q5_1;
    case HAL_Q8_0: return &block_layout_q8_0;
    case HAL_Q2_K: return &block_layout_q2_k;
    case HAL_Q3_K: return &block_layout_q3_k;
    case HAL_Q4_K: return &block_layout_q4_k;
    case HAL_Q5_K: return &block_layout_q5_k;
    case HAL_Q6_K: return &block_layout_q6_k;
    case HAL_IQ4_NL: return &block_layout_iq4_nl;
    case HAL_IQ4_XS: return &block_layout_iq4_xs;
    case HAL_NF4: return &block_layout_nf4;
    default: return NULL;
    }
}

const struct block_type *block_type(uint32_t type)
{
    switch (type) {
    case HAL_F32: return &type_f32;
    case HAL_F16: return &type_f16;
    case HAL_BF16: return &type_bf16;
    default: break;
    }
    const struct block_layout *layout = layout_of(type);
    return layout != NULL ? &layout->type : NULL;
}

const struct block_type *const *block_types(uint32_t *count)
{
    static const struct block_type *const types[] = {&block_layout_q2_k.type,
                                                     &block_layout_q3_k.type,
                                                     &block_layout_iq4_xs.type,
                                                     &block_layout_nf4.type,
                                                     &block_layout_q4_0.type,
                                                     &block_layout_iq4_nl.type,
                                                     &block_layout_q4_k.type,
                                                     &block_layout_q4_1.type,
                                                     &block_layout_q5_0.type,
                                                     &block_layout_q5_k.type,
                                                     &block_layout_q5_1.type,
                                                     &block_layout_q6_k.type,
                                                     &block_layout_q8_0.type,
                                                     &type_bf16,
                                                     &type_f16,
                                                     &type_f32};
    *count = sizeof types / sizeof types[0];
    return types;
}

const struct block_type *block_type_by_name(const char *name)
{
    uint32_t count;
    const struct block_type *const *types = block_types(&count);
    for (uint32_t i = 0; i < count; i++)
        if (strcasecmp(types[i]->name, name) == 0)
            return types[i];
    return NULL;
}

size_t block_row_bytes(uint32_t type, uint32_t cols)
{
    const struct block_type *t = block_type(type);
    if (t == NULL || cols % t->values != 0)
        return 0;
    return (size_t)(cols / t->values) * t->bytes;
}

const int8_t *block_table(uint32_t type)
{
    if (type == HAL_NF4)
        return table_nf4;
    return type == HAL_IQ4_NL || type == HAL_IQ4_XS ? table_iq4 : NULL;
}

float block_level(uint32_t type, uint32_t code)
{
    const struct block_type *t = block_type(type);
    const int8_t *table = block_table(type);
    if (table != NULL)
        return table[code & 15u];
    return t != NULL ? (float)((int32_t)code - t->code_zero) : 0.0f;
}

enum err block_get_scales(uint32_t type, const void *block, struct block_scales *out)
{
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL)
        return ERR_ARGUMENT;
    memset(out, 0, sizeof *out);
    layout->get_scales(block, out);
    return ERR_NONE;
}

enum err block_put_scales(uint32_t type, const struct block_scales *scales, void *block)
{
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL)
        return ERR_ARGUMENT;
    layout->put_scales(scales, block);
    return ERR_NONE;
}

enum err block_multiply_scales(uint32_t type, const struct block_scales *scales, float *scale,
                               float *minimum)
{
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL)
        return ERR_ARGUMENT;
    const float d = half_f16_to_f32(scales->d);
    const float dmin = half_f16_to_f32(scales->dmin);
    const uint32_t groups = layout->type.values / layout->type.group;
    for (uint32_t g = 0; g < groups; g++) {
        scale[g] = d * scales->s[g];
        minimum[g] = 0.0f;
        if (type == HAL_Q2_K || type == HAL_Q4_K || type == HAL_Q5_K)
            minimum[g] = dmin * scales->m[g];
        else if (type == HAL_NF4)
            scale[g] = dmin + scale[g];
        else if (layout->type.values == 32)
            scale[g] = d;
        if (type == HAL_Q4_1 || type == HAL_Q5_1)
            minimum[g] = -dmin;
    }
    return ERR_NONE;
}

enum err block_get_codes(uint32_t type, const void *block, uint8_t *code)
{
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL)
        return ERR_ARGUMENT;
    layout->get_codes(block, code);
    return ERR_NONE;
}

enum err block_put_codes(uint32_t type, const uint8_t *code, void *block)
{
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL)
        return ERR_ARGUMENT;
    layout->put_codes(code, block);
    return ERR_NONE;
}

enum err block_unpack(uint32_t type, const void *block, struct block_codes *out)
{
    static const uint8_t zero_codes[BLOCK_VALUES_MAX];
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL)
        return ERR_ARGUMENT;
    struct block_scales scales;
    memset(&scales, 0, sizeof scales);
    layout->get_scales(block, &scales);
    layout->get_codes(block, out->code);
    memcpy(out->params, block, layout->type.bytes);
    layout->put_codes(zero_codes, out->params);
    return block_multiply_scales(type, &scales, out->scale, out->minimum);
}

enum err block_pack(uint32_t type, const struct block_codes *codes, void *block)
{
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL)
        return ERR_ARGUMENT;
    memcpy(block, codes->params, layout->type.bytes);
    layout->put_codes(codes->code, block);
    return ERR_NONE;
}

static void decode_plain(uint32_t type, const uint8_t *in, uint32_t cols, float *out)
{
    if (type == HAL_F32) {
        memcpy(out, in, (size_t)cols * sizeof *out);
        return;
    }
    for (uint32_t i = 0; i < cols; i++) {
        const uint16_t h = block_layout_get16(in + 2 * (size_t)i);
        out[i] = type == HAL_F16 ? half_f16_to_f32(h) : half_bf16_to_f32(h);
    }
}

enum err block_decode_row(uint32_t type, const void *row, uint32_t cols, float *out)
{
    const struct block_type *t = block_type(type);
    if (t == NULL || cols % t->values != 0)
        return ERR_ARGUMENT;
    const struct block_layout *layout = layout_of(type);
    if (layout == NULL) {
        decode_plain(type, row, cols, out);
        return ERR_NONE;
    }
    const uint8_t *in = row;
    const int8_t *table = block_table(type);
    for (uint32_t i = 0; i < cols; i += t->values, in += t->bytes, out += t->values) {
        struct block_scales scales;
        uint8_t code[BLOCK_VALUES_MAX];
        float scale[BLOCK_GROUPS_MAX], minimum[BLOCK_GROUPS_MAX];
        memset(&scales, 0, sizeof scales);
        layout->get_scales(in, &scales);
        layout->get_codes(in, code);
        const enum err e = block_multiply_scales(type, &scales, scale, minimum);
        if (e != ERR_NONE)
            return e;
        for (uint32_t j = 0; j < t->values; j++) {
            const uint32_t g = j / t->group;
            const int32_t level = table != NULL ? table[code[j]] : code[j] - t->code_zero;
            out[j] = scale[g] * (float)level - minimum[g];
        }
    }
    return ERR_NONE;
}
