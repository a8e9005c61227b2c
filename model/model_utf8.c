/* model_utf8.c: well-formed UTF-8. */
#include "model/model_utf8.h"

#include <string.h>

int model_utf8_length(const uint8_t *p, size_t bytes, size_t *part)
{
    const uint8_t lead = p[0];
    *part = 1;
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return -1;
    const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (; *part < length; ++*part) {
        if (*part >= bytes)
            return 0;
        if (p[*part] < low || p[*part] > high)
            return -1;
        low = 0x80;
        high = 0xbf;
    }
    return (int)length;
}

bool model_utf8_is_well_formed(const char *text, size_t bytes)
{
    size_t part;
    for (size_t i = 0; i < bytes; i += part)
        if (model_utf8_length((const uint8_t *)text + i, bytes - i, &part) <= 0)
            return false;
    return true;
}

size_t model_utf8_repair(const char *text, size_t bytes, char *out)
{
    size_t used = 0, part;
    for (size_t i = 0; i < bytes; i += part) {
        const bool is_whole = model_utf8_length((const uint8_t *)text + i, bytes - i, &part) > 0;
        memcpy(out + used, is_whole ? text + i : "\xef\xbf\xbd", is_whole ? part : 3);
        used += is_whole ? part : 3;
    }
    return used;
}
