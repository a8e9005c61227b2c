/* store_watch.c: preloaded into an agent, looks over its shoulder where it talks to LMDB. Two uses:
 *
 *   STORE_WATCH_DEATHS=folder   The agent kills itself (SIGKILL) right before the transaction that makes a job
 *                               state durable when the folder holds STATE.before, right after it when it holds
 *                               STATE.after. The file is consumed: one death each.
 *   STORE_WATCH_LEDGER=file     One line "epoch seq" for every telemetry record that became durable: what the
 *                               controller's books are compared with.
 *
 * Nothing of this is in the product; in a process that does not use LMDB it does nothing.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/job.h"
#include "protocol/message.h"

enum { PENDING_MAX = 2048, RING_KEY_BYTES = 16 };

static struct {
    const MDB_txn *txn; /* that wrote a job record; NULL: none */
    uint32_t state;
    const MDB_env *ring;
    MDB_dbi ring_dbi;
    uint8_t pending[PENDING_MAX][RING_KEY_BYTES];
    uint32_t pendings;
} watch;

static void *original(const char *name)
{
    void *p = dlsym(RTLD_NEXT, name);
    if (!p) {
        fprintf(stderr, "store_watch: %s is missing\n", name);
        _exit(99);
    }
    return p;
}

static void die_if_asked(const char *moment)
{
    const char *folder = getenv("STORE_WATCH_DEATHS");
    char path[512];
    if (!folder)
        return;
    snprintf(path, sizeof path, "%s/%s.%s", folder, job_state_name(watch.state), moment);
    if (unlink(path) != 0)
        return;
    fprintf(stderr, "store_watch: killed %s %s\n", moment, job_state_name(watch.state));
    kill(getpid(), SIGKILL);
    pause();
}

static uint64_t big_endian(const uint8_t *in)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | in[i];
    return v;
}

static void write_ledger(void)
{
    const char *file = getenv("STORE_WATCH_LEDGER");
    int fd = file ? open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    for (uint32_t i = 0; fd >= 0 && i < watch.pendings; i++)
        dprintf(fd, "%llu %llu\n", (unsigned long long)big_endian(watch.pending[i]),
                (unsigned long long)big_endian(watch.pending[i] + 8));
    if (fd >= 0)
        close(fd);
    watch.pendings = 0;
}

__attribute__((visibility("default"))) int mdb_dbi_open(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *dbi)
{
    int (*next)(MDB_txn *, const char *, unsigned, MDB_dbi *) = original("mdb_dbi_open");
    int rc = next(txn, name, flags, dbi);
    if (rc == 0 && name && strcmp(name, "tel") == 0) {
        watch.ring = mdb_txn_env(txn);
        watch.ring_dbi = *dbi;
    }
    return rc;
}

__attribute__((visibility("default"))) int mdb_put(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data, unsigned flags)
{
    int (*next)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *, unsigned) = original("mdb_put");
    struct message_job job;
    if (key->mv_size == 3 && memcmp(key->mv_data, "job", 3) == 0 &&
        message_job_decode(data->mv_data, data->mv_size, &job) == ERR_NONE) {
        watch.txn = txn;
        watch.state = job.state;
    }
    int rc = next(txn, dbi, key, data, flags);
    if (rc == 0 && mdb_txn_env(txn) == watch.ring && dbi == watch.ring_dbi && key->mv_size == RING_KEY_BYTES &&
        watch.pendings < PENDING_MAX)
        memcpy(watch.pending[watch.pendings++], key->mv_data, RING_KEY_BYTES);
    return rc;
}

__attribute__((visibility("default"))) int mdb_txn_commit(MDB_txn *txn)
{
    int (*next)(MDB_txn *) = original("mdb_txn_commit");
    bool is_step = txn == watch.txn, is_ring = mdb_txn_env(txn) == watch.ring;
    watch.txn = NULL;
    if (is_step)
        die_if_asked("before");
    int rc = next(txn);
    if (rc == 0 && is_step)
        die_if_asked("after");
    if (rc == 0 && is_ring)
        write_ledger();
    return rc;
}

__attribute__((visibility("default"))) void mdb_txn_abort(MDB_txn *txn)
{
    void (*next)(MDB_txn *) = original("mdb_txn_abort");
    if (txn && mdb_txn_env(txn) == watch.ring)
        watch.pendings = 0;
    if (txn && txn == watch.txn)
        watch.txn = NULL;
    next(txn);
}
