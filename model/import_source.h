/* import_source.h: what the files of the importer share; for model/import*.c only. */
#ifndef IMPORT_SOURCE_H
#define IMPORT_SOURCE_H

#include <jansson.h>

#include "model/import.h"
#include "model/safetensors.h"

enum { IMPORT_TENSORS_MAX = 1 << 17 };

/* How the rows of a target tensor come from the source. */
enum import_kind {
    IMPORT_ROWS,      /* as they are */
    IMPORT_ADD_ONE,   /* plus 1: Gemma stores its norms so */
    IMPORT_PAIRS_Q,   /* half-split rotary pairs of the query heads made neighbours, as GGUF's llama has them */
    IMPORT_PAIRS_K,   /* the same for the key heads */
    IMPORT_TRANSPOSE, /* stored input-major (GPT-2's Conv1D) */
    IMPORT_NEOX_QKV,  /* per head q, k, v  ->  all q, all k, all v */
    IMPORT_EXPERTS,   /* one source tensor per expert -> one of [experts, rows, cols] */
    IMPORT_KEY_UP,    /* DeepSeek's kv_b: its key half, transposed per head */
    IMPORT_VALUE_UP,  /* DeepSeek's kv_b: its value half */
    IMPORT_COMPUTED   /* `values` below */
};

/* One line of an architecture's table: a Hugging Face name and the GGUF name, each without ".weight" or
 * ".bias"; {l} stands for the layer, {e} for the expert. */
struct import_rule {
    const char *from;
    const char *to;
    enum import_kind kind;
    bool is_optional;
};

/* One tensor of the file to come. */
struct import_tensor {
    char name[GGUF_NAME_BYTES];
    enum import_kind kind;
    uint32_t type;
    uint32_t dims;
    uint64_t shape[GGUF_DIMS]; /* GGUF order: fastest first */
    struct safetensors_tensor **source; /* [sources], owned */
    uint32_t sources;
    float *values; /* IMPORT_COMPUTED, owned */
};

struct import_source;

/* An architecture. */
struct import_family {
    const char *hf;   /* architectures[0] of config.json */
    const char *gguf; /* general.architecture */
    const struct import_rule *rules; /* ends with from == NULL */
    const char *prefix; /* of Hugging Face names, sometimes left out */
    enum err (*keys)(struct import_source *s);
    const char *activation; /* what hidden_act may be, one or several words */
};

/* The state of one import. */
struct import_source {
    const struct import_options *options;
    const struct import_family *family;
    json_t *root;   /* config.json */
    json_t *config; /* the part that describes the language model; borrowed from root */
    struct safetensors *st;
    struct safetensors_tensor *made; /* sources that lie in no safetensors file, owned */
    struct gguf_writer *writer;
    uint32_t layers, heads, kv_heads, head_dim, experts, nope_dim, value_dim;
    bool is_tied;
    struct import_tensor *tensor;
    uint32_t tensors, room;
    char *reason;
};

/* Write the reason and give e back. */
NODISCARD enum err import_fail(struct import_source *s, enum err e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The family of config.json's architectures[0], or NULL. */
const struct import_family *import_family_find(const char *architecture);

/* The tables, in import_rules.c. */
extern const struct import_rule import_rules_llama[], import_rules_qwen2[], import_rules_qwen3[], import_rules_gemma2[],
    import_rules_gemma3[], import_rules_phi3[], import_rules_gpt2[], import_rules_gptneox[],
    import_rules_bert[], import_rules_deepseek2[];

/* All keys of tokenizer.* from the folder. vocabulary: rows of the embedding. */
NODISCARD enum err import_tokenizer(struct import_source *s, uint32_t vocabulary);

/* Announce a tensor; the next free entry, zeroed, or NULL with the reason set. */
struct import_tensor *import_new_tensor(struct import_source *s);

/* Stream every announced tensor into the writer and commit it. */
NODISCARD enum err import_write(struct import_source *s, struct import_report *report);
uint64_t import_bytes(const struct import_tensor *t); /* of its rows in the file */

/* The whole of a llama2.c file: keys, tokenizer and tensors announced. map is borrowed until the end. */
NODISCARD enum err import_llama2c(struct import_source *s, const uint8_t *map, size_t bytes);

#endif
