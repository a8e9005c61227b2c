/* model_family.h: what a file model_<family>.c exports. For model/ only. */
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include "model/forward.h"

struct model_family {
    const char *const *architectures; /* NULL-ended values of general.architecture */
    size_t bytes;                     /* of the family's own struct; zeroed at open, freed at close */
    bool is_encoder; /* every token sees the whole text: it goes through in one step; there are no logits */
    /* Read shapes into f->info (layers, width, heads, kv_heads, context_trained) and return, in floats,
     * what one row of a step needs: activations of all kinds. */
    uint64_t (*shape)(struct forward *f, void *family);
    /* Load weights, make activations, add cache groups and layers. */
    void (*open)(struct forward *f, void *family);
    void (*close)(void *family); /* what open allocated; also after a failed open */
    /* All layers and the last norm: f->hidden gets the rows of outputs. */
    void (*step)(struct forward *f, void *family);
    /* The linear from hidden to logits, and the cap of logits (0: none); NULL for an encoder. */
    const struct weights_linear *(*head)(const void *family, float *softcap);
};

extern const struct model_family model_llama, model_gemma, model_phi3, model_gpt, model_deepseek2, model_bert;

#endif
