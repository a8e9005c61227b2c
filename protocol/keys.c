/* keys.c: key ids, and secret keys in locked memory. */
#include "protocol/keys.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "protocol/hex.h"
#include "protocol/minisign.h"

void keys_id(const uint8_t public_key[32], uint8_t id[KEYS_ID_BYTES])
{
    crypto_generichash(id, KEYS_ID_BYTES, public_key, 32, NULL, 0);
}

void keys_id_hex(const uint8_t public_key[32], char hex[KEYS_ID_HEX])
{
    uint8_t id[KEYS_ID_BYTES];
    keys_id(public_key, id);
    hex_encode(id, sizeof id, hex);
}

bool keys_is_id(const char *text, size_t size)
{
    uint8_t id[KEYS_ID_BYTES];
    return hex_decode(text, size, id, sizeof id) == ERR_NONE;
}

bool keys_is_public(const uint8_t public_key[32])
{
    return crypto_core_ed25519_is_valid_point(public_key) == 1;
}

const char *keys_role_name(uint32_t role)
{
    static const char *const names[] = {"?", "root", "targets", "director", "device"};
    return role < sizeof names / sizeof names[0] ? names[role] : "?";
}

/* From secret_key, already in place. */
static void complete(struct keys_secret *key)
{
    memcpy(key->public_key, key->secret_key + 32, sizeof key->public_key);
    keys_id(key->public_key, key->id);
}

enum err keys_load(const char *path, bool create, const char *comment, struct keys_secret *out)
{
    struct minisign_secret secret;
    char public_path[4096];
    int n = snprintf(public_path, sizeof public_path, "%s.pub", path);
    if (n < 0 || (size_t)n >= sizeof public_path)
        return ERR_ARGUMENT;
    if (sodium_init() < 0)
        return ERR_UNSUPPORTED;
    enum err e = minisign_secret_load(path, &secret);
    if (e == ERR_NOT_FOUND && create) {
        struct minisign_public public;
        e = minisign_generate(&secret);
        if (e == ERR_NONE)
            e = minisign_secret_save(path, &secret, comment);
        minisign_public_of(&secret, &public);
        if (e == ERR_NONE)
            e = minisign_public_save(public_path, &public, comment);
    }
    if (e == ERR_NONE) {
        /* where the limit on locked memory does not allow it the key is used all the same */
        (void)sodium_mlock(out, sizeof *out);
        memcpy(out->secret_key, secret.secret_key, sizeof out->secret_key);
        memcpy(out->minisign_id, secret.key_id, sizeof out->minisign_id);
        complete(out);
    }
    sodium_memzero(&secret, sizeof secret);
    return e;
}

void keys_from_seed(const uint8_t seed[32], struct keys_secret *out)
{
    crypto_sign_seed_keypair(out->public_key, out->secret_key, seed);
    complete(out);
    memcpy(out->minisign_id, out->id, sizeof out->minisign_id);
}

enum err keys_generate(struct keys_secret *out)
{
    uint8_t seed[32];
    if (sodium_init() < 0)
        return ERR_UNSUPPORTED;
    randombytes_buf(seed, sizeof seed);
    keys_from_seed(seed, out);
    sodium_memzero(seed, sizeof seed);
    return ERR_NONE;
}

void keys_wipe(struct keys_secret *key)
{
    (void)sodium_munlock(key, sizeof *key); /* overwrites first */
    sodium_memzero(key, sizeof *key);
}
