#include "compress/quantise_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "compress/plan_internal.h"
#include "compress/prune_file.h"
#include "compress/quantise.h"
#include "protocol/hex.h"

enum { PIECE = 1 << 18, PATH_BYTES = 4096, SYNC_BYTES = 256 << 20, SYNC_S = 5, PUSH_BYTES = 16 << 20 };

/* The digest follows the writer through the page cache in a thread of its own: hashing costs as much as
 * the simplest encoding, and a resumed run must read what is there anyway. */
struct follower {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more;
    int fd;
    uint64_t written; /* under lock */
    bool is_ended;    /* under lock */
    bool is_held;     /* under lock: the header is not final */
    bool has_thread;
    enum err error;
    struct digest digest;
    uint8_t piece[PIECE];
};

struct quantise_file {
    struct gguf_writer *writer;
    struct follower *follower;
    uint32_t kept; /* tensors that the state on the disk tells of */
    bool is_refused;
    char reason[PATH_BYTES + 128];
    char part[PATH_BYTES];
    char state[PATH_BYTES];
    char refused[PATH_BYTES];
    char identity[DIGEST_HEX];
    uint64_t written;
    uint64_t pushed; /* of them on their way to the disk */
    uint64_t synced;
    time_t synced_s;
};

static void *follow(void *context)
{
    struct follower *o = context;
    uint64_t at = 0;
    for (;;) {
        pthread_mutex_lock(&o->lock);
        while ((o->is_held || o->written - at < PIECE) && !o->is_ended)
            pthread_cond_wait(&o->more, &o->lock);
        const uint64_t end = o->written;
        const bool is_ended = o->is_ended, is_held = o->is_held;
        pthread_mutex_unlock(&o->lock);
        while (at < end && !is_held) {
            const size_t want = end - at < PIECE ? (size_t)(end - at) : PIECE;
            const ssize_t n = pread(o->fd, o->piece, want, (off_t)at);
            if (n <= 0) {
                o->error = ERR_IO;
                return NULL;
            }
            digest_add(&o->digest, o->piece, (size_t)n);
            at += (uint64_t)n;
        }
        if (is_ended)
            return NULL;
    }
}

static void tell(struct follower *o, uint64_t written, bool is_ended)
{
    pthread_mutex_lock(&o->lock);
    o->written = written;
    o->is_ended = o->is_ended || is_ended;
    pthread_cond_signal(&o->more);
    pthread_mutex_unlock(&o->lock);
}

static enum err follower_open(const char *path, bool is_held, struct follower **out)
{
    struct follower *o = calloc(1, sizeof *o);
    if (!o)
        return ERR_MEMORY;
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->more, NULL);
    o->is_held = is_held;
    *out = o;
    enum err e = digest_start(&o->digest);
    if (e)
        return e;
    if ((o->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return ERR_IO;
    if (pthread_create(&o->thread, NULL, follow, o))
        return ERR_MEMORY;
    o->has_thread = true;
    return ERR_NONE;
}

static enum err follower_end(struct follower *o)
{
    if (!o->has_thread)
        return ERR_NONE;
    tell(o, o->written, true);
    pthread_join(o->thread, NULL);
    o->has_thread = false;
    return o->error;
}

static void follower_close(struct follower *o)
{
    if (!o)
        return;
    (void)follower_end(o); /* an error no longer matters */
    if (o->fd >= 0)
        close(o->fd);
    digest_stop(&o->digest);
    pthread_cond_destroy(&o->more);
    pthread_mutex_destroy(&o->lock);
    free(o);
}

static enum err put_header(struct gguf_writer *w, const struct plan *plan, const struct gguf *base)
{
    struct plan_key key[PLAN_KEYS];
    const uint32_t keys = plan_keys(plan, key);
    enum err e = gguf_writer_copy_all(w, base);
    for (uint32_t i = 0; !e && i < keys; i++)
        e = key[i].text ? gguf_writer_string(w, key[i].key, key[i].text, strlen(key[i].text))
                        : gguf_writer_u32(w, key[i].key, key[i].number);
    for (uint32_t i = 0; !e && i < plan->tensors; i++) {
        const struct gguf_tensor *t = gguf_tensor(base, i);
        e = gguf_writer_tensor(w, t->name, plan->tensor[i].type, t->dims, t->shape);
    }
    return e;
}

/* "tare-quantise 1 IDENTITY TENSORS\n"; anything else is no state. */
static uint32_t read_state(const struct quantise_file *q)
{
    char identity[DIGEST_HEX] = "", end = 0;
    uint32_t tensors = 0;
    FILE *in = fopen(q->state, "r");
    if (!in)
        return 0;
    const int n = fscanf(in, "tare-quantise 1 %64[0-9a-f] %u%c", identity, &tensors, &end);
    fclose(in);
    return n == 3 && end == '\n' && strcmp(identity, q->identity) == 0 ? tensors : 0;
}

static enum err write_state(struct quantise_file *q, uint32_t tensors)
{
    char fresh[PATH_BYTES + 8];
    snprintf(fresh, sizeof fresh, "%s.new", q->state);
    FILE *to = fopen(fresh, "w");
    if (!to)
        return ERR_IO;
    bool ok = fprintf(to, "tare-quantise 1 %s %u\n", q->identity, tensors) > 0 && fflush(to) == 0 &&
              fsync(fileno(to)) == 0;
    ok = fclose(to) == 0 && ok;
    if (ok && rename(fresh, q->state) == 0)
        return ERR_NONE;
    snprintf(q->reason, sizeof q->reason, "%s: %s", fresh, strerror(errno));
    unlink(fresh);
    return ERR_IO;
}

static enum err begin(struct quantise_file *q, const struct plan *plan, uint32_t *done)
{
    uint32_t tensors = read_state(q);
    enum err e = ERR_MISMATCH;
    if (tensors > 0 && tensors <= plan->tensors)
        e = gguf_writer_begin(q->writer, tensors);
    if (e == ERR_MISMATCH) { /* no state, or a part that is not the state's */
        tensors = 0;
        unlink(q->state);
        e = gguf_writer_begin(q->writer, 0);
    }
    if (!e)
        *done = q->kept = tensors;
    return e;
}

enum err quantise_file_open(const char *out_path, const struct plan *plan, const struct gguf *base,
                            const char identity[DIGEST_HEX], struct quantise_file **out,
                            uint32_t *done, struct fault *f)
{
    struct stat status;
    struct quantise_file *q = calloc(1, sizeof *q);
    if (!q)
        return ERR_MEMORY;
    enum err e = ERR_NONE;
    if (snprintf(q->part, sizeof q->part, "%s.part", out_path) >= PATH_BYTES - 16)
        e = fault_set(f, ERR_ARGUMENT, "%.80s...: the path is too long", out_path);
    if (e)
        goto out;
    snprintf(q->state, sizeof q->state, "%s.state", out_path);
    snprintf(q->refused, sizeof q->refused, "%s.refused", out_path);
    memcpy(q->identity, identity, sizeof q->identity);
    if ((e = gguf_writer_open(out_path, gguf_alignment(base), &q->writer)) ||
        (e = put_header(q->writer, plan, base)) || (e = begin(q, plan, done)))
        goto out;
    gguf_writer_keep(q->writer);
    if ((e = follower_open(q->part, strcmp(plan->base_sha256, DIGEST_LATER) == 0, &q->follower)))
        goto out;
    if (stat(q->part, &status)) {
        e = ERR_IO;
        goto out;
    }
    q->written = q->pushed = q->synced = (uint64_t)status.st_size;
    q->synced_s = time(NULL);
    tell(q->follower, q->written, false);
out:
    if (e) {
        const char *reason = q->writer ? gguf_writer_reason(q->writer) : "";
        if (reason[0])
            fault_set(f, e, "%s", reason);
        else if (e == ERR_IO)
            fault_set(f, e, "%s: %s", q->part, strerror(errno));
        quantise_file_close(q);
    } else {
        *out = q;
    }
    return e;
}

static enum err note_size(struct quantise_file *q)
{
    struct stat status;
    if (fstat(q->follower->fd, &status))
        return ERR_IO;
    q->written = (uint64_t)status.st_size;
    tell(q->follower, q->written, false);
    if (q->written - q->pushed >= PUSH_BYTES) { /* a hint only: syncing then finds little left to wait for */
        (void)sync_file_range(q->follower->fd, (off_t)q->pushed, (off_t)(q->written - q->pushed),
                              SYNC_FILE_RANGE_WRITE);
        q->pushed = q->written;
    }
    return ERR_NONE;
}

enum err quantise_file_append(struct quantise_file *q, const void *data, size_t bytes)
{
    enum err e = gguf_writer_append(q->writer, data, bytes);
    return e ? e : note_size(q);
}

enum err quantise_file_base(struct quantise_file *q, const char sha256[DIGEST_HEX])
{
    enum err e = gguf_writer_string_late(q->writer, "tare.base_sha256", sha256, DIGEST_HEX - 1);
    if (e)
        return e;
    pthread_mutex_lock(&q->follower->lock);
    q->follower->is_held = false;
    pthread_cond_signal(&q->follower->more);
    pthread_mutex_unlock(&q->follower->lock);
    return ERR_NONE;
}

enum err quantise_file_checkpoint(struct quantise_file *q, uint32_t tensors, bool is_due)
{
    const time_t now = time(NULL);
    if (!is_due && q->written - q->synced < SYNC_BYTES && now - q->synced_s < SYNC_S)
        return ERR_NONE;
    enum err e = gguf_writer_sync(q->writer);
    if (!e)
        e = write_state(q, tensors);
    if (!e)
        q->kept = tensors;
    q->synced = q->written;
    q->synced_s = now;
    return e;
}

void quantise_file_refuse(struct quantise_file *q)
{
    q->is_refused = true;
    unlink(q->state);
    if (rename(q->part, q->refused))
        unlink(q->part);
}

const char *quantise_file_part(const struct quantise_file *q)
{
    return q->part;
}

enum err quantise_file_finish(struct quantise_file *q, const char *expected, char sha256[DIGEST_HEX],
                              uint64_t *bytes, struct fault *f)
{
    uint8_t hash[DIGEST_BYTES];
    enum err e = note_size(q);
    if (!e)
        e = follower_end(q->follower);
    if (e)
        return fault_set(f, e, "%s: %s", q->part, strerror(errno));
    if ((e = digest_finish(&q->follower->digest, hash)))
        return e;
    hex_encode(hash, sizeof hash, sha256);
    *bytes = q->written;
    if (expected[0] == 0 || strcmp(expected, sha256) == 0)
        return ERR_NONE;
    quantise_file_refuse(q);
    return fault_set(f, ERR_MISMATCH, "%s: the digest is %.12s, the plan predicts %.12s", q->refused, sha256,
                     expected);
}

enum err quantise_file_commit(struct quantise_file *q, struct fault *f)
{
    const enum err e = gguf_writer_commit(q->writer);
    if (e)
        return fault_set(f, e, "%s", gguf_writer_reason(q->writer));
    unlink(q->state);
    return ERR_NONE;
}

void quantise_file_close(struct quantise_file *q)
{
    if (!q)
        return;
    follower_close(q->follower);
    gguf_writer_close(q->writer);
    free(q);
}

enum quantise_file_left quantise_file_left(const struct quantise_file *q)
{
    return !q ? QUANTISE_FILE_NONE : q->is_refused ? QUANTISE_FILE_REFUSED : q->kept ? QUANTISE_FILE_STATE : QUANTISE_FILE_PART;
}

const char *quantise_file_reason(const struct quantise_file *q)
{
    return q->reason[0] ? q->reason : gguf_writer_reason(q->writer);
}

void quantise_file_discard(const char *out_path)
{
    static const char *const suffixes[] = {".part", ".state", ".state.new", ".refused", ".work", ".blocks", ".layers", ".layers.new"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (snprintf(path, sizeof path, "%s%s", out_path, suffixes[i]) < PATH_BYTES)
            unlink(path);
}

void quantise_discard(const char *out_path)
{
    quantise_file_discard(out_path);
    prune_file_discard(out_path);
}
