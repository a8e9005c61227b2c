#include "harness.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/spool.h"
#include "agent_fixture.h"

static struct {
    bool is_full;
} disk;

static bool read_disk(void *context, uint64_t *left, uint64_t *total)
{
    (void)context;
    *left = disk.is_full ? 1 : 90;
    *total = 100;
    return true;
}

/* A tombstone says "L from to". */
static enum err tombstone(enum spool_stream stream, uint64_t epoch, uint64_t from, uint64_t to, uint8_t *out,
                          size_t capacity, size_t *size)
{
    (void)stream;
    (void)epoch;
    *size = (size_t)snprintf((char *)out, capacity, "L %llu %llu", (unsigned long long)from, (unsigned long long)to);
    return ERR_NONE;
}

static struct spool *open_spool(const struct fixture *f, uint64_t epoch)
{
    struct spool_options o = {
        .folder = f->folder, .quota_bytes = 1 << 20, .epoch = epoch, .tombstone = tombstone, .disk = read_disk};
    struct spool *s = NULL;
    CU_ASSERT_FATAL(spool_open(&o, &s) == ERR_NONE);
    return s;
}

static enum err append(struct spool *s, uint32_t count, size_t bytes, uint64_t *first)
{
    static uint8_t data[4096];
    struct spool_record r[256];
    memset(data, 'x', sizeof data);
    for (uint32_t i = 0; i < count; i++)
        r[i] = (struct spool_record){data, bytes};
    return spool_append(s, SPOOL_TEL, r, count, first);
}

/* Reads everything; checks that the seqs of each epoch are contiguous or covered by tombstones, from 1. */
static uint64_t read_all(struct spool *s, uint64_t *lost)
{
    static struct spool_batch b;
    uint64_t epoch = 0, seq = 0, covered = 0, records = 0;
    uint8_t *bytes = malloc(64 << 10);
    *lost = 0;
    b.bytes = bytes;
    b.capacity = 64 << 10;
    while (spool_read(s, SPOOL_TEL, epoch, seq, 100, &b) == ERR_NONE) {
        if (b.epoch != epoch)
            covered = 0;
        CU_ASSERT(b.epoch >= epoch && b.count > 0);
        for (uint32_t i = 0; i < b.count; i++) {
            char text[64];
            unsigned long long from, to;
            size_t size = b.offset[i + 1] - b.offset[i];
            if (size < sizeof text && b.bytes[b.offset[i]] == 'L') {
                memcpy(text, b.bytes + b.offset[i], size);
                text[size] = 0;
                CU_ASSERT(sscanf(text, "L %llu %llu", &from, &to) == 2);
                CU_ASSERT(from == covered + 1 && to == b.first + i);
                *lost += to - from + 1;
                covered = to;
            } else {
                CU_ASSERT_EQUAL(b.first + i, covered + 1);
                covered = b.first + i;
                records++;
            }
        }
        epoch = b.epoch;
        seq = b.first + b.count - 1;
    }
    free(bytes);
    return records;
}

static void test_order(void)
{
    struct fixture f;
    uint64_t first, lost;
    fixture_open(&f);
    struct spool *s = open_spool(&f, 1);
    CU_ASSERT_EQUAL(append(s, 10, 100, &first), ERR_NONE);
    CU_ASSERT_EQUAL(first, 1);
    CU_ASSERT_EQUAL(append(s, 5, 100, &first), ERR_NONE);
    CU_ASSERT_EQUAL(first, 11);
    spool_close(s);
    s = open_spool(&f, 2);
    CU_ASSERT_EQUAL(append(s, 3, 100, &first), ERR_NONE);
    CU_ASSERT_EQUAL(first, 1);
    CU_ASSERT_EQUAL(read_all(s, &lost), 18);
    CU_ASSERT_EQUAL(lost, 0);
    CU_ASSERT_EQUAL(spool_acknowledge(s, SPOOL_TEL, 1, 15), ERR_NONE);
    CU_ASSERT_EQUAL(spool_records(s, SPOOL_TEL), 3);
    CU_ASSERT_EQUAL(spool_acknowledge(s, SPOOL_TEL, 2, 4), ERR_ARGUMENT); /* never given out */
    CU_ASSERT_EQUAL(spool_acknowledge(s, SPOOL_TEL, 2, 3), ERR_NONE);
    CU_ASSERT_EQUAL(spool_records(s, SPOOL_TEL), 0);
    spool_close(s);
    fixture_close(&f);
}

static void test_quota(void)
{
    struct fixture f;
    uint64_t first, lost, made = 0;
    fixture_open(&f);
    struct spool *s = open_spool(&f, 1);
    for (int i = 0; i < 400; i++, made += 20)
        CU_ASSERT_EQUAL_FATAL(append(s, 20, 1000, &first), ERR_NONE);
    uint64_t kept = read_all(s, &lost);
    CU_ASSERT_EQUAL(kept + lost, made);
    CU_ASSERT(kept * 1064 <= (1 << 19) + 20 * 1100 && kept > 200);
    CU_ASSERT(spool_records(s, SPOOL_TEL) <= kept + 1); /* one tombstone for all of it */
    spool_close(s);
    s = open_spool(&f, 2);
    for (int i = 0; i < 100; i++)
        CU_ASSERT_EQUAL_FATAL(append(s, 20, 1000, &first), ERR_NONE);
    uint64_t after = read_all(s, &lost);
    CU_ASSERT_EQUAL(after + lost, made + 2000);
    spool_close(s);
    fixture_close(&f);
}

static void test_disk(void)
{
    struct fixture f;
    uint64_t first, lost, made = 0;
    fixture_open(&f);
    struct spool *s = open_spool(&f, 1);
    CU_ASSERT_EQUAL(append(s, 2, 10, &first), ERR_NONE);
    disk.is_full = true;
    while (append(s, 10, 10, &first) == ERR_NONE) /* into memory, bounded */
        made += 10;
    CU_ASSERT(made > 0 && made <= SPOOL_MEMORY_RECORDS);
    CU_ASSERT(spool_is_degraded(s));
    CU_ASSERT_EQUAL(read_all(s, &lost), made + 2);
    CU_ASSERT_EQUAL(spool_acknowledge(s, SPOOL_TEL, 1, 5), ERR_NONE);
    disk.is_full = false;
    CU_ASSERT_EQUAL(append(s, 1, 10, &first), ERR_NONE);
    CU_ASSERT(!spool_is_degraded(s));
    spool_close(s);
    s = open_spool(&f, 2); /* what was in memory is on disk now */
    CU_ASSERT_EQUAL(spool_records(s, SPOOL_TEL), made + 3 - 5);
    spool_close(s);
    fixture_close(&f);
}

static void test_damage(void)
{
    struct fixture f;
    uint64_t first, lost;
    char path[300], bytes[400];
    fixture_open(&f);
    struct spool *s = open_spool(&f, 1);
    CU_ASSERT_EQUAL(append(s, 5, 333, &first), ERR_NONE);
    spool_close(s);
    snprintf(path, sizeof path, "%s/tel/data.mdb", f.folder);
    /* One record's bytes change: it alone is known to be lost. */
    int fd = open(path, O_RDWR);
    off_t at = -1;
    memset(bytes, 'x', sizeof bytes);
    for (off_t p = 0; at < 0 && p < 1 << 20; p++) {
        char here[64];
        if (pread(fd, here, sizeof here, p) == sizeof here && memcmp(here, bytes, sizeof here) == 0)
            at = p;
    }
    CU_ASSERT_FATAL(at > 0);
    CU_ASSERT(pwrite(fd, "y", 1, at + 9) == 1);
    close(fd);
    s = open_spool(&f, 2);
    read_all(s, &lost);
    CU_ASSERT_EQUAL(lost, 1);
    spool_close(s);
    /* The whole file is rubbish: it is set aside and a new one serves. */
    fd = open(path, O_RDWR);
    for (int i = 0; i < 64; i++)
        CU_ASSERT(pwrite(fd, bytes, sizeof bytes, i * 400) == sizeof bytes);
    close(fd);
    s = open_spool(&f, 3);
    CU_ASSERT_EQUAL(spool_records(s, SPOOL_TEL), 0);
    CU_ASSERT_EQUAL(append(s, 2, 10, &first), ERR_NONE);
    CU_ASSERT_EQUAL(read_all(s, &lost), 2);
    spool_close(s);
    snprintf(path, sizeof path, "%s/tel.bad/data.mdb", f.folder);
    CU_ASSERT(access(path, F_OK) == 0);
    fixture_close(&f);
}

RUN_SUITE("spool", {"order, epochs, acknowledgement", test_order}, {"quota and tombstones", test_quota},
          {"a full disk", test_disk}, {"damage", test_damage})
