/* gguf_value.c: typed views of metadata. */
#include <math.h>
#include <string.h>

#include "model/gguf.h"

#define READ_AS(ctype)                                                                             \
    {                                                                                              \
        ctype x;                                                                                   \
        memcpy(&x, v->data + i * sizeof x, sizeof x);                                              \
        return (double)x;                                                                          \
    }

double gguf_number(const struct gguf_value *v, uint64_t i)
{
    if (i >= v->count)
        return 0;
    switch (v->element) {
    case GGUF_U8: READ_AS(uint8_t)
    case GGUF_I8: READ_AS(int8_t)
    case GGUF_U16: READ_AS(uint16_t)
    case GGUF_I16: READ_AS(int16_t)
    case GGUF_U32: READ_AS(uint32_t)
    case GGUF_I32: READ_AS(int32_t)
    case GGUF_U64: READ_AS(uint64_t)
    case GGUF_I64: READ_AS(int64_t)
    case GGUF_F32: READ_AS(float)
    case GGUF_F64: READ_AS(double)
    case GGUF_BOOL: return v->data[i] != 0;
    default: return 0;
    }
}

/* The 64 bits of an integer, exact where a double is not. */
static enum err integer(const struct gguf *g, const char *key, uint64_t *out)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return ERR_NOT_FOUND;
    if (v->kind == GGUF_U64 || v->kind == GGUF_I64) {
        uint64_t x;
        memcpy(&x, v->data, sizeof x);
        if (v->kind == GGUF_I64 && x >> 63)
            return ERR_FORMAT;
        *out = x;
        return ERR_NONE;
    }
    if (v->kind > GGUF_I32)
        return ERR_FORMAT;
    const double x = gguf_number(v, 0);
    if (x < 0)
        return ERR_FORMAT;
    *out = (uint64_t)x;
    return ERR_NONE;
}

enum err gguf_u64(const struct gguf *g, const char *key, uint64_t *out)
{
    return integer(g, key, out);
}

enum err gguf_u32(const struct gguf *g, const char *key, uint32_t *out)
{
    uint64_t x;
    const enum err e = integer(g, key, &x);
    if (e)
        return e;
    if (x > UINT32_MAX)
        return ERR_FORMAT;
    *out = (uint32_t)x;
    return ERR_NONE;
}

enum err gguf_f32(const struct gguf *g, const char *key, float *out)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return ERR_NOT_FOUND;
    if (v->kind != GGUF_F32 && v->kind != GGUF_F64)
        return ERR_FORMAT;
    const float x = (float)gguf_number(v, 0);
    if (!isfinite(x))
        return ERR_FORMAT;
    *out = x;
    return ERR_NONE;
}

enum err gguf_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return ERR_NOT_FOUND;
    if (v->kind != GGUF_BOOL)
        return ERR_FORMAT;
    *out = v->data[0] != 0;
    return ERR_NONE;
}

enum err gguf_string(const struct gguf *g, const char *key, struct gguf_text *out)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (!v)
        return ERR_NOT_FOUND;
    if (v->kind != GGUF_STRING)
        return ERR_FORMAT;
    *out = (struct gguf_text){(const char *)v->data + 8, v->bytes - 8};
    return ERR_NONE;
}

bool gguf_next_string(const struct gguf_value *v, size_t *at, struct gguf_text *out)
{
    if (v->element != GGUF_STRING || *at >= v->bytes)
        return false;
    uint64_t length; /* checked against the file when it was opened */
    memcpy(&length, v->data + *at, sizeof length);
    *out = (struct gguf_text){(const char *)v->data + *at + 8, (size_t)length};
    *at += 8 + (size_t)length;
    return true;
}
