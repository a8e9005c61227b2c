/* root_fuzz.c: no root document is accepted but with enough signatures; what is accepted is sound.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "protocol/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct keys_root now, root;
    static int is_ready;
    uint8_t out[KEYS_ROOT_MAX];
    size_t n = 0;
    if (!is_ready) {
        /* the root in force has keys that nobody holds: no successor can be signed */
        static const uint8_t seed[32] = "a root key that was thrown away";
        struct keys_secret key;
        keys_from_seed(seed, &key);
        now = (struct keys_root){.fleet = "demo", .version = 1, .roles = 1};
        now.role[0] = (struct keys_role){.role = ENVELOPE_ROOT, .threshold = 1, .keys = 1};
        memcpy(now.role[0].key[0], key.public_key, 32);
        keys_wipe(&key);
        is_ready = 1;
    }
    HOLDS(keys_root_verify(bytes, size, &now, 0, &root) != ERR_NONE);
    if (keys_root_verify(bytes, size, NULL, 0, &root) == ERR_NONE)
        HOLDS(keys_root_encode(&root, out, sizeof out, &n) == ERR_NONE && n <= size);
    return 0;
}
