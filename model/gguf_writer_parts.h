/* gguf_writer_parts.h: what the writer's header (gguf_writer.c) and its file (gguf_writer_file.c) share. */
#ifndef GGUF_WRITER_PARTS_H
#define GGUF_WRITER_PARTS_H

#include "model/gguf.h"

struct gguf_writer_entry {
    char *key;
    uint32_t kind;
    uint8_t *bytes; /* the value as in the file, after its kind */
    size_t size;
};

struct gguf_writer_tensor {
    char name[GGUF_NAME_BYTES];
    uint32_t type;
    uint32_t dims;
    uint64_t shape[GGUF_DIMS];
    uint64_t offset; /* from the start of the data */
    uint64_t bytes;
};

struct gguf_writer {
    char *path;
    char *part;
    uint32_t alignment;
    struct gguf_writer_entry *entry;
    size_t entries, entries_room;
    struct gguf_writer_tensor *tensor;
    size_t tensors, tensors_room;
    int fd; /* -1 until begin */
    bool keeps;
    bool is_committed;
    uint64_t data_start;
    size_t current;   /* tensor being appended */
    uint64_t written; /* of it */
    char reason[GGUF_REASON_BYTES];
};

struct gguf_writer_bytes {
    uint8_t *at;
    size_t used, room;
    bool failed;
};

/* Notes the reason, and returns e. */
enum err gguf_writer_fail(struct gguf_writer *w, enum err e, const char *what);
/* bytes, up to the next multiple of the alignment. */
uint64_t gguf_writer_padded(const struct gguf_writer *w, uint64_t bytes);
/* All that comes before the data; b->failed: no memory. b->at is the caller's to free. */
void gguf_writer_compose(const struct gguf_writer *w, struct gguf_writer_bytes *b);

#endif
