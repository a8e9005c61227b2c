/* import.h: Hugging Face folders and llama2.c files to GGUF.
 *
 * A folder holds config.json, *.safetensors (one or sharded), and tokenizer.json or tokenizer.model; the
 * result carries the field's standard keys and tensor names, so that other engines load it too. Tensors
 * stream through a buffer of one row strip; an interrupted import resumes from the PATH.part it left.
 */
#ifndef IMPORT_H
#define IMPORT_H

#include "model/gguf.h"

enum { IMPORT_KEEP = 0xffffffffu }; /* the element type of the source */

struct import_options {
    const char *input;      /* a folder, or a llama2.c .bin file */
    const char *tokenizer;  /* llama2.c: its tokenizer.bin (or tokNNN.bin) */
    const char *output;     /* the GGUF file to write */
    uint32_t type;          /* of matrices: HAL_F32, HAL_F16, HAL_BF16 or IMPORT_KEEP; vectors stay F32 */
    void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes); /* or NULL */
    void *progress_context;
};

/* What was written. */
struct import_report {
    char architecture[32];
    uint32_t tensors;
    uint64_t parameters;
    uint64_t bytes; /* of the file */
    uint32_t resumed; /* tensors taken over from an interrupted import */
};

/* Errors: ERR_NOT_FOUND, ERR_IO, ERR_FORMAT, ERR_UNSUPPORTED (architecture, tensor or tokenizer that this
 * build does not know), ERR_MEMORY. reason: file, place, expectation. Nothing is left under `output` then;
 * PATH.part stays only if whole tensors of it can be used again. Memory: one strip of rows, the
 * tokenizer, and, for transposed matrices (GPT-2), nothing more. */
NODISCARD enum err import_run(const struct import_options *options, struct import_report *report,
                              char reason[GGUF_REASON_BYTES]);

#endif
