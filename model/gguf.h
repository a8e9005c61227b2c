/* gguf.h: reading and writing GGUF v3 files, the container of bases, variants and profiles.
 *
 * The reader maps the file and believes nothing: every count, length, offset, type, alignment and shape
 * is checked against the file's size before use, so that a view handed out is always inside the map. It
 * never writes. The writer streams: metadata and tensor headers first, then the tensors' bytes in order.
 * A failure leaves one line in reason: file, byte offset, what was expected.
 * Threads: a reader may be shared by any number of threads; a writer has one caller.
 * Source: the GGUF v3 specification (little-endian).
 */
#ifndef GGUF_H
#define GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

enum {
    GGUF_REASON_BYTES = 160,      /* size of every reason buffer in model/ */
    GGUF_DIMS = 4,                /* dimensions of a tensor at most */
    GGUF_NAME_BYTES = 128,        /* name of a tensor at most, with its end; the field itself uses 64 */
    GGUF_KEYS_MAX = 1 << 16,      /* metadata entries at most */
    GGUF_TENSORS_MAX = 1 << 20,   /* tensors at most */
    GGUF_ARRAY_MAX = 1 << 26,     /* elements of one metadata array at most */
    GGUF_ALIGNMENT_DEFAULT = 32
};

/* Kinds of metadata, with the numbers of the format. */
enum gguf_kind {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12
};

/* Bytes of a file: not terminated, any content. */
struct gguf_text {
    const char *text;
    size_t bytes;
};

/* One metadata entry. For GGUF_ARRAY, element is the kind of its count elements (never an array) and
 * data its first one, in file layout, unaligned; otherwise count is 1. */
struct gguf_value {
    struct gguf_text key;
    uint32_t kind;
    uint32_t element;
    uint64_t count;
    const uint8_t *data;
    size_t bytes;
};

/* One tensor. shape[0] is the length of a row (the fastest dimension), unused dimensions are 1;
 * rows = shape[1] * shape[2] * shape[3]. data is inside the map. */
struct gguf_tensor {
    char name[GGUF_NAME_BYTES];
    uint32_t type; /* enum hal_type */
    uint32_t dims;
    uint64_t shape[GGUF_DIMS];
    uint64_t rows;
    size_t row_bytes;
    size_t bytes;
    const uint8_t *data;
};

struct gguf;

/* Map and check a file. Errors: ERR_IO, ERR_FORMAT, ERR_VERSION, ERR_UNSUPPORTED (a tensor type this
 * build does not know), ERR_MEMORY. */
NODISCARD enum err gguf_open(const char *path, struct gguf **out, char reason[GGUF_REASON_BYTES]);

/* The same for bytes in memory, borrowed until gguf_close; name is for messages. */
NODISCARD enum err gguf_open_bytes(const void *bytes, size_t size, const char *name, struct gguf **out,
                                   char reason[GGUF_REASON_BYTES]);

void gguf_close(struct gguf *g); /* NULL is allowed */

const char *gguf_path(const struct gguf *g); /* as given to open */
uint64_t gguf_bytes(const struct gguf *g);   /* of the file */
uint32_t gguf_alignment(const struct gguf *g);

uint32_t gguf_keys(const struct gguf *g);
const struct gguf_value *gguf_key(const struct gguf *g, uint32_t i); /* in file order */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key); /* NULL: absent */

/* One value by key. Integers of any kind are taken when the value fits, F32 and F64 likewise.
 * Errors: ERR_NOT_FOUND, ERR_FORMAT (another kind or out of range). out is unchanged on error. */
NODISCARD enum err gguf_u32(const struct gguf *g, const char *key, uint32_t *out);
NODISCARD enum err gguf_u64(const struct gguf *g, const char *key, uint64_t *out);
NODISCARD enum err gguf_f32(const struct gguf *g, const char *key, float *out);
NODISCARD enum err gguf_bool(const struct gguf *g, const char *key, bool *out);
NODISCARD enum err gguf_string(const struct gguf *g, const char *key, struct gguf_text *out);

/* Element i of a numeric array (or of a scalar, i = 0) as a number; 0 when out of range. */
double gguf_number(const struct gguf_value *v, uint64_t i);

/* Walk an array of strings: start with *at = 0; each call gives one and moves *at. False at the end. */
bool gguf_next_string(const struct gguf_value *v, size_t *at, struct gguf_text *out);

uint32_t gguf_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, uint32_t i); /* in file order */
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name); /* NULL: absent */

/* Tell the kernel that these mapped bytes are not needed any more; they can still be read. */
void gguf_drop(const struct gguf *g, const void *data, size_t bytes);

/* ---- writer ----
 * open; keys and tensors in any order; begin; append the bytes of every tensor in order; commit.
 * The file is PATH.part until commit renames it; close without commit removes it (unless kept). */
struct gguf_writer;

/* Errors: ERR_MEMORY, ERR_ARGUMENT (alignment not a power of two of at least 8). */
NODISCARD enum err gguf_writer_open(const char *path, uint32_t alignment, struct gguf_writer **out);
void gguf_writer_close(struct gguf_writer *w); /* NULL is allowed */

/* Set one key; a key that is already there is replaced in its place. text of bytes, count elements. */
NODISCARD enum err gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t value);
NODISCARD enum err gguf_writer_u64(struct gguf_writer *w, const char *key, uint64_t value);
NODISCARD enum err gguf_writer_f32(struct gguf_writer *w, const char *key, float value);
NODISCARD enum err gguf_writer_bool(struct gguf_writer *w, const char *key, bool value);
NODISCARD enum err gguf_writer_string(struct gguf_writer *w, const char *key, const char *text,
                                      size_t bytes);
/* kind: any fixed-size kind; elements as they lie in memory here (little-endian machines). */
NODISCARD enum err gguf_writer_array(struct gguf_writer *w, const char *key, uint32_t kind,
                                     const void *elements, uint64_t count);
NODISCARD enum err gguf_writer_strings(struct gguf_writer *w, const char *key,
                                       const struct gguf_text *strings, uint64_t count);
/* One entry of a reader, or all of them (general.alignment is always the writer's own). */
NODISCARD enum err gguf_writer_copy(struct gguf_writer *w, const struct gguf_value *value);
NODISCARD enum err gguf_writer_copy_all(struct gguf_writer *w, const struct gguf *from);
void gguf_writer_remove(struct gguf_writer *w, const char *key); /* absent is fine */

/* Announce the next tensor. Errors: ERR_ARGUMENT (name, type, ragged row, twice the same name). */
NODISCARD enum err gguf_writer_tensor(struct gguf_writer *w, const char *name, uint32_t type,
                                      uint32_t dims, const uint64_t *shape);

/* Write everything before the data. resume_tensors: 0, or how many whole tensors of an earlier, kept
 * PATH.part are to be used again: its header must be byte for byte what this one would be. From here to close
 * PATH.part is locked (flock). Errors: ERR_IO (also: another writer has it), ERR_MISMATCH (that file is another one, or shorter), ERR_MEMORY. */
NODISCARD enum err gguf_writer_begin(struct gguf_writer *w, uint32_t resume_tensors);

/* The next bytes of the tensor data; pieces of any size up to what the current tensor still lacks; the
 * padding between tensors is the writer's. Errors: ERR_IO, ERR_ARGUMENT (more than announced). */
NODISCARD enum err gguf_writer_append(struct gguf_writer *w, const void *data, size_t bytes);

/* Another value for a string key that begin wrote already, of the same length: for what is known last.
 * Errors: ERR_ARGUMENT (no such key, another length), ERR_IO, ERR_MEMORY. */
NODISCARD enum err gguf_writer_string_late(struct gguf_writer *w, const char *key, const char *text, size_t bytes);

/* Make what was appended durable, so that a later begin may resume from it. */
NODISCARD enum err gguf_writer_sync(struct gguf_writer *w);

/* From here on close without commit leaves PATH.part for a later begin. */
void gguf_writer_keep(struct gguf_writer *w);

/* fsync, rename to PATH, fsync the folder. Errors: ERR_IO, ERR_ARGUMENT (tensor data missing). */
NODISCARD enum err gguf_writer_commit(struct gguf_writer *w);

/* Why the last call failed, one line; "" if none did. */
const char *gguf_writer_reason(const struct gguf_writer *w);

#endif
