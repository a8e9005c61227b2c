/* plan_fuzz.c: an accepted plan encodes to the bytes that it was read from. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "compress/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static uint8_t again[PLAN_BYTES_MAX];
    struct plan *p = NULL;
    struct fault f = {""};
    size_t written = 0;
    if (plan_decode(bytes, size, &p, &f)) {
        HOLDS(f.text[0] != 0);
        return 0;
    }
    HOLDS(plan_encode(p, again, sizeof again, &written) == ERR_NONE);
    HOLDS(written == size && memcmp(again, bytes, size) == 0);
    plan_close(p);
    return 0;
}
