/* embed.c: pooling and unit length. */
#include "model/embed.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum err embed_pooling(const struct gguf *g, uint32_t *out)
{
    struct gguf_text architecture = {"", 0};
    char key[64];
    *out = EMBED_MEAN;
    if (gguf_string(g, "general.architecture", &architecture) != ERR_NONE)
        return ERR_FORMAT;
    snprintf(key, sizeof key, "%.*s.pooling_type", (int)(architecture.bytes < 32 ? architecture.bytes : 32),
             architecture.text);
    const enum err e = gguf_u32(g, key, out);
    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    return e ? e : *out >= EMBED_MEAN && *out <= EMBED_LAST ? ERR_NONE : ERR_UNSUPPORTED;
}

/* A step's rows into the sum, or the one row that counts. */
static void pool(const float *rows, uint32_t count, uint32_t width, uint32_t pooling, bool is_first, float *out)
{
    if (pooling == EMBED_FIRST && is_first)
        memcpy(out, rows, width * sizeof *out);
    if (pooling == EMBED_LAST)
        memcpy(out, rows + (size_t)(count - 1) * width, width * sizeof *out);
    for (uint32_t r = 0; r < count && pooling == EMBED_MEAN; r++)
        for (uint32_t i = 0; i < width; i++)
            out[i] += rows[(size_t)r * width + i];
}

enum err embed_tokens(struct model *m, uint32_t sequence, const uint32_t *tokens, uint32_t count, uint32_t pooling,
                      float *rows, float *out)
{
    const struct model_info *info = model_info(m);
    enum err e = ERR_NONE;
    if (count == 0 || pooling < EMBED_MEAN || pooling > EMBED_LAST)
        return ERR_ARGUMENT;
    if (count > info->context || (info->is_encoder && count > info->batch))
        return ERR_FULL;
    (void)model_truncate(m, sequence, 0);
    memset(out, 0, info->width * sizeof *out);
    for (uint32_t at = 0; at < count && !e;) {
        const uint32_t n = count - at < info->batch ? count - at : info->batch;
        const struct model_run run = {sequence, n, n, tokens + at};
        e = model_step(m, &run, 1);
        if (!e)
            e = model_hidden(m, rows);
        if (!e)
            pool(rows, n, info->width, pooling, at == 0, out);
        at += n;
    }
    (void)model_truncate(m, sequence, 0);
    double square = 0;
    for (uint32_t i = 0; i < info->width; i++)
        square += (double)out[i] * (double)out[i];
    for (uint32_t i = 0; i < info->width && square > 0; i++)
        out[i] = (float)((double)out[i] / sqrt(square));
    return e;
}
