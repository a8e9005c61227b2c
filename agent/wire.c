/* wire.c: see wire.h. */
#include "agent/wire.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/cbor.h"

enum { HEAD_BYTES = 4, CHUNK = 64 << 10 };

void wire_init(struct wire *m, uint32_t kind, uint64_t id)
{
    m->kind = kind;
    m->id = id;
    m->fields = 0;
}

static struct wire_field *add(struct wire *m, uint32_t key)
{
    static struct wire_field overflow; /* a caller's mistake that wire_encode refuses */
    if (m->fields >= WIRE_FIELDS) {
        m->fields = WIRE_FIELDS + 1;
        return &overflow;
    }
    struct wire_field *f = &m->field[m->fields++];
    f->key = key;
    return f;
}

void wire_put_u64(struct wire *m, uint32_t key, uint64_t value)
{
    struct wire_field *f = add(m, key);
    f->kind = WIRE_U64;
    f->of.u64 = value;
}

void wire_put_f64(struct wire *m, uint32_t key, double value)
{
    if (!isfinite(value))
        return;
    struct wire_field *f = add(m, key);
    f->kind = WIRE_F64;
    f->of.f64 = value;
}

void wire_put_text_bytes(struct wire *m, uint32_t key, const char *text, size_t size)
{
    struct wire_field *f = add(m, key);
    f->kind = WIRE_TEXT;
    f->of.view.at = text;
    f->of.view.size = size;
}

void wire_put_text(struct wire *m, uint32_t key, const char *text)
{
    if (text && *text)
        wire_put_text_bytes(m, key, text, strlen(text));
}

void wire_put_bytes(struct wire *m, uint32_t key, const void *bytes, size_t size)
{
    struct wire_field *f = add(m, key);
    f->kind = WIRE_BYTES;
    f->of.view.at = bytes;
    f->of.view.size = size;
}

static const struct wire_field *find(const struct wire *m, uint32_t key)
{
    for (uint32_t i = 0; i < m->fields; i++)
        if (m->field[i].key == key)
            return &m->field[i];
    return NULL;
}

uint64_t wire_u64(const struct wire *m, uint32_t key, uint64_t preset)
{
    const struct wire_field *f = find(m, key);
    return f && f->kind == WIRE_U64 ? f->of.u64 : preset;
}

double wire_f64(const struct wire *m, uint32_t key, double preset)
{
    const struct wire_field *f = find(m, key);
    return f && f->kind == WIRE_F64 ? f->of.f64 : preset;
}

bool wire_view(const struct wire *m, uint32_t key, const void **at, size_t *size)
{
    const struct wire_field *f = find(m, key);
    if (!f || (f->kind != WIRE_TEXT && f->kind != WIRE_BYTES))
        return false;
    *at = f->of.view.at;
    *size = f->of.view.size;
    return true;
}

bool wire_text(const struct wire *m, uint32_t key, char *out, size_t capacity)
{
    const void *at;
    size_t size;
    out[0] = 0;
    if (!wire_view(m, key, &at, &size))
        return true;
    if (size >= capacity)
        return false;
    memcpy(out, at, size);
    out[size] = 0;
    return true;
}

const char *wire_list_next(const void *list, size_t size, size_t *at)
{
    const char *start = (const char *)list + *at;
    const char *end = *at < size ? memchr(start, 0, size - *at) : NULL;
    if (!end)
        return NULL;
    *at += (size_t)(end - start) + 1;
    return start;
}

enum err wire_encode(const struct wire *m, uint8_t *out, size_t capacity, size_t *size)
{
    struct cbor_writer w;
    uint8_t order[WIRE_FIELDS];
    if (m->fields > WIRE_FIELDS)
        return ERR_ARGUMENT;
    for (uint32_t i = 0; i < m->fields; i++) {
        uint32_t at = i;
        while (at > 0 && m->field[order[at - 1]].key > m->field[i].key) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = (uint8_t)i;
    }
    cbor_writer_init(&w, out, capacity);
    cbor_write_map(&w, m->fields + 2u);
    cbor_write_key(&w, 0);
    cbor_write_u64(&w, m->kind);
    cbor_write_key(&w, 1);
    cbor_write_u64(&w, m->id);
    for (uint32_t i = 0; i < m->fields; i++) {
        const struct wire_field *f = &m->field[order[i]];
        cbor_write_key(&w, f->key);
        switch (f->kind) {
        case WIRE_U64: cbor_write_u64(&w, f->of.u64); break;
        case WIRE_F64: cbor_write_f64(&w, f->of.f64); break;
        case WIRE_TEXT: cbor_write_text(&w, f->of.view.at, f->of.view.size); break;
        case WIRE_BYTES: cbor_write_bytes(&w, f->of.view.at, f->of.view.size); break;
        }
    }
    return cbor_written(&w, size);
}

static enum err decode_field(struct cbor_reader *r, struct wire_field *f)
{
    enum cbor_kind kind = cbor_peek(r);
    if (kind == CBOR_KIND_UINT) {
        f->kind = WIRE_U64;
        return cbor_read_u64(r, &f->of.u64);
    }
    if (kind == CBOR_KIND_FLOAT) {
        f->kind = WIRE_F64;
        return cbor_read_f64(r, &f->of.f64);
    }
    if (kind == CBOR_KIND_TEXT) {
        const char *text;
        f->kind = WIRE_TEXT;
        enum err e = cbor_read_text(r, &text, &f->of.view.size);
        f->of.view.at = text;
        return e;
    }
    const uint8_t *bytes;
    f->kind = WIRE_BYTES;
    enum err e = cbor_read_bytes(r, &bytes, &f->of.view.size);
    if (!e)
        f->of.view.at = bytes;
    return e;
}

enum err wire_decode(const uint8_t *bytes, size_t size, struct wire *m)
{
    struct cbor_reader r;
    uint64_t pairs, kind = 0;
    int64_t key;
    bool has_kind = false;
    wire_init(m, 0, 0);
    cbor_reader_init(&r, bytes, size);
    enum err e = cbor_enter_map(&r, &pairs);
    while (!e && (e = cbor_next_key(&r, &key)) == ERR_NONE) {
        if (key == 0) {
            e = cbor_read_u64(&r, &kind);
            has_kind = true;
        } else if (key == 1) {
            e = cbor_read_u64(&r, &m->id);
        } else if (key < 0 || key > UINT32_MAX || m->fields >= WIRE_FIELDS) {
            e = ERR_FORMAT;
        } else {
            struct wire_field *f = &m->field[m->fields++];
            f->key = (uint32_t)key;
            e = decode_field(&r, f);
        }
    }
    if (e != ERR_NOT_FOUND)
        return e ? e : ERR_FORMAT;
    if (!has_kind || kind > UINT32_MAX)
        return ERR_FORMAT;
    m->kind = (uint32_t)kind;
    return cbor_finish(&r);
}

void wire_channel_open(struct wire_channel *c, int fd)
{
    *c = (struct wire_channel){.fd = fd};
}

void wire_channel_close(struct wire_channel *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->in);
    free(c->out);
    *c = (struct wire_channel){.fd = -1};
}

static enum err reserve(uint8_t **buffer, size_t *capacity, size_t wanted)
{
    if (wanted <= *capacity)
        return ERR_NONE;
    size_t size = *capacity ? *capacity : 4096;
    while (size < wanted)
        size *= 2;
    uint8_t *grown = realloc(*buffer, size);
    if (!grown)
        return ERR_MEMORY;
    *buffer = grown;
    *capacity = size;
    return ERR_NONE;
}

enum err wire_flush(struct wire_channel *c)
{
    size_t done = 0;
    enum err e = ERR_NONE;
    while (done < c->out_used) {
        ssize_t n = send(c->fd, c->out + done, c->out_used - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                e = ERR_IO;
            break;
        }
        done += (size_t)n;
    }
    if (done)
        memmove(c->out, c->out + done, c->out_used - done);
    c->out_used -= done;
    if (c->out_used == 0 && c->out_capacity > CHUNK) { /* idle memory is the agent's budget */
        free(c->out);
        c->out = NULL;
        c->out_capacity = 0;
    }
    return e;
}

enum err wire_send(struct wire_channel *c, const struct wire *m)
{
    size_t need = 64, size;
    for (uint32_t i = 0; i < m->fields && i < WIRE_FIELDS; i++)
        need += 24 + (m->field[i].kind >= WIRE_TEXT ? m->field[i].of.view.size : 0);
    if (need > WIRE_MAX)
        return ERR_ARGUMENT;
    if (c->out_used + need > 2 * WIRE_MAX)
        return ERR_FULL;
    enum err e = reserve(&c->out, &c->out_capacity, c->out_used + need);
    if (e)
        return e;
    uint8_t *at = c->out + c->out_used;
    if ((e = wire_encode(m, at + HEAD_BYTES, need - HEAD_BYTES, &size)))
        return e;
    for (int i = 0; i < HEAD_BYTES; i++)
        at[i] = (uint8_t)(size >> (8 * i));
    c->out_used += HEAD_BYTES + size;
    return wire_flush(c);
}

bool wire_is_waiting(const struct wire_channel *c)
{
    return c->out_used > 0;
}

enum err wire_fill(struct wire_channel *c)
{
    if (c->in_taken)
        memmove(c->in, c->in + c->in_taken, c->in_used - c->in_taken);
    c->in_used -= c->in_taken;
    c->in_taken = 0;
    if (c->in_used == 0 && c->in_capacity > 4 * CHUNK) {
        free(c->in);
        c->in = NULL;
        c->in_capacity = 0;
    }
    enum err e = reserve(&c->in, &c->in_capacity, c->in_used + 4096);
    if (e)
        return e;
    ssize_t n;
    do
        n = recv(c->fd, c->in + c->in_used, c->in_capacity - c->in_used, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? ERR_NOT_FOUND : ERR_IO;
    if (n == 0)
        return ERR_IO;
    c->in_used += (size_t)n;
    return ERR_NONE;
}

enum err wire_next(struct wire_channel *c, struct wire *m)
{
    size_t left = c->in_used - c->in_taken, size = 0;
    const uint8_t *at = c->in + c->in_taken;
    if (left < HEAD_BYTES)
        return ERR_NOT_FOUND;
    for (int i = 0; i < HEAD_BYTES; i++)
        size |= (size_t)at[i] << (8 * i);
    if (size > WIRE_MAX)
        return ERR_FORMAT;
    if (left < HEAD_BYTES + size)
        return ERR_NOT_FOUND;
    c->in_taken += HEAD_BYTES + size;
    return wire_decode(at + HEAD_BYTES, size, m);
}
