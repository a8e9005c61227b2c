/* topic_fuzz.c: whatever parses is built again to the same text. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "protocol/topic.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct topic topic;
    char text[TOPIC_MAX];
    if (topic_decode((const char *)bytes, size, &topic) != ERR_NONE)
        return 0;
    HOLDS(topic_encode(topic.fleet, topic.device, topic.kind, text) == ERR_NONE);
    HOLDS(strlen(text) == size && memcmp(text, bytes, size) == 0);
    return 0;
}
