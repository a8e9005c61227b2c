/* minisign_fuzz.c: what parses as a key or signature file is written again and parses to the same;
 * no signature verifies but the one in the corpus. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "protocol/keys.h"
#include "protocol/minisign.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const uint8_t seed[32] = "the fuzz targets' own test key";
    const char *text = (const char *)bytes;
    char again[MINISIGN_FILE_MAX];
    struct minisign_signature s, t;
    struct minisign_public p, q;
    struct minisign_secret a, b;
    struct keys_secret key;
    if (minisign_signature_decode(text, size, &s) == ERR_NONE) {
        HOLDS(minisign_signature_encode(&s, "c", again, sizeof again) == ERR_NONE ||
              strchr(s.trusted_comment, '\r'));
        if (!strchr(s.trusted_comment, '\r')) {
            HOLDS(minisign_signature_decode(again, strlen(again), &t) == ERR_NONE);
            HOLDS(memcmp(&s, &t, sizeof s) == 0);
        }
        keys_from_seed(seed, &key);
        memcpy(p.public_key, key.public_key, 32);
        memcpy(p.key_id, key.minisign_id, 8);
        if (minisign_verify(&p, "content", 7, text, size) == ERR_NONE)
            HOLDS(strcmp(s.trusted_comment, "version=1") == 0);
    }
    if (minisign_public_decode(text, size, &p) == ERR_NONE) {
        HOLDS(minisign_public_encode(&p, "c", again, sizeof again) == ERR_NONE);
        HOLDS(minisign_public_decode(again, strlen(again), &q) == ERR_NONE);
        HOLDS(memcmp(&p, &q, sizeof p) == 0);
    }
    if (minisign_secret_decode(text, size, &a) == ERR_NONE) {
        HOLDS(minisign_secret_encode(&a, "c", again, sizeof again) == ERR_NONE);
        HOLDS(minisign_secret_decode(again, strlen(again), &b) == ERR_NONE);
        HOLDS(memcmp(&a, &b, sizeof a) == 0);
    }
    return 0;
}
