/* hex.c: bytes as lower-case hex digits. */
#include "protocol/hex.h"

void hex_encode(const uint8_t *bytes, size_t size, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = 0;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

enum err hex_decode(const char *text, size_t characters, uint8_t *out, size_t size)
{
    if (characters != 2 * size)
        return ERR_FORMAT;
    for (size_t i = 0; i < size; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return ERR_FORMAT;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return ERR_NONE;
}
