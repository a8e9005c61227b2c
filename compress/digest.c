#include "compress/digest.h"

#include <assert.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 18 };

static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(struct digest), "room for the state");

/* The state is copied in and out, so that struct digest needs no alignment of the library's. */
static void load(const struct digest *d, crypto_hash_sha256_state *s)
{
    memcpy(s, d->state, sizeof *s);
}

static void keep(struct digest *d, const crypto_hash_sha256_state *s)
{
    memcpy(d->state, s, sizeof *s);
}

void digest_start(struct digest *d)
{
    crypto_hash_sha256_state s;
    crypto_hash_sha256_init(&s);
    keep(d, &s);
}

void digest_add(struct digest *d, const void *bytes, size_t size)
{
    crypto_hash_sha256_state s;
    load(d, &s);
    crypto_hash_sha256_update(&s, bytes, size);
    keep(d, &s);
}

void digest_finish(struct digest *d, char hex[DIGEST_HEX])
{
    crypto_hash_sha256_state s;
    uint8_t hash[crypto_hash_sha256_BYTES];
    load(d, &s);
    crypto_hash_sha256_final(&s, hash);
    sodium_bin2hex(hex, DIGEST_HEX, hash, sizeof hash);
}

enum err digest_file(const char *path, char hex[DIGEST_HEX], uint64_t *bytes)
{
    enum err e = ERR_NONE;
    uint64_t total = 0;
    struct digest d;
    char *piece = malloc(PIECE);
    const int in = open(path, O_RDONLY | O_CLOEXEC);
    if (in < 0 || !piece) {
        e = in < 0 ? ERR_IO : ERR_MEMORY;
        goto out;
    }
    digest_start(&d);
    for (;;) {
        const ssize_t n = read(in, piece, PIECE);
        if (n < 0) {
            e = ERR_IO;
            goto out;
        }
        if (n == 0)
            break;
        digest_add(&d, piece, (size_t)n);
        total += (uint64_t)n;
    }
    digest_finish(&d, hex);
    if (bytes)
        *bytes = total;
out:
    if (in >= 0)
        close(in);
    free(piece);
    return e;
}
