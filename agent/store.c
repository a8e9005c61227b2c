/* store.c: LMDB with its defaults: no WRITEMAP, NOSYNC, DUPSORT or nested transactions. */
#include "agent/store.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/log.h"

enum { SCHEMA = 1, MAP_BYTES = 64 << 20, KEY_BYTES = 17 };

struct store {
    MDB_env *env;
    MDB_dbi values, outbox;
    int lock;
    uint64_t epoch;
    bool busy; /* a transaction is open */
};

struct store_txn {
    struct store *s;
    MDB_txn *txn;
};

static enum err from_lmdb(int rc)
{
    switch (rc) {
    case 0: return ERR_NONE;
    case MDB_NOTFOUND: return ERR_NOT_FOUND;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL: return ERR_FULL;
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_PAGE_NOTFOUND: return ERR_FORMAT;
    case MDB_VERSION_MISMATCH: return ERR_VERSION;
    case ENOMEM: return ERR_MEMORY;
    default: errno = rc > 0 ? rc : EIO; return ERR_IO;
    }
}

static void put_be(uint8_t *out, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        out[i] = (uint8_t)v;
}

static uint64_t get_be(const uint8_t *in)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | in[i];
    return v;
}

static const char *seq_key(uint32_t stream)
{
    static const char *const keys[STORE_STREAMS] = {"seq.0", "seq.1", "seq.2", "seq.3"};
    return keys[stream];
}

static enum err begin_epoch(struct store *s)
{
    struct store_txn *t;
    uint64_t schema, epoch;
    enum err e = store_begin(s, true, &t);
    if (e)
        return e;
    if ((e = store_get_u64(t, "schema", &schema)) || (e = store_get_u64(t, "epoch", &epoch)))
        goto out;
    if (schema > SCHEMA) {
        e = ERR_VERSION;
        goto out;
    }
    s->epoch = epoch + 1;
    if ((e = store_put_u64(t, "schema", SCHEMA)) || (e = store_put_u64(t, "epoch", s->epoch)))
        goto out;
    for (uint32_t i = 0; i < STORE_STREAMS; i++)
        if ((e = store_put_u64(t, seq_key(i), 0)))
            goto out;
    return store_commit(t);
out:
    store_abort(t);
    return e;
}

static enum err open_tables(struct store *s)
{
    MDB_txn *txn = NULL;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc)
        return from_lmdb(rc);
    if ((rc = mdb_dbi_open(txn, "values", MDB_CREATE, &s->values)) ||
        (rc = mdb_dbi_open(txn, "outbox", MDB_CREATE, &s->outbox))) {
        mdb_txn_abort(txn);
        return from_lmdb(rc);
    }
    return from_lmdb(mdb_txn_commit(txn));
}

enum err store_open(const char *folder, struct store **out)
{
    char path[4096];
    int dead = 0;
    enum err e = ERR_IO;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return ERR_MEMORY;
    s->lock = -1;
    if (snprintf(path, sizeof path, "%s/db", folder) >= (int)sizeof path) {
        e = ERR_ARGUMENT;
        goto out;
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        goto out;
    /* LMDB allows several processes; two agents with one identity must not be. */
    s->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->lock < 0 || flock(s->lock, LOCK_EX | LOCK_NB) != 0)
        goto out;
    int rc = mdb_env_create(&s->env);
    if (rc || (rc = mdb_env_set_mapsize(s->env, MAP_BYTES)) || (rc = mdb_env_set_maxdbs(s->env, 4)) ||
        (rc = mdb_env_open(s->env, path, MDB_NORDAHEAD, 0600)) || (rc = mdb_reader_check(s->env, &dead))) {
        e = from_lmdb(rc);
        goto out;
    }
    if ((e = open_tables(s)) || (e = begin_epoch(s)))
        goto out;
    *out = s;
    return ERR_NONE;
out:
    store_close(s);
    return e;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    if (s->env)
        mdb_env_close(s->env);
    if (s->lock >= 0)
        close(s->lock);
    free(s);
}

uint64_t store_epoch(const struct store *s)
{
    return s->epoch;
}

enum err store_begin(struct store *s, bool is_write, struct store_txn **out)
{
    if (s->busy)
        return ERR_ARGUMENT;
    struct store_txn *t = calloc(1, sizeof *t);
    if (!t)
        return ERR_MEMORY;
    t->s = s;
    int rc = mdb_txn_begin(s->env, NULL, is_write ? 0 : MDB_RDONLY, &t->txn);
    if (rc) {
        free(t);
        return from_lmdb(rc);
    }
    s->busy = true;
    *out = t;
    return ERR_NONE;
}

enum err store_commit(struct store_txn *t)
{
    int rc = mdb_txn_commit(t->txn);
    t->s->busy = false;
    free(t);
    return from_lmdb(rc);
}

void store_abort(struct store_txn *t)
{
    if (!t)
        return;
    mdb_txn_abort(t->txn);
    t->s->busy = false;
    free(t);
}

static MDB_val key_of(const char *key)
{
    return (MDB_val){.mv_size = strlen(key), .mv_data = (void *)(uintptr_t)key};
}

enum err store_get(struct store_txn *t, const char *key, const void **value, size_t *bytes)
{
    MDB_val k = key_of(key), v;
    enum err e = from_lmdb(mdb_get(t->txn, t->s->values, &k, &v));
    if (e)
        return e;
    *value = v.mv_data;
    *bytes = v.mv_size;
    return ERR_NONE;
}

enum err store_put(struct store_txn *t, const char *key, const void *value, size_t bytes)
{
    if (bytes > STORE_VALUE_MAX)
        return ERR_ARGUMENT;
    MDB_val k = key_of(key), v = {.mv_size = bytes, .mv_data = (void *)(uintptr_t)value};
    return from_lmdb(mdb_put(t->txn, t->s->values, &k, &v, 0));
}

enum err store_delete(struct store_txn *t, const char *key)
{
    MDB_val k = key_of(key);
    enum err e = from_lmdb(mdb_del(t->txn, t->s->values, &k, NULL));
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

enum err store_get_u64(struct store_txn *t, const char *key, uint64_t *out)
{
    const void *value;
    size_t bytes;
    enum err e = store_get(t, key, &value, &bytes);
    if (e == ERR_NOT_FOUND) {
        *out = 0;
        return ERR_NONE;
    }
    if (e)
        return e;
    if (bytes != 8)
        return ERR_FORMAT;
    *out = get_be(value);
    return ERR_NONE;
}

enum err store_put_u64(struct store_txn *t, const char *key, uint64_t value)
{
    uint8_t be[8];
    put_be(be, value);
    return store_put(t, key, be, sizeof be);
}

static void make_key(uint8_t key[KEY_BYTES], uint32_t stream, uint64_t epoch, uint64_t seq)
{
    key[0] = (uint8_t)stream;
    put_be(key + 1, epoch);
    put_be(key + 9, seq);
}

enum err store_next_seq(struct store_txn *t, uint32_t stream, uint64_t *seq)
{
    uint64_t last;
    if (stream >= STORE_STREAMS)
        return ERR_ARGUMENT;
    enum err e = store_get_u64(t, seq_key(stream), &last);
    if (!e)
        *seq = last + 1;
    return e;
}

/* Makes room: the oldest reports of the stream go. Seq counts on, so the controller sees the gap. */
static enum err bound_outbox(struct store_txn *t, uint32_t stream, uint64_t seq)
{
    uint8_t key[KEY_BYTES];
    MDB_cursor *c;
    MDB_stat st;
    int rc = mdb_stat(t->txn, t->s->outbox, &st);
    if (rc)
        return from_lmdb(rc);
    if (st.ms_entries < STORE_OUTBOX_MAX)
        return ERR_NONE;
    if ((rc = mdb_cursor_open(t->txn, t->s->outbox, &c)))
        return from_lmdb(rc);
    uint32_t dropped = 0;
    while (dropped < STORE_OUTBOX_MAX / 8) {
        make_key(key, stream, 0, 0);
        MDB_val k = {.mv_size = sizeof key, .mv_data = key}, v;
        rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
        if (rc || *(const uint8_t *)k.mv_data != stream || (rc = mdb_cursor_del(c, 0)))
            break;
        dropped++;
    }
    mdb_cursor_close(c);
    log_warning("store: the outbox is full, the oldest reports were dropped: stream=%u reports=%u seq=%llu", stream,
                dropped, (unsigned long long)seq);
    return rc == MDB_NOTFOUND ? ERR_NONE : from_lmdb(rc);
}

enum err store_post(struct store_txn *t, uint32_t stream, uint64_t seq, const void *envelope, size_t bytes)
{
    uint8_t key[KEY_BYTES];
    uint64_t next;
    if (bytes > STORE_VALUE_MAX)
        return ERR_ARGUMENT;
    enum err e = store_next_seq(t, stream, &next);
    if (e)
        return e;
    if (seq != next)
        return ERR_ARGUMENT;
    if ((e = bound_outbox(t, stream, seq)))
        return e;
    make_key(key, stream, t->s->epoch, seq);
    MDB_val k = {.mv_size = sizeof key, .mv_data = key};
    MDB_val v = {.mv_size = bytes, .mv_data = (void *)(uintptr_t)envelope};
    int rc = mdb_put(t->txn, t->s->outbox, &k, &v, 0);
    return rc ? from_lmdb(rc) : store_put_u64(t, seq_key(stream), seq);
}

enum err store_next_report(struct store_txn *t, uint32_t stream, uint64_t epoch, uint64_t seq,
                           struct store_report *out)
{
    uint8_t key[KEY_BYTES];
    make_key(key, stream, seq == UINT64_MAX ? epoch + 1 : epoch, seq == UINT64_MAX ? 0 : seq + 1);
    MDB_cursor *c;
    int rc = mdb_cursor_open(t->txn, t->s->outbox, &c);
    if (rc)
        return from_lmdb(rc);
    MDB_val k = {.mv_size = sizeof key, .mv_data = key}, v;
    rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    mdb_cursor_close(c);
    if (rc)
        return from_lmdb(rc);
    const uint8_t *found = k.mv_data;
    if (k.mv_size != KEY_BYTES)
        return ERR_FORMAT;
    if (found[0] != stream)
        return ERR_NOT_FOUND;
    *out = (struct store_report){
        .stream = stream, .epoch = get_be(found + 1), .seq = get_be(found + 9), .bytes = v.mv_data, .size = v.mv_size};
    return ERR_NONE;
}

enum err store_acknowledge(struct store_txn *t, uint32_t stream, uint64_t epoch, uint64_t seq, uint32_t *count)
{
    uint8_t key[KEY_BYTES];
    MDB_cursor *c;
    *count = 0;
    int rc = mdb_cursor_open(t->txn, t->s->outbox, &c);
    if (rc)
        return from_lmdb(rc);
    for (;;) {
        make_key(key, stream, epoch, 0);
        MDB_val k = {.mv_size = sizeof key, .mv_data = key}, v;
        rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
        if (rc)
            break;
        const uint8_t *found = k.mv_data;
        if (found[0] != stream || get_be(found + 1) != epoch || get_be(found + 9) > seq || (rc = mdb_cursor_del(c, 0)))
            break;
        (*count)++;
    }
    mdb_cursor_close(c);
    return rc == MDB_NOTFOUND ? ERR_NONE : from_lmdb(rc);
}

enum err store_waiting(struct store_txn *t, uint64_t *reports)
{
    MDB_stat st;
    int rc = mdb_stat(t->txn, t->s->outbox, &st);
    if (!rc)
        *reports = st.ms_entries;
    return from_lmdb(rc);
}
