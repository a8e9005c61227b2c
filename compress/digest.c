#include "compress/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
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

enum err digest_file(const char *path, char hex[DIGEST_HEX], uint64_t *bytes)
{
    uint8_t hash[DIGEST_BYTES];
    uint64_t total = 0;
    struct digest d = {NULL};
    char *piece = malloc(PIECE);
    const int in = open(path, O_RDONLY | O_CLOEXEC);
    enum err e = in < 0 ? ERR_IO : !piece ? ERR_MEMORY : digest_start(&d);
    while (!e) {
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
