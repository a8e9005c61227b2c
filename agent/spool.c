/* spool.c: see spool.h. Commit per append: batches are made by the caller. */
#include "agent/spool_parts.h"

#include <errno.h>
#include <lmdb.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "agent/log.h"

enum err spool_error(int rc)
{
    switch (rc) {
    case 0: return ERR_NONE;
    case MDB_NOTFOUND: return ERR_NOT_FOUND;
    case MDB_MAP_FULL: return ERR_FULL;
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_PAGE_NOTFOUND: return ERR_FORMAT;
    case ENOMEM: return ERR_MEMORY;
    default: return ERR_IO;
    }
}

void spool_key(uint8_t key[SPOOL_KEY_BYTES], uint64_t epoch, uint64_t seq)
{
    for (int i = 7; i >= 0; i--, epoch >>= 8, seq >>= 8) {
        key[i] = (uint8_t)epoch;
        key[8 + i] = (uint8_t)seq;
    }
}

uint64_t spool_number(const uint8_t *in)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | in[i];
    return v;
}

/* Value: checksum[8] of the rest, from[8] (0: a record; else this is the tombstone of [from, seq]), bytes. */
void spool_checksum(const uint8_t *value, size_t size, uint8_t out[SPOOL_SUM_BYTES])
{
    static const uint8_t key[crypto_shorthash_KEYBYTES] = "tare tel records";
    crypto_shorthash(out, value + SPOOL_SUM_BYTES, size - SPOOL_SUM_BYTES, key);
}

static int put_value(struct spool *r, MDB_txn *txn, enum spool_stream s, const uint8_t key[SPOOL_KEY_BYTES], uint64_t from,
                     const void *bytes, size_t size)
{
    MDB_val k = {.mv_size = SPOOL_KEY_BYTES, .mv_data = (void *)(uintptr_t)key}, v = {.mv_size = size + SPOOL_HEAD_BYTES};
    int rc = mdb_put(txn, r->dbi[s], &k, &v, MDB_RESERVE);
    if (rc)
        return rc;
    uint8_t *out = v.mv_data;
    memcpy(out + SPOOL_SUM_BYTES, &from, SPOOL_FLAG_BYTES);
    memcpy(out + SPOOL_HEAD_BYTES, bytes, size);
    spool_checksum(out, v.mv_size, out);
    return 0;
}

static void close_env(struct spool *r)
{
    if (r->env)
        mdb_env_close(r->env);
    r->env = NULL;
    memset(r->used, 0, sizeof r->used);
}

static int count_used(struct spool *r, MDB_txn *txn)
{
    for (int s = 0; s < SPOOL_STREAMS; s++) {
        MDB_cursor *c;
        MDB_val k, v;
        int rc = mdb_cursor_open(txn, r->dbi[s], &c);
        if (rc)
            return rc;
        while ((rc = mdb_cursor_get(c, &k, &v, MDB_NEXT)) == 0)
            r->used[s] += v.mv_size + SPOOL_COST;
        mdb_cursor_close(c);
        if (rc != MDB_NOTFOUND)
            return rc;
    }
    return 0;
}

static enum err open_env(struct spool *r)
{
    static const char *const names[SPOOL_STREAMS] = {"tel", "cal"};
    MDB_txn *txn = NULL;
    int dead, rc;
    if (mkdir(r->path, 0700) != 0 && errno != EEXIST)
        return ERR_IO;
    if ((rc = mdb_env_create(&r->env)) || (rc = mdb_env_set_mapsize(r->env, r->map_bytes)) ||
        (rc = mdb_env_set_maxdbs(r->env, SPOOL_STREAMS)) ||
        (rc = mdb_env_open(r->env, r->path, MDB_NORDAHEAD, 0600)) || (rc = mdb_reader_check(r->env, &dead)) ||
        (rc = mdb_txn_begin(r->env, NULL, 0, &txn)))
        goto out;
    for (int s = 0; s < SPOOL_STREAMS && !rc; s++)
        rc = mdb_dbi_open(txn, names[s], MDB_CREATE, &r->dbi[s]);
    if (!rc)
        rc = count_used(r, txn);
    if (rc) {
        mdb_txn_abort(txn);
        goto out;
    }
    rc = mdb_txn_commit(txn);
out:
    if (rc)
        close_env(r);
    return spool_error(rc);
}

/* A damaged store is set aside, not deleted: someone may want to look. Only the newest is kept. */
static void set_aside(struct spool *r)
{
    char bad[4096 + 8], file[4096 + 32];
    close_env(r);
    snprintf(bad, sizeof bad, "%s.bad", r->path);
    snprintf(file, sizeof file, "%s/data.mdb", bad);
    remove(file);
    snprintf(file, sizeof file, "%s/lock.mdb", bad);
    remove(file);
    remove(bad);
    if (rename(r->path, bad) != 0)
        log_error("spool: the damaged store cannot be set aside: folder=%s: %s", r->path, strerror(errno));
    else
        log_warning("spool: a damaged store was set aside: folder=%s", bad);
}

enum err spool_open(const struct spool_options *options, struct spool **out)
{
    if (options->quota_bytes < 1 << 20 || !options->tombstone)
        return ERR_ARGUMENT;
    struct spool *r = calloc(1, sizeof *r);
    if (!r)
        return ERR_MEMORY;
    r->options = *options;
    r->map_bytes = (options->quota_bytes / 2 * 5 + 4095) & ~(uint64_t)4095;
    for (int s = 0; s < SPOOL_STREAMS; s++)
        r->next[s] = 1;
    if (snprintf(r->path, sizeof r->path, "%s/tel", options->folder) >= (int)sizeof r->path) {
        free(r);
        return ERR_ARGUMENT;
    }
    enum err e = open_env(r);
    if (e && e != ERR_MEMORY) {
        set_aside(r);
        e = open_env(r);
    }
    if (e) {
        log_error("spool: no store, records stay in memory: folder=%s: %s", r->path, err_name(e));
        r->degraded = true;
    }
    *out = r;
    return ERR_NONE;
}

void spool_close(struct spool *r)
{
    if (!r)
        return;
    close_env(r);
    for (uint32_t i = 0; i < r->held_count; i++)
        free(r->held[i].bytes);
    free(r);
}

static bool has_room(struct spool *r)
{
    uint64_t left, total;
    if (r->options.disk) {
        if (!r->options.disk(r->options.disk_context, &left, &total))
            return true;
    } else {
        struct statvfs fs;
        if (statvfs(r->path, &fs) != 0)
            return true;
        left = (uint64_t)fs.f_bavail * fs.f_frsize;
        total = (uint64_t)fs.f_blocks * fs.f_frsize;
    }
    return left >= total / 20;
}

/* Deletes from the oldest on until the stream uses at most `target` bytes, and leaves one tombstone per
 * epoch touched. */
static int prune(struct spool *r, MDB_txn *txn, enum spool_stream s, uint64_t target, uint64_t *used)
{
    uint64_t epoch = 0, from = 0, to = 0;
    uint8_t key[SPOOL_KEY_BYTES], tomb[SPOOL_TOMB_MAX];
    MDB_cursor *c;
    MDB_val k, v;
    int rc = mdb_cursor_open(txn, r->dbi[s], &c);
    if (rc)
        return rc;
    while ((rc = mdb_cursor_get(c, &k, &v, MDB_FIRST)) == 0) {
        uint64_t e = spool_number(k.mv_data), seq = spool_number((const uint8_t *)k.mv_data + 8), start;
        if (from && (e != epoch || *used <= target))
            break;
        if (*used <= target)
            break;
        memcpy(&start, (const uint8_t *)v.mv_data + SPOOL_SUM_BYTES, SPOOL_FLAG_BYTES);
        if (!from) {
            epoch = e;
            from = start ? start : seq;
        }
        to = seq;
        *used -= v.mv_size + SPOOL_COST;
        if ((rc = mdb_cursor_del(c, 0)))
            break;
    }
    mdb_cursor_close(c);
    if (rc && rc != MDB_NOTFOUND)
        return rc;
    if (!from)
        return 0;
    size_t size;
    if (r->options.tombstone(s, epoch, from, to, tomb, sizeof tomb, &size))
        return EINVAL;
    spool_key(key, epoch, to);
    *used += size + SPOOL_HEAD_BYTES + SPOOL_COST;
    return put_value(r, txn, s, key, from, tomb, size);
}

/* One transaction: all held records, then the new ones, then the pruning. */
static int write_all(struct spool *r, enum spool_stream s, const struct spool_record *records, uint32_t count,
                     uint64_t divide, uint64_t used[SPOOL_STREAMS])
{
    MDB_txn *txn;
    uint8_t key[SPOOL_KEY_BYTES];
    int rc = mdb_txn_begin(r->env, NULL, 0, &txn);
    if (rc)
        return rc;
    memcpy(used, r->used, sizeof r->used);
    /* Room first: a map that is full does not even take deletions. */
    for (int i = 0; i < SPOOL_STREAMS && !rc; i++) {
        uint64_t quota = r->options.quota_bytes / SPOOL_STREAMS;
        for (int again = 0; again < 64 && !rc && used[i] > quota / divide; again++)
            rc = prune(r, txn, (enum spool_stream)i, quota / divide - quota / divide / 8, &used[i]);
    }
    for (uint32_t i = 0; i < r->held_count && !rc; i++) {
        const struct spool_held *h = &r->held[i];
        spool_key(key, r->options.epoch, h->seq);
        rc = put_value(r, txn, h->stream, key, 0, h->bytes, h->size);
        used[h->stream] += h->size + SPOOL_HEAD_BYTES + SPOOL_COST;
    }
    for (uint32_t i = 0; i < count && !rc; i++) {
        spool_key(key, r->options.epoch, r->next[s] + i);
        rc = put_value(r, txn, s, key, 0, records[i].bytes, records[i].size);
        used[s] += records[i].size + SPOOL_HEAD_BYTES + SPOOL_COST;
    }
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

static enum err hold(struct spool *r, enum spool_stream s, const struct spool_record *records, uint32_t count)
{
    if (r->held_count + count > SPOOL_MEMORY_RECORDS)
        return ERR_FULL;
    uint32_t was = r->held_count;
    for (uint32_t i = 0; i < count; i++) {
        struct spool_held *h = &r->held[r->held_count];
        *h = (struct spool_held){.stream = s, .seq = r->next[s] + i, .size = records[i].size};
        h->bytes = malloc(records[i].size ? records[i].size : 1);
        if (!h->bytes) {
            while (r->held_count > was)
                free(r->held[--r->held_count].bytes);
            return ERR_MEMORY;
        }
        memcpy(h->bytes, records[i].bytes, records[i].size);
        r->held_count++;
    }
    return ERR_NONE;
}

static enum err write_down(struct spool *r, enum spool_stream s, const struct spool_record *records, uint32_t count)
{
    uint64_t used[SPOOL_STREAMS];
    if (!r->env && open_env(r))
        return ERR_IO;
    if (!has_room(r))
        return ERR_FULL;
    int rc = write_all(r, s, records, count, 1, used);
    if (rc == MDB_MAP_FULL) {
        r->map_bytes += (r->map_bytes / 4 + 4095) & ~(uint64_t)4095;
        log_warning("spool: the map is full, it grows: bytes=%llu", (unsigned long long)r->map_bytes);
        rc = mdb_env_set_mapsize(r->env, r->map_bytes);
        if (!rc)
            rc = write_all(r, s, records, count, 2, used);
    }
    if (rc == MDB_MAP_FULL || spool_error(rc) == ERR_FORMAT) {
        set_aside(r);
        if (open_env(r))
            return ERR_IO;
        rc = write_all(r, s, records, count, 1, used);
    }
    if (rc)
        return spool_error(rc);
    memcpy(r->used, used, sizeof used);
    for (uint32_t i = 0; i < r->held_count; i++)
        free(r->held[i].bytes);
    r->held_count = 0;
    return ERR_NONE;
}

enum err spool_append(struct spool *r, enum spool_stream stream, const struct spool_record *records, uint32_t count,
                     uint64_t *first)
{
    if (count == 0)
        return ERR_ARGUMENT;
    for (uint32_t i = 0; i < count; i++)
        if (records[i].size > SPOOL_RECORD_MAX)
            return ERR_ARGUMENT;
    enum err e = write_down(r, stream, records, count);
    if (!e != !r->degraded) {
        if (e)
            log_error("spool: the disk does not take records, they stay in memory: %s", err_name(e));
        else
            log_info("spool: the disk takes records again");
        r->degraded = e != ERR_NONE;
    }
    if (e && (e = hold(r, stream, records, count)))
        return e;
    *first = r->next[stream];
    r->next[stream] += count;
    return ERR_NONE;
}
