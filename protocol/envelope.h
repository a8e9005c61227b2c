/* envelope.h: the signed wrapper of everything that controller and devices say.
 *
 * A COSE_Sign1 structure (RFC 9052 section 4.2) in deterministic CBOR with Ed25519 (alg -8, RFC
 * 9053):
 *
 *   18([ protected bstr, {}, payload bstr, signature bstr .size 64 ])
 *   protected = {1: -8, 4: kid bstr .size 16, -65537: role, -65538: type, -65539: fleet tstr}
 *   external_aad = ["tare/1", fleet, role, type]
 *
 * The signature is over Sig_structure = ["Signature1", protected, external_aad, payload]
 * (section 4.4). kid is the key id of keys.h. The received bytes are verified as they are and
 * parsed afterwards.
 */
#ifndef ENVELOPE_H
#define ENVELOPE_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum {
    ENVELOPE_MAX = 256 * 1024, /* a whole envelope */
    ENVELOPE_OVERHEAD = 192,   /* at most this much around the payload */
    ENVELOPE_PAYLOAD_MAX = ENVELOPE_MAX - ENVELOPE_OVERHEAD,
    ENVELOPE_PUBLIC_BYTES = 32,
    ENVELOPE_SECRET_BYTES = 64, /* as libsodium keeps it: seed and public key */
    ENVELOPE_SIGNATURE_BYTES = 64,
    ENVELOPE_KID_BYTES = 16
};

/* Who signs. One key never holds two roles. */
enum envelope_role {
    ENVELOPE_ROOT = 1,
    ENVELOPE_TARGETS = 2,
    ENVELOPE_DIRECTOR = 3,
    ENVELOPE_DEVICE = 4
};

/* A view: payload points into the bytes given to envelope_open. */
struct envelope {
    uint32_t role; /* enum envelope_role */
    uint32_t type; /* enum message_type */
    uint8_t kid[ENVELOPE_KID_BYTES];
    const uint8_t *payload;
    size_t payload_bytes;
};

/* What an envelope claims, before anything is verified: only to choose a key with. */
struct envelope_claim {
    uint32_t role;
    uint32_t type;
    uint8_t kid[ENVELOPE_KID_BYTES];
    char fleet[33];
};

/* Sign payload into out. fleet is a fleet id as topic.h defines it.
 *
 * Errors: ERR_ARGUMENT (fleet, role, payload over ENVELOPE_PAYLOAD_MAX), ERR_FULL (capacity;
 * payload bytes + ENVELOPE_OVERHEAD always suffice). Threads: any; uses ENVELOPE_MAX bytes of
 * stack.  Time: 20 us + 5 ns per byte.
 */
NODISCARD enum err envelope_sign(const uint8_t secret_key[64], const char *fleet, uint32_t role,
                                 uint32_t type, const uint8_t *payload, size_t payload_bytes,
                                 uint8_t *out, size_t capacity, size_t *size);

/* Read the claim. Errors: ERR_FORMAT. */
NODISCARD enum err envelope_peek(const uint8_t *bytes, size_t size, struct envelope_claim *out);

/* Verify and open a received envelope. Nothing is copied or allocated.
 *
 *   public_key  of the signer that the caller expects, 32 bytes
 *   fleet, role, type   what the caller expects
 *   out         filled on success, untouched otherwise
 *
 * Errors: ERR_FORMAT (not an envelope), ERR_SIGNATURE (altered, or by another key), ERR_AUDIENCE
 * (the signature is right, but for another fleet, role or type). Threads: any; uses ENVELOPE_MAX
 * bytes of stack.
 */
NODISCARD enum err envelope_open(const uint8_t *bytes, size_t size, const uint8_t public_key[32],
                                 const char *fleet, uint32_t role, uint32_t type,
                                 struct envelope *out);

/* The same signature on its own, for documents with several signers: Sig_structure as above with
 * the kid of public_key. verify: ERR_SIGNATURE. */
NODISCARD enum err envelope_sign_detached(const uint8_t secret_key[64], const char *fleet,
                                          uint32_t role, uint32_t type, const uint8_t *payload,
                                          size_t payload_bytes, uint8_t signature[64]);
NODISCARD enum err envelope_verify_detached(const uint8_t public_key[32], const char *fleet,
                                            uint32_t role, uint32_t type, const uint8_t *payload,
                                            size_t payload_bytes, const uint8_t signature[64]);

/* Plain COSE_Sign1 under the caller's own external_aad, any protected header with alg EdDSA: what
 * the two functions above are made of, and what the RFC's vectors are checked with. */
NODISCARD enum err envelope_verify_sign1(const uint8_t *bytes, size_t size,
                                         const uint8_t public_key[32], const uint8_t *external_aad,
                                         size_t external_aad_bytes, const uint8_t **payload,
                                         size_t *payload_bytes);

#endif
