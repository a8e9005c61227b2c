/* keys.h: who may sign what: key ids, secret keys in locked memory, the root document.
 *
 * The id of a key is BLAKE2b-128 of its 32-byte Ed25519 public key (16 bytes of output, not a
 * longer hash cut off); as 32 lower-case hex digits it is the device id. Key files are minisign's
 * (minisign.h).
 *
 * A root document says which keys hold which role of one fleet:
 *   file    = [ payload bstr, [ [kid bstr .size 16, signature bstr .size 64], ... ] ]
 *   payload = {1: 1, 2: fleet, 3: version, 4: not_after_s, 5: [ {1: role, 2: threshold,
 *              3: [public key bstr .size 32, ...]}, ... ]}, roles ascending, root present
 * Each signature is envelope_sign_detached() by ENVELOPE_ROOT, type MESSAGE_ROOT. Version n + 1
 * counts when at least threshold different root keys of version n and of version n + 1 have signed
 * it.
 */
#ifndef KEYS_H
#define KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/envelope.h"
#include "protocol/err.h"

enum {
    KEYS_ID_BYTES = 16,
    KEYS_ID_HEX = 33, /* with its NUL */
    KEYS_ROLES_MAX = 4,
    KEYS_ROLE_KEYS_MAX = 16,
    KEYS_SIGNATURES_MAX = 32,
    KEYS_ROOT_MAX = 16 * 1024
};

/* A secret key in use. Kept in memory that is not swapped where the system allows it. */
struct keys_secret {
    uint8_t secret_key[64];
    uint8_t public_key[32];
    uint8_t id[KEYS_ID_BYTES];
    uint8_t minisign_id[8];
};

void keys_id(const uint8_t public_key[32], uint8_t id[KEYS_ID_BYTES]);
/* The device id: hex of keys_id. */
void keys_id_hex(const uint8_t public_key[32], char hex[KEYS_ID_HEX]);
/* Is it 32 lower-case hex digits? */
bool keys_is_id(const char *text, size_t size);
/* A point of the curve that is not of small order: checked once, at enrolment. */
bool keys_is_public(const uint8_t public_key[32]);
/* "root", "targets", "director", "device"; "?" for another number. */
const char *keys_role_name(uint32_t role);

/* Load the minisign secret key file at path, or with create make it first (mode 0600, with its
 * public key in path + ".pub"). Errors: as minisign_secret_load. */
NODISCARD enum err keys_load(const char *path, bool create, const char *comment,
                             struct keys_secret *out);
/* Keys made in memory, for tests and tools. */
NODISCARD enum err keys_generate(struct keys_secret *out);
void keys_from_seed(const uint8_t seed[32], struct keys_secret *out);
/* Overwrites and unlocks. */
void keys_wipe(struct keys_secret *key);

struct keys_role {
    uint32_t role;      /* enum envelope_role */
    uint32_t threshold; /* signatures needed, 1 .. keys */
    uint32_t keys;
    uint8_t key[KEYS_ROLE_KEYS_MAX][32];
};

struct keys_root {
    char fleet[33];
    uint64_t version;     /* from 1 */
    uint64_t not_after_s; /* Unix time; 0: never */
    uint32_t roles;
    struct keys_role role[KEYS_ROLES_MAX];
};

/* Encode an unsigned document. Errors: ERR_ARGUMENT (a threshold over its keys, one key twice or in
 * two roles, roles out of order, no root), ERR_FULL. */
NODISCARD enum err keys_root_encode(const struct keys_root *root, uint8_t *out, size_t capacity,
                                    size_t *size);
/* Add one signature by key to the document at bytes, in place. Errors: ERR_FORMAT, ERR_FULL,
 * ERR_STALE (already signed by this key). */
NODISCARD enum err keys_root_sign(uint8_t *bytes, size_t capacity, size_t *size,
                                  const struct keys_secret *key);
/* Verify a document.
 *
 *   now     NULL for the first document, which the operator vouches for: then only the thresholds
 * of the document itself count; else the newest one accepted so far now_s   Unix time, or 0 when
 * the clock is not known: expiry is then not checked out     filled on success
 *
 * Errors: ERR_FORMAT; ERR_STALE (version not now->version + 1), ERR_AUDIENCE (another fleet),
 * ERR_SIGNATURE (too few valid signatures by different keys), ERR_EXPIRED.
 */
NODISCARD enum err keys_root_verify(const uint8_t *bytes, size_t size, const struct keys_root *now,
                                    uint64_t now_s, struct keys_root *out);
/* The public key with this id in this role. Errors: ERR_NOT_FOUND; ERR_EXPIRED (now_s not 0 and the
 * document has expired). */
NODISCARD enum err keys_root_find(const struct keys_root *root, uint32_t role,
                                  const uint8_t id[KEYS_ID_BYTES], uint64_t now_s,
                                  const uint8_t **public_key);

#endif
