/* envelope_fuzz.c: nothing is accepted but what the key holder signs, byte for byte. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "protocol/envelope.h"
#include "protocol/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const uint8_t seed[32] = "the fuzz targets' own test key";
    struct keys_secret key;
    struct envelope envelope;
    struct envelope_claim claim;
    keys_from_seed(seed, &key);
    enum err e =
        envelope_open(bytes, size, key.public_key, "demo", ENVELOPE_DIRECTOR, 8, &envelope);
    if (e != ERR_NONE) {
        if (envelope_peek(bytes, size, &claim) == ERR_NONE)
            HOLDS(claim.role >= ENVELOPE_ROOT && claim.role <= ENVELOPE_DEVICE && claim.fleet[0]);
        return 0;
    }
    /* Ed25519 is deterministic, so signing again must give what came */
    uint8_t *again = malloc(ENVELOPE_MAX);
    size_t written = 0;
    HOLDS(again != NULL);
    HOLDS(envelope_sign(key.secret_key, "demo", ENVELOPE_DIRECTOR, 8, envelope.payload,
                        envelope.payload_bytes, again, ENVELOPE_MAX, &written) == ERR_NONE);
    HOLDS(written == size && memcmp(again, bytes, size) == 0);
    HOLDS(memcmp(envelope.kid, key.id, sizeof key.id) == 0);
    free(again);
    return 0;
}
