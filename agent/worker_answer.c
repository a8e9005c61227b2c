/* worker_answer.c: what a request's tokens become: text that is said, or held back because it may begin a stop string,
 * with the choices beside it; and the end.
 */
#include "agent/worker_serve.h"

#include <stdlib.h>
#include <string.h>

enum { TOP_BYTES = (WORKER_TOP_MAX + 1) * 64, PIECE_MAX = 1024 };

uint64_t worker_self_us(void)
{
    return (uint64_t)worker_self_ms() * 1000;
}

void worker_answer_end(struct worker_server *v, struct worker_sequence *s, uint64_t id, uint32_t reason, enum err error,
                       const char *why)
{
    struct wire m;
    wire_init(&m, WIRE_END, id);
    if (error) {
        wire_put_u64(&m, WIRE_K_ERR, error);
        wire_put_text(&m, WIRE_K_TEXT, why);
    }
    if (s) {
        uint64_t now = worker_self_us();
        wire_put_u64(&m, WIRE_K_REASON, reason);
        wire_put_u64(&m, WIRE_K_PROMPT, s->prompt);
        wire_put_u64(&m, WIRE_K_CACHED, s->cached);
        wire_put_u64(&m, WIRE_K_GENERATE, s->count - s->prompt);
        wire_put_u64(&m, WIRE_K_PREFILL_US, s->first_us ? s->first_us - s->from_us : 0);
        wire_put_u64(&m, WIRE_K_DECODE_US, s->first_us ? now - s->first_us : 0);
        if (s->wants_tokens) {
            wire_put_u64(&m, WIRE_K_PREFIX, s->prompt);
            wire_put_bytes(&m, WIRE_K_TOKENS, s->history, (size_t)s->count * 4);
        }
    }
    worker_reply(v->w, &m);
}

static void say_token(struct worker_server *v, struct worker_sequence *s, const uint32_t *token, const char *text,
                      size_t bytes, const uint8_t *top, size_t top_bytes)
{
    struct wire m;
    wire_init(&m, WIRE_TOKEN, s->id);
    if (token)
        wire_put_bytes(&m, WIRE_K_TOKENS, token, 4);
    if (bytes)
        wire_put_bytes(&m, WIRE_K_TEXT, text, bytes);
    if (top_bytes)
        wire_put_bytes(&m, WIRE_K_TOP, top, top_bytes);
    worker_reply(v->w, &m);
}

enum err worker_answer_begin(struct worker_sequence *s)
{
    const size_t capacity = s->stop_bytes + PIECE_MAX;
    if (capacity <= s->held_capacity)
        return ERR_NONE;
    char *grown = realloc(s->held, capacity);
    if (!grown)
        return ERR_MEMORY;
    s->held = grown;
    s->held_capacity = capacity;
    return ERR_NONE;
}

static void hold(struct worker_sequence *s, const char *text, size_t bytes)
{
    memcpy(s->held + s->held_bytes, text, bytes);
    s->held_bytes += bytes;
}

/* How much of the held text may be said: all but what may become a stop string; *is_stopped with the text
 * before the first stop string. */
static size_t sayable(const struct worker_sequence *s, bool *is_stopped)
{
    size_t say = s->held_bytes, at = 0;
    const char *stop;
    *is_stopped = false;
    if (s->held_bytes == 0)
        return 0;
    while ((stop = wire_list_next(s->stop, s->stop_bytes, &at))) {
        size_t n = strlen(stop);
        const char *hit = memmem(s->held, s->held_bytes, stop, n);
        if (hit && (size_t)(hit - s->held) <= say) {
            say = (size_t)(hit - s->held);
            *is_stopped = true;
        }
    }
    if (*is_stopped)
        return say;
    at = 0;
    while ((stop = wire_list_next(s->stop, s->stop_bytes, &at))) {
        size_t n = strlen(stop);
        for (size_t k = n - 1 < s->held_bytes ? n - 1 : s->held_bytes; k > 0; k--)
            if (memcmp(s->held + s->held_bytes - k, stop, k) == 0) {
                if (s->held_bytes - k < say)
                    say = s->held_bytes - k;
                break;
            }
    }
    return say;
}

static size_t pack_choice(struct worker_server *v, const struct sample_choice *c, uint8_t *out, size_t capacity)
{
    char piece[PIECE_MAX];
    size_t bytes = 0;
    if (tokenizer_piece(v->tokenizer, c->token, true, piece, sizeof piece, &bytes))
        bytes = 0;
    if (bytes > 255)
        bytes = 255;
    if (capacity < bytes + 5)
        return 0;
    memcpy(out, &c->logprob, 4);
    out[4] = (uint8_t)bytes;
    memcpy(out + 5, piece, bytes);
    return bytes + 5;
}

bool worker_answer_take(struct worker_server *v, struct worker_sequence *s, const struct sample_choice *c,
                       const float *logits, bool is_replayed)
{
    char piece[PIECE_MAX];
    uint8_t top[TOP_BYTES];
    struct sample_choice others[WORKER_TOP_MAX + 1];
    size_t bytes = 0, top_bytes = 0;
    uint32_t got = 0;
    bool is_stopped = false;
    if (!s->first_us && !is_replayed)
        s->first_us = worker_self_us();
    s->history[s->count++] = c->token;
    if (s->top != UINT32_MAX && logits) {
        top_bytes = pack_choice(v, c, top, sizeof top);
        if (s->top && sample_top(s->sampler, logits, s->top, others, &got) == ERR_NONE)
            for (uint32_t i = 0; i < got; i++)
                top_bytes += pack_choice(v, &others[i], top + top_bytes, sizeof top - top_bytes);
    }
    bool is_end = tokenizer_is_end(v->tokenizer, c->token);
    if (!is_end && tokenizer_stream_put(v->tokenizer, &s->stream, c->token, piece, sizeof piece, &bytes))
        bytes = 0;
    bool is_last = is_end || s->count - s->prompt >= s->most || s->count >= v->context;
    if (is_last && !is_end)
        bytes += tokenizer_stream_end(&s->stream, piece + bytes);
    hold(s, piece, bytes);
    size_t say = sayable(s, &is_stopped);
    if (is_last && !is_stopped)
        say = s->held_bytes;
    if (!is_replayed)
        say_token(v, s, &c->token, s->held, say, is_end ? NULL : top, is_end ? 0 : top_bytes);
    if (say)
        memmove(s->held, s->held + say, s->held_bytes - say);
    s->held_bytes -= say;
    if (is_stopped || is_last) {
        worker_answer_end(v, s, s->id, is_end || is_stopped ? WIRE_STOPPED : WIRE_LENGTH, ERR_NONE, NULL);
        return false;
    }
    return true;
}
