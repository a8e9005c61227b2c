/* minisign.h: key files and artifact signatures that stock minisign reads and writes.
 *
 * Keys are unencrypted secret key files (minisign -G -W) and public key files; signatures are the
 * prehashed kind: Ed25519 over BLAKE2b-512 of the file, and a second Ed25519 over that signature
 * and the trusted comment. Legacy signatures over the file itself are refused. Source:
 * https://jedisct1.github.io/minisign/ (file formats).
 *
 * The functions on bytes are pure; those that take a path do I/O and nothing else of protocol does.
 */
#ifndef MINISIGN_H
#define MINISIGN_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum {
    MINISIGN_KEY_ID_BYTES = 8,
    MINISIGN_HASH_BYTES = 64,
    MINISIGN_COMMENT_MAX = 512, /* a comment with its NUL */
    MINISIGN_FILE_MAX = 2048,   /* a key or signature file */
    MINISIGN_STATE_BYTES = 384
};

struct minisign_public {
    uint8_t key_id[MINISIGN_KEY_ID_BYTES];
    uint8_t public_key[32];
};

struct minisign_secret {
    uint8_t key_id[MINISIGN_KEY_ID_BYTES];
    uint8_t secret_key[64]; /* the last 32 bytes are the public key */
};

struct minisign_signature {
    uint8_t key_id[MINISIGN_KEY_ID_BYTES];
    uint8_t signature[64];
    uint8_t global[64]; /* over signature and trusted comment */
    char trusted_comment[MINISIGN_COMMENT_MAX];
};

/* A hash in progress, so that large files are read by chunks. */
struct minisign_hash {
    _Alignas(64) uint8_t state[MINISIGN_STATE_BYTES];
};

/* New random keys. Errors: ERR_UNSUPPORTED (no source of randomness). */
NODISCARD enum err minisign_generate(struct minisign_secret *out);
void minisign_public_of(const struct minisign_secret *secret, struct minisign_public *out);

/* Text of the three kinds of files, NUL-terminated, at most MINISIGN_FILE_MAX with the NUL. comment
 * is the untrusted one, of one line. Errors: ERR_ARGUMENT (comment), ERR_FULL. */
NODISCARD enum err minisign_public_encode(const struct minisign_public *key, const char *comment,
                                          char *out, size_t capacity);
NODISCARD enum err minisign_secret_encode(const struct minisign_secret *key, const char *comment,
                                          char *out, size_t capacity);
NODISCARD enum err minisign_signature_encode(const struct minisign_signature *signature,
                                             const char *comment, char *out, size_t capacity);
/* And back. A public key is also taken as its base64 line alone.
 * Errors: ERR_FORMAT; ERR_UNSUPPORTED (an encrypted secret key, a legacy signature). */
NODISCARD enum err minisign_public_decode(const char *text, size_t size,
                                          struct minisign_public *out);
NODISCARD enum err minisign_secret_decode(const char *text, size_t size,
                                          struct minisign_secret *out);
NODISCARD enum err minisign_signature_decode(const char *text, size_t size,
                                             struct minisign_signature *out);

/* Hash by chunks, then sign or verify. */
void minisign_hash_start(struct minisign_hash *hash);
void minisign_hash_add(struct minisign_hash *hash, const void *bytes, size_t size);
void minisign_hash_end(struct minisign_hash *hash, uint8_t digest[MINISIGN_HASH_BYTES]);
/* Errors: ERR_ARGUMENT (trusted_comment too long or of more than one line). */
NODISCARD enum err minisign_sign_hash(const struct minisign_secret *key,
                                      const uint8_t digest[MINISIGN_HASH_BYTES],
                                      const char *trusted_comment, struct minisign_signature *out);
/* Errors: ERR_NOT_FOUND (made by another key id), ERR_SIGNATURE (content or trusted comment). */
NODISCARD enum err minisign_verify_hash(const struct minisign_public *key,
                                        const uint8_t digest[MINISIGN_HASH_BYTES],
                                        const struct minisign_signature *signature);
/* The whole check on bytes in memory: signature is the text of a .minisig file. */
NODISCARD enum err minisign_verify(const struct minisign_public *key, const void *bytes,
                                   size_t size, const char *signature, size_t signature_bytes);

/* ---- files. Writes go to a temporary file, are synced and renamed. Errors beside those above:
 * ERR_NOT_FOUND (no such file), ERR_IO; load of a secret: ERR_ARGUMENT when others may read it
 * (mode beyond 0600). save of a secret never replaces a file: ERR_FULL when path exists. */
NODISCARD enum err minisign_secret_load(const char *path, struct minisign_secret *out);
NODISCARD enum err minisign_secret_save(const char *path, const struct minisign_secret *key,
                                        const char *comment);
NODISCARD enum err minisign_public_load(const char *path, struct minisign_public *out);
NODISCARD enum err minisign_public_save(const char *path, const struct minisign_public *key,
                                        const char *comment);
NODISCARD enum err minisign_file_hash(const char *path, uint8_t digest[MINISIGN_HASH_BYTES]);
/* Signs path into signature_path (usually path + ".minisig"); trusted_comment NULL: time and name.
 */
NODISCARD enum err minisign_file_sign(const struct minisign_secret *key, const char *path,
                                      const char *trusted_comment, const char *signature_path);
/* out may be NULL; else the signature with its trusted comment, which is then verified too. */
NODISCARD enum err minisign_file_verify(const struct minisign_public *key, const char *path,
                                        const char *signature_path, struct minisign_signature *out);

#endif
