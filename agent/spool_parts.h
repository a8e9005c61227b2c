/* spool_parts.h: what writing (spool.c) and reading (spool_read.c) share. */
#ifndef SPOOL_PARTS_H
#define SPOOL_PARTS_H

#include <lmdb.h>

#include "agent/spool.h"

enum {
    SPOOL_KEY_BYTES = 16,
    SPOOL_SUM_BYTES = 8,
    SPOOL_FLAG_BYTES = 8,
    SPOOL_HEAD_BYTES = SPOOL_SUM_BYTES + SPOOL_FLAG_BYTES,
    SPOOL_COST = 48,
    SPOOL_TOMB_MAX = 512
};

struct spool_held {
    enum spool_stream stream;
    uint64_t seq;
    size_t size;
    uint8_t *bytes;
};

struct spool {
    struct spool_options options;
    char path[4096];
    MDB_env *env; /* NULL: only memory is left */
    MDB_dbi dbi[SPOOL_STREAMS];
    uint64_t map_bytes;
    uint64_t next[SPOOL_STREAMS];
    uint64_t used[SPOOL_STREAMS]; /* bytes on disk, COST per record included */
    struct spool_held held[SPOOL_MEMORY_RECORDS]; /* in order; not on disk yet */
    uint32_t held_count;
    bool degraded;
};

/* What LMDB says. */
NODISCARD enum err spool_error(int rc);
/* Records are in the order of these keys. */
void spool_key(uint8_t key[SPOOL_KEY_BYTES], uint64_t epoch, uint64_t seq);
/* A big-endian number of a key. */
uint64_t spool_number(const uint8_t *in);
/* Of what a record holds. */
void spool_checksum(const uint8_t *value, size_t size, uint8_t out[SPOOL_SUM_BYTES]);

#endif
