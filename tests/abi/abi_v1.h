/* abi_v1.h: what abi_v1.c, compiled against the frozen header, tells the test of the live one. */
#ifndef ABI_V1_H
#define ABI_V1_H

#include <stddef.h>

const size_t *abi_v1_offsets(size_t *count);
const void *abi_v1_table(void); /* a struct hal_plugin of that time */

#endif
