/* text.c: UTF-8, strict validation. */
#include "protocol/text.h"

size_t text_prefix(const uint8_t *bytes, size_t size)
{
    size_t i = 0;
    while (i < size) {
        uint8_t first = bytes[i];
        size_t more = first < 0x80 ? 0 : first < 0xc2 ? 9 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
        if (more == 9 || first > 0xf4 || size - i <= more)
            break;
        /* the second byte's range rules out overlong forms, surrogates and what lies above U+10FFFF
         */
        uint8_t least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        uint8_t most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        size_t k = 1;
        while (k <= more && bytes[i + k] >= (k == 1 ? least : 0x80) &&
               bytes[i + k] <= (k == 1 ? most : 0xbf))
            k++;
        if (k <= more)
            break;
        i += more + 1;
    }
    return i;
}

bool text_is_utf8(const uint8_t *bytes, size_t size)
{
    return text_prefix(bytes, size) == size;
}
