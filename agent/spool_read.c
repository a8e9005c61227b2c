/* spool_read.c: batches out of the spool, and what is acknowledged deleted. */
#include "agent/spool_parts.h"

#include <stdlib.h>
#include <string.h>

static bool batch_add(struct spool_batch *b, uint64_t epoch, uint64_t seq, const uint8_t *bytes, size_t size)
{
    if (b->count && (epoch != b->epoch || seq != b->first + b->count))
        return false;
    if (b->offset[b->count] + size > b->capacity)
        return false;
    if (!b->count) {
        b->epoch = epoch;
        b->first = seq;
    }
    memcpy(b->bytes + b->offset[b->count], bytes, size);
    b->offset[b->count + 1] = b->offset[b->count] + (uint32_t)size;
    b->count++;
    return true;
}

static int read_disk(struct spool *r, enum spool_stream stream, uint64_t epoch, uint64_t seq, uint32_t max_count,
                     struct spool_batch *b)
{
    uint8_t key[SPOOL_KEY_BYTES];
    MDB_txn *txn;
    MDB_cursor *c;
    int rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, &txn);
    if (rc)
        return rc;
    rc = mdb_cursor_open(txn, r->dbi[stream], &c);
    if (!rc) {
        spool_key(key, seq == UINT64_MAX ? epoch + 1 : epoch, seq == UINT64_MAX ? 0 : seq + 1);
        MDB_val k = {.mv_size = sizeof key, .mv_data = key}, v;
        rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
        while (!rc && b->count < max_count) {
            uint8_t sum[SPOOL_SUM_BYTES], tomb[SPOOL_TOMB_MAX];
            uint64_t e = spool_number(k.mv_data), n = spool_number((const uint8_t *)k.mv_data + 8);
            const uint8_t *bytes = (const uint8_t *)v.mv_data + SPOOL_HEAD_BYTES;
            size_t size = v.mv_size - SPOOL_HEAD_BYTES;
            if (v.mv_size >= SPOOL_HEAD_BYTES)
                spool_checksum(v.mv_data, v.mv_size, sum);
            if (v.mv_size < SPOOL_HEAD_BYTES || memcmp(sum, v.mv_data, SPOOL_SUM_BYTES) != 0) {
                if (r->options.tombstone(stream, e, n, n, tomb, sizeof tomb, &size))
                    break;
                bytes = tomb;
            }
            if (!batch_add(b, e, n, bytes, size))
                break;
            rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
        }
        mdb_cursor_close(c);
    }
    mdb_txn_abort(txn);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum err spool_read(struct spool *r, enum spool_stream stream, uint64_t epoch, uint64_t seq, uint32_t max_count,
                   struct spool_batch *batch)
{
    batch->count = 0;
    batch->offset[0] = 0;
    if (max_count > 1024)
        max_count = 1024;
    int rc = r->env ? read_disk(r, stream, epoch, seq, max_count, batch) : 0;
    for (uint32_t i = 0; i < r->held_count && batch->count < max_count; i++) {
        const struct spool_held *h = &r->held[i];
        bool after = r->options.epoch > epoch || (r->options.epoch == epoch && h->seq > seq);
        if (h->stream == stream && after && !batch_add(batch, r->options.epoch, h->seq, h->bytes, h->size))
            break;
    }
    if (batch->count)
        return ERR_NONE;
    return rc ? spool_error(rc) : ERR_NOT_FOUND;
}

static int delete_disk(struct spool *r, enum spool_stream stream, uint64_t epoch, uint64_t seq)
{
    uint8_t key[SPOOL_KEY_BYTES];
    MDB_txn *txn;
    MDB_cursor *c;
    MDB_val k, v;
    uint64_t used = r->used[stream];
    int rc = mdb_txn_begin(r->env, NULL, 0, &txn);
    if (rc)
        return rc;
    if ((rc = mdb_cursor_open(txn, r->dbi[stream], &c))) {
        mdb_txn_abort(txn);
        return rc;
    }
    spool_key(key, epoch, 0);
    for (;;) {
        k = (MDB_val){.mv_size = sizeof key, .mv_data = key};
        rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
        if (rc || spool_number(k.mv_data) != epoch || spool_number((const uint8_t *)k.mv_data + 8) > seq)
            break;
        used -= v.mv_size + SPOOL_COST;
        if ((rc = mdb_cursor_del(c, 0)))
            break;
    }
    mdb_cursor_close(c);
    if (rc && rc != MDB_NOTFOUND) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    if (!rc)
        r->used[stream] = used;
    return rc;
}

enum err spool_acknowledge(struct spool *r, enum spool_stream stream, uint64_t epoch, uint64_t seq)
{
    if (epoch == r->options.epoch) {
        if (seq >= r->next[stream])
            return ERR_ARGUMENT;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < r->held_count; i++) {
            if (r->held[i].stream == stream && r->held[i].seq <= seq)
                free(r->held[i].bytes);
            else
                r->held[kept++] = r->held[i];
        }
        r->held_count = kept;
    }
    return r->env ? spool_error(delete_disk(r, stream, epoch, seq)) : ERR_NONE;
}

uint64_t spool_next_seq(const struct spool *r, enum spool_stream stream)
{
    return r->next[stream];
}

bool spool_is_degraded(const struct spool *r)
{
    return r->degraded;
}

uint64_t spool_records(struct spool *r, enum spool_stream stream)
{
    MDB_txn *txn;
    MDB_stat st = {0};
    uint64_t n = 0;
    if (r->env && mdb_txn_begin(r->env, NULL, MDB_RDONLY, &txn) == 0) {
        if (mdb_stat(txn, r->dbi[stream], &st) == 0)
            n = st.ms_entries;
        mdb_txn_abort(txn);
    }
    for (uint32_t i = 0; i < r->held_count; i++)
        n += r->held[i].stream == stream;
    return n;
}
