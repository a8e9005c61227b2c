/* minisign.c: minisign's formats on bytes. No I/O. */
#include "protocol/minisign.h"

#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
    PUBLIC_BYTES = 2 + 8 + 32,
    SIGNATURE_BYTES = 2 + 8 + 64,
    /* "Ed", kdf, "B2", salt 32, limits 8 + 8, key id, secret key, checksum 32 */
    SECRET_BYTES = 2 + 2 + 2 + 32 + 8 + 8 + 8 + 64 + 32,
    SECRET_ID_AT = 2 + 2 + 2 + 32 + 8 + 8,
    BASE64_MAX = 256
};

static const char untrusted[] = "untrusted comment: ";
static const char trusted[] = "trusted comment: ";

struct text {
    const char *at;
    const char *end;
};

/* The next line without its end ("\n" or "\r\n"). */
static bool next_line(struct text *text, const char **line, size_t *size)
{
    if (text->at == text->end)
        return false;
    const char *stop = memchr(text->at, '\n', (size_t)(text->end - text->at));
    *line = text->at;
    *size = (size_t)((stop ? stop : text->end) - text->at);
    text->at = stop ? stop + 1 : text->end;
    if (*size && (*line)[*size - 1] == '\r')
        (*size)--;
    return true;
}

static bool has_prefix(const char *line, size_t size, const char *prefix)
{
    return size >= strlen(prefix) && memcmp(line, prefix, strlen(prefix)) == 0;
}

/* A base64 line of exactly `wanted` bytes. It is encoded again and compared: libsodium 1.0.18 takes
 * some characters above 127 for digits. */
static enum err read_base64(struct text *text, uint8_t *out, size_t wanted)
{
    char again[BASE64_MAX];
    const char *line;
    size_t size, got = 0;
    if (!next_line(text, &line, &size) ||
        sodium_base64_encoded_len(wanted, sodium_base64_VARIANT_ORIGINAL) != size + 1 ||
        size >= sizeof again ||
        sodium_base642bin(out, wanted, line, size, NULL, &got, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0 ||
        got != wanted)
        return ERR_FORMAT;
    sodium_bin2base64(again, sizeof again, out, wanted, sodium_base64_VARIANT_ORIGINAL);
    enum err e = memcmp(again, line, size) == 0 ? ERR_NONE : ERR_FORMAT;
    sodium_memzero(again, sizeof again);
    return e;
}

static enum err skip_comment(struct text *text)
{
    const char *line;
    size_t size;
    return next_line(text, &line, &size) && has_prefix(line, size, "untrusted comment:")
               ? ERR_NONE
               : ERR_FORMAT;
}

static enum err expect_end(const struct text *text)
{
    for (const char *c = text->at; c != text->end; c++)
        if (*c != '\n' && *c != '\r' && *c != ' ')
            return ERR_FORMAT;
    return ERR_NONE;
}

static bool is_comment(const char *comment)
{
    return comment && strlen(comment) < MINISIGN_COMMENT_MAX && !strpbrk(comment, "\r\n");
}

/* One "comment, base64" pair of lines appended at *used. */
static enum err append(char *out, size_t capacity, size_t *used, const char *prefix,
                       const char *comment, const uint8_t *bytes, size_t size)
{
    char base64[BASE64_MAX];
    if (!is_comment(comment))
        return ERR_ARGUMENT;
    sodium_bin2base64(base64, sizeof base64, bytes, size, sodium_base64_VARIANT_ORIGINAL);
    int n = snprintf(out + *used, capacity - *used, "%s%s\n%s\n", prefix, comment, base64);
    sodium_memzero(base64, sizeof base64);
    if (n < 0 || (size_t)n >= capacity - *used)
        return ERR_FULL;
    *used += (size_t)n;
    return ERR_NONE;
}

enum err minisign_generate(struct minisign_secret *out)
{
    uint8_t public_key[32];
    if (sodium_init() < 0)
        return ERR_UNSUPPORTED;
    crypto_sign_keypair(public_key, out->secret_key);
    randombytes_buf(out->key_id, sizeof out->key_id);
    return ERR_NONE;
}

void minisign_public_of(const struct minisign_secret *secret, struct minisign_public *out)
{
    memcpy(out->key_id, secret->key_id, sizeof out->key_id);
    memcpy(out->public_key, secret->secret_key + 32, sizeof out->public_key);
}

enum err minisign_public_encode(const struct minisign_public *key, const char *comment, char *out,
                                size_t capacity)
{
    uint8_t raw[PUBLIC_BYTES] = "Ed";
    size_t used = 0;
    memcpy(raw + 2, key->key_id, 8);
    memcpy(raw + 10, key->public_key, 32);
    return append(out, capacity, &used, untrusted, comment, raw, sizeof raw);
}

enum err minisign_public_decode(const char *text, size_t size, struct minisign_public *out)
{
    struct text t = {text, text + size};
    uint8_t raw[PUBLIC_BYTES];
    enum err e = ERR_NONE;
    if (size > MINISIGN_FILE_MAX)
        return ERR_FORMAT;
    if (has_prefix(text, size, "untrusted comment:"))
        e = skip_comment(&t);
    if (e || (e = read_base64(&t, raw, sizeof raw)) || (e = expect_end(&t)))
        return e;
    if (memcmp(raw, "Ed", 2) != 0)
        return ERR_UNSUPPORTED;
    memcpy(out->key_id, raw + 2, 8);
    memcpy(out->public_key, raw + 10, 32);
    return ERR_NONE;
}

static void secret_checksum(const uint8_t raw[SECRET_BYTES], uint8_t sum[32])
{
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, 32);
    crypto_generichash_update(&state, raw, 2);
    crypto_generichash_update(&state, raw + SECRET_ID_AT, 8 + 64);
    crypto_generichash_final(&state, sum, 32);
}

enum err minisign_secret_encode(const struct minisign_secret *key, const char *comment, char *out,
                                size_t capacity)
{
    uint8_t raw[SECRET_BYTES] = {'E', 'd', 0, 0, 'B', '2'};
    size_t used = 0;
    memcpy(raw + SECRET_ID_AT, key->key_id, 8);
    memcpy(raw + SECRET_ID_AT + 8, key->secret_key, 64);
    secret_checksum(raw, raw + SECRET_BYTES - 32);
    enum err e = append(out, capacity, &used, untrusted, comment, raw, sizeof raw);
    sodium_memzero(raw, sizeof raw);
    return e;
}

enum err minisign_secret_decode(const char *text, size_t size, struct minisign_secret *out)
{
    struct text t = {text, text + size};
    uint8_t raw[SECRET_BYTES], sum[32], public_key[32], secret_key[64];
    enum err e;
    if (size > MINISIGN_FILE_MAX)
        return ERR_FORMAT;
    if ((e = skip_comment(&t)) || (e = read_base64(&t, raw, sizeof raw)) || (e = expect_end(&t)))
        goto out;
    e = ERR_UNSUPPORTED;
    if (memcmp(raw, "Ed", 2) != 0 || memcmp(raw + 2, "\0\0", 2) != 0 ||
        memcmp(raw + 4, "B2", 2) != 0)
        goto out;
    e = ERR_FORMAT;
    secret_checksum(raw, sum);
    /* minisign -G -W leaves the checksum zero; the key pair itself is checked below */
    if (!sodium_is_zero(raw + SECRET_BYTES - 32, 32) &&
        memcmp(sum, raw + SECRET_BYTES - 32, 32) != 0)
        goto out;
    crypto_sign_seed_keypair(public_key, secret_key, raw + SECRET_ID_AT + 8);
    if (memcmp(public_key, raw + SECRET_ID_AT + 8 + 32, 32) != 0)
        goto out;
    memcpy(out->key_id, raw + SECRET_ID_AT, 8);
    memcpy(out->secret_key, secret_key, 64);
    e = ERR_NONE;
out:
    sodium_memzero(raw, sizeof raw);
    sodium_memzero(secret_key, sizeof secret_key);
    return e;
}

enum err minisign_signature_encode(const struct minisign_signature *signature, const char *comment,
                                   char *out, size_t capacity)
{
    uint8_t raw[SIGNATURE_BYTES] = "ED";
    size_t used = 0;
    memcpy(raw + 2, signature->key_id, 8);
    memcpy(raw + 10, signature->signature, 64);
    enum err e = append(out, capacity, &used, untrusted, comment, raw, sizeof raw);
    return e ? e
             : append(out, capacity, &used, trusted, signature->trusted_comment, signature->global,
                      64);
}

enum err minisign_signature_decode(const char *text, size_t size, struct minisign_signature *out)
{
    struct text t = {text, text + size};
    struct minisign_signature s = {0};
    uint8_t raw[SIGNATURE_BYTES];
    const char *line;
    size_t n;
    enum err e;
    if (size > MINISIGN_FILE_MAX)
        return ERR_FORMAT;
    if ((e = skip_comment(&t)) || (e = read_base64(&t, raw, sizeof raw)))
        return e;
    if (memcmp(raw, "ED", 2) != 0) /* "Ed" signs the file itself: legacy */
        return memcmp(raw, "Ed", 2) == 0 ? ERR_UNSUPPORTED : ERR_FORMAT;
    if (!next_line(&t, &line, &n) || !has_prefix(line, n, trusted))
        return ERR_FORMAT;
    line += sizeof trusted - 1;
    n -= sizeof trusted - 1;
    if (n >= sizeof s.trusted_comment || memchr(line, 0, n))
        return ERR_FORMAT;
    memcpy(s.trusted_comment, line, n);
    if ((e = read_base64(&t, s.global, sizeof s.global)) || (e = expect_end(&t)))
        return e;
    memcpy(s.key_id, raw + 2, 8);
    memcpy(s.signature, raw + 10, 64);
    *out = s;
    return ERR_NONE;
}

_Static_assert(sizeof(crypto_generichash_state) <= MINISIGN_STATE_BYTES, "the hash state must fit");
_Static_assert(_Alignof(crypto_generichash_state) <= 64, "the hash state must be aligned");

void minisign_hash_start(struct minisign_hash *hash)
{
    crypto_generichash_init((crypto_generichash_state *)hash->state, NULL, 0, MINISIGN_HASH_BYTES);
}

void minisign_hash_add(struct minisign_hash *hash, const void *bytes, size_t size)
{
    crypto_generichash_update((crypto_generichash_state *)hash->state, bytes, size);
}

void minisign_hash_end(struct minisign_hash *hash, uint8_t digest[MINISIGN_HASH_BYTES])
{
    crypto_generichash_final((crypto_generichash_state *)hash->state, digest, MINISIGN_HASH_BYTES);
}

/* What the second signature is over. */
static size_t global_message(const struct minisign_signature *s,
                             uint8_t out[64 + MINISIGN_COMMENT_MAX])
{
    size_t n = strnlen(s->trusted_comment, sizeof s->trusted_comment - 1);
    memcpy(out, s->signature, 64);
    memcpy(out + 64, s->trusted_comment, n);
    return 64 + n;
}

enum err minisign_sign_hash(const struct minisign_secret *key,
                            const uint8_t digest[MINISIGN_HASH_BYTES], const char *trusted_comment,
                            struct minisign_signature *out)
{
    uint8_t message[64 + MINISIGN_COMMENT_MAX];
    struct minisign_signature s = {0};
    if (!is_comment(trusted_comment))
        return ERR_ARGUMENT;
    memcpy(s.key_id, key->key_id, sizeof s.key_id);
    memcpy(s.trusted_comment, trusted_comment, strlen(trusted_comment));
    crypto_sign_detached(s.signature, NULL, digest, MINISIGN_HASH_BYTES, key->secret_key);
    crypto_sign_detached(s.global, NULL, message, global_message(&s, message), key->secret_key);
    *out = s;
    return ERR_NONE;
}

enum err minisign_verify_hash(const struct minisign_public *key,
                              const uint8_t digest[MINISIGN_HASH_BYTES],
                              const struct minisign_signature *signature)
{
    uint8_t message[64 + MINISIGN_COMMENT_MAX];
    if (memcmp(key->key_id, signature->key_id, sizeof key->key_id) != 0)
        return ERR_NOT_FOUND;
    if (crypto_sign_verify_detached(signature->signature, digest, MINISIGN_HASH_BYTES,
                                    key->public_key) != 0 ||
        crypto_sign_verify_detached(signature->global, message, global_message(signature, message),
                                    key->public_key) != 0)
        return ERR_SIGNATURE;
    return ERR_NONE;
}

enum err minisign_verify(const struct minisign_public *key, const void *bytes, size_t size,
                         const char *signature, size_t signature_bytes)
{
    struct minisign_signature parsed;
    struct minisign_hash hash;
    uint8_t digest[MINISIGN_HASH_BYTES];
    enum err e = minisign_signature_decode(signature, signature_bytes, &parsed);
    if (e)
        return e;
    minisign_hash_start(&hash);
    minisign_hash_add(&hash, bytes, size);
    minisign_hash_end(&hash, digest);
    return minisign_verify_hash(key, digest, &parsed);
}
