/* message_fuzz.c: byte 0 chooses the message, the rest is its payload. What is accepted encodes
 * again, to the same bytes unless unknown fields were skipped, and then once more to the same. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "protocol/cbor.h"
#include "tests/protocol/message_samples.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct message_sample sample;
    if (size == 0)
        return 0;
    int which = bytes[0] % (SAMPLES + 1);
    bytes++;
    size--;
    if (sample_decode(which, bytes, size, &sample) != ERR_NONE)
        return 0;
    uint8_t *once = malloc(size + 1), *twice = malloc(size + 1);
    size_t n = 0, m = 0;
    HOLDS(once && twice);
    HOLDS(cbor_check(bytes, size) == ERR_NONE);
    HOLDS(sample_encode(which, &sample, once, size, &n) == ERR_NONE);
    HOLDS(n < size || memcmp(once, bytes, n) == 0);
    HOLDS(sample_decode(which, once, n, &sample) == ERR_NONE);
    HOLDS(sample_encode(which, &sample, twice, n, &m) == ERR_NONE);
    HOLDS(m == n && memcmp(once, twice, n) == 0);
    free(once);
    free(twice);
    return 0;
}
