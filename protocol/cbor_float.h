/* cbor_float.h: the shortest of binary16, binary32 and binary64 that holds a value exactly. */
#ifndef CBOR_FLOAT_H
#define CBOR_FLOAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bits of binary16 if value fits exactly. value is finite. */
bool cbor_float_half(float value, uint16_t *bits);
/* 2, 4 or 8. value is finite. */
size_t cbor_float_bytes(double value);

#endif
