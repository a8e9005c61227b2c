/* safetensors.h: reading Hugging Face's *.safetensors files, one or sharded with an index.
 *
 * Files are mapped; every offset, shape and length of the JSON header is checked against the file before
 * use. Source: the format's own page (8-byte little-endian header length, JSON header, then the data).
 */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include "model/gguf.h"

enum { SAFETENSORS_NAME_BYTES = 256, SAFETENSORS_DIMS = 4 };

/* One tensor, row-major; shape as the file writes it (slowest dimension first), missing ones are 1. */
struct safetensors_tensor {
    char name[SAFETENSORS_NAME_BYTES];
    uint32_t type; /* HAL_F32, HAL_F16 or HAL_BF16 */
    uint32_t dims;
    uint64_t shape[SAFETENSORS_DIMS];
    uint64_t values;
    const uint8_t *data; /* inside the map */
    bool is_used;        /* for the importer: named by the architecture */
};

struct safetensors;

/* Open FOLDER/model.safetensors, or all shards of FOLDER/model.safetensors.index.json.
 * Errors: ERR_NOT_FOUND, ERR_IO, ERR_FORMAT, ERR_UNSUPPORTED (an element type), ERR_MEMORY; reason is one
 * line: file, place, expectation. */
NODISCARD enum err safetensors_open(const char *folder, struct safetensors **out,
                                    char reason[GGUF_REASON_BYTES]);
void safetensors_close(struct safetensors *s); /* NULL is allowed */

uint32_t safetensors_count(const struct safetensors *s);
struct safetensors_tensor *safetensors_at(struct safetensors *s, uint32_t i);
/* NULL: absent */
struct safetensors_tensor *safetensors_find(struct safetensors *s, const char *name);
/* The mapped pages of a tensor are not needed for now. */
void safetensors_drop(const struct safetensors_tensor *t);

#endif
