#include "compress/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/hex.h"

enum { PIECE = 1 << 18 };

enum err digest_start(struct digest *d)
{
    if (!d->context)
        d->context = EVP_MD_CTX_new();
    return d->context && EVP_DigestInit_ex(d->context, EVP_sha256(), NULL) == 1 ? ERR_NONE : ERR_MEMORY;
}

void digest_add(struct digest *d, const void *bytes, size_t size)
{
    if (d->context && EVP_DigestUpdate(d->context, bytes, size) != 1)
        digest_stop(d); /* the end tells */
}

enum err digest_finish(struct digest *d, uint8_t hash[DIGEST_BYTES])
{
    const bool ok = d->context && EVP_DigestFinal_ex(d->context, hash, NULL) == 1;
    digest_stop(d);
    return ok ? ERR_NONE : ERR_MEMORY;
}

void digest_stop(struct digest *d)
{
    EVP_MD_CTX_free(d->context);
    d->context = NULL;
}

static enum err hash_file(const char *path, const atomic_bool *gives_up, char hex[DIGEST_HEX], uint64_t *bytes)
{
    uint8_t hash[DIGEST_BYTES];
    uint64_t total = 0;
    struct digest d = {NULL};
    char *piece = malloc(PIECE);
    const int in = open(path, O_RDONLY | O_CLOEXEC);
    enum err e = in < 0 ? ERR_IO : !piece ? ERR_MEMORY : digest_start(&d);
    while (!e && !(gives_up && atomic_load(gives_up))) {
        const ssize_t n = read(in, piece, PIECE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            e = ERR_IO;
        if (n <= 0)
            break;
        digest_add(&d, piece, (size_t)n);
        total += (uint64_t)n;
    }
    if (!e && !(e = digest_finish(&d, hash))) {
        hex_encode(hash, sizeof hash, hex);
        if (bytes)
            *bytes = total;
    }
    digest_stop(&d);
    if (in >= 0)
        close(in);
    free(piece);
    return e;
}

enum err digest_file(const char *path, char hex[DIGEST_HEX], uint64_t *bytes)
{
    return hash_file(path, NULL, hex, bytes);
}

struct digest_task {
    pthread_t thread;
    char *path;
    atomic_bool gives_up;
    atomic_bool is_done;
    bool is_joined;
    enum err error;
    char hex[DIGEST_HEX];
};

static void *task(void *context)
{
    struct digest_task *t = context;
    t->error = hash_file(t->path, &t->gives_up, t->hex, NULL);
    atomic_store(&t->is_done, true);
    return NULL;
}

enum err digest_task_open(const char *path, struct digest_task **out)
{
    struct digest_task *t = calloc(1, sizeof *t);
    if (t && (t->path = strdup(path)) && pthread_create(&t->thread, NULL, task, t) == 0) {
        *out = t;
        return ERR_NONE;
    }
    if (t)
        free(t->path);
    free(t);
    return ERR_MEMORY;
}

bool digest_task_is_done(const struct digest_task *t)
{
    return atomic_load(&t->is_done);
}

enum err digest_task_wait(struct digest_task *t, char hex[DIGEST_HEX])
{
    if (!t->is_joined)
        pthread_join(t->thread, NULL);
    t->is_joined = true;
    if (!t->error)
        memcpy(hex, t->hex, DIGEST_HEX);
    return t->error;
}

void digest_task_close(struct digest_task *t)
{
    if (!t)
        return;
    atomic_store(&t->gives_up, true);
    if (!t->is_joined)
        pthread_join(t->thread, NULL);
    free(t->path);
    free(t);
}
