#include "compress/calibrate_windows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    LANGUAGES_MAX = 256,
    HELD_EVERY = 8,
    TOKEN_BYTES = 16,    /* of text for a token, more than most take */
    BYTE_BYTES = 30,     /* of memory for a byte of text while it becomes tokens, measured; and of its tokens */
    BYTE_TOKENS = 2,
    SPARE_TOKENS = 1024, /* how a text is cut where it was read to cannot reach further back */
    PIECE_BYTES = 1 << 16
};

/* The tokens of all texts of one language, in the order given. */
struct language {
    const char *name;
    const char *path; /* of the first of its files */
    uint32_t files;
    uint32_t *token;
    size_t tokens;
    size_t windows; /* to be used */
    uint32_t *pick; /* [windows] which ones, ascending; NULL: the first */
};

struct cutting {
    const struct tokenizer *tokenizer;
    uint32_t context;
    uint64_t wanted; /* tokens of a language: the first; 0: all */
    struct language language[LANGUAGES_MAX];
    uint32_t languages;
    struct fault *fault;
};

enum err calibrate_windows_read(const char *path, size_t most, char **out, size_t *bytes, struct fault *f)
{
    enum err e = ERR_NONE;
    char *text = NULL;
    size_t used = 0, room = 0;
    FILE *in = fopen(path, "rb");
    if (!in)
        return fault_open(f, path);
    for (size_t n = 1; n > 0 && used < most; used += n) {
        if (used == room) {
            room = room ? 2 * room : PIECE_BYTES;
            char *longer = realloc(text, room = room < most ? room : most);
            if (!longer) {
                e = fault_set(f, ERR_MEMORY, "%s: too long", path);
                break;
            }
            text = longer;
        }
        n = fread(text + used, 1, room - used, in);
    }
    if (!e && ferror(in))
        e = fault_set(f, ERR_IO, "%s: cannot be read", path);
    else if (!e && used == CALIBRATE_TEXT_MAX && fgetc(in) != EOF)
        e = fault_set(f, ERR_MEMORY, "%s: is longer than %d MiB", path, CALIBRATE_TEXT_MAX >> 20);
    fclose(in);
    if (e) {
        free(text);
        return e;
    }
    *out = text;
    *bytes = used;
    return ERR_NONE;
}

static struct language *language_of(struct cutting *c, const struct calibrate_text *t)
{
    const char *name = t->language ? t->language : t->path;
    for (uint32_t i = 0; i < c->languages; i++)
        if (strcmp(c->language[i].name, name) == 0)
            return &c->language[i];
    if (c->languages == LANGUAGES_MAX)
        return NULL;
    c->language[c->languages] = (struct language){.name = name, .path = t->path};
    return &c->language[c->languages++];
}

/* How far a text is read at first for so many tokens. */
static uint64_t first_bytes(uint64_t wanted)
{
    return wanted && wanted < CALIBRATE_TEXT_MAX / TOKEN_BYTES ? wanted * TOKEN_BYTES + PIECE_BYTES : CALIBRATE_TEXT_MAX;
}

/* As much of the text as gives so many tokens of a language (0: all of it), and no more of them than that. */
static enum err tokenise(struct cutting *c, struct language *l, const char *path, uint64_t wanted, size_t most,
                         bool *is_enough)
{
    char *text = NULL;
    size_t bytes = 0, count = 0;
    enum err e = calibrate_windows_read(path, most, &text, &bytes, c->fault);
    if (e)
        return e;
    uint32_t *token = realloc(l->token, (l->tokens + 3 * bytes + 8) * sizeof *token);
    if (!token) {
        e = ERR_MEMORY;
        goto out;
    }
    l->token = token;
    e = tokenizer_encode(c->tokenizer, text, bytes, l->tokens == 0, false, token + l->tokens, 3 * bytes + 8,
                         &count);
    if (e) {
        fault_set(c->fault, e, "%s: cannot be tokenised", path);
        goto out;
    }
    *is_enough = bytes < most || most == CALIBRATE_TEXT_MAX || count >= wanted + SPARE_TOKENS;
    if (*is_enough)
        l->tokens += wanted && count > wanted ? (size_t)wanted : count;
out:
    free(text);
    return e;
}

static enum err add_text(struct cutting *c, const struct calibrate_text *t)
{
    struct language *l = language_of(c, t);
    if (!l)
        return fault_set(c->fault, ERR_ARGUMENT, "expected at most %d languages", LANGUAGES_MAX);
    l->files++;
    if (c->wanted && l->tokens >= c->wanted)
        return ERR_NONE;
    const uint64_t wanted = c->wanted ? c->wanted - l->tokens : 0;
    uint64_t most = first_bytes(wanted);
    enum err e = ERR_NONE;
    for (bool is_enough = false; !is_enough && !e; most *= 4)
        e = tokenise(c, l, t->path, wanted, most < CALIBRATE_TEXT_MAX ? (size_t)most : CALIBRATE_TEXT_MAX, &is_enough);
    return e;
}

static enum err set_budgets(struct cutting *c, uint64_t per_language, bool balanced)
{
    size_t least = SIZE_MAX;
    for (uint32_t i = 0; i < c->languages; i++) {
        struct language *l = &c->language[i];
        size_t tokens = l->tokens;
        if (per_language && tokens > per_language)
            tokens = (size_t)per_language;
        l->windows = tokens / c->context;
        if (l->windows == 0)
            return fault_set(c->fault, ERR_ARGUMENT, "%s%s: %zu tokens to use, one window takes %u", l->path,
                             l->files > 1 ? " and the others of its language" : "", tokens, c->context);
        least = l->windows < least ? l->windows : least;
    }
    for (uint32_t i = 0; balanced && i < c->languages; i++)
        c->language[i].windows = least;
    return ERR_NONE;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Selection sampling: every window of the language is as likely, and the order stays the text's. */
static enum err pick_windows(struct language *l, uint32_t context, uint64_t seed)
{
    const size_t all = l->tokens / context;
    if (seed == 0 || l->windows >= all)
        return ERR_NONE;
    uint64_t state = seed;
    for (const char *c = l->name; *c; c++)
        state = (state ^ (uint8_t)*c) * 0x100000001b3u;
    if (!(l->pick = malloc(l->windows * sizeof *l->pick)))
        return ERR_MEMORY;
    for (size_t i = 0, taken = 0; taken < l->windows; i++)
        if (next_random(&state) % (all - i) < l->windows - taken)
            l->pick[taken++] = (uint32_t)i;
    return ERR_NONE;
}

static enum err lay_out(const struct cutting *c, struct calibrate_windows *w)
{
    size_t total = 0, most = 0;
    for (uint32_t i = 0; i < c->languages; i++) {
        total += c->language[i].windows;
        most = c->language[i].windows > most ? c->language[i].windows : most;
    }
    if (total > UINT32_MAX / c->context)
        return ERR_MEMORY;
    w->context = c->context;
    w->languages = c->languages;
    w->window = malloc(total * sizeof *w->window);
    w->token = malloc(total * c->context * sizeof *w->token);
    w->language = malloc(c->languages * sizeof *w->language);
    w->tokens = malloc(c->languages * sizeof *w->tokens);
    if (!w->window || !w->token || !w->language || !w->tokens)
        return ERR_MEMORY;
    for (size_t turn = 0; turn < most; turn++)
        for (uint32_t i = 0; i < c->languages; i++) {
            const struct language *l = &c->language[i];
            if (turn >= l->windows)
                continue;
            uint32_t *token = w->token + (size_t)w->windows * c->context;
            memcpy(token, l->token + (l->pick ? l->pick[turn] : turn) * c->context, c->context * sizeof *token);
            if (tokenizer_adds_bos(c->tokenizer))
                token[0] = tokenizer_bos(c->tokenizer);
            w->window[w->windows++] = (struct calibrate_window){token, i};
        }
    for (uint32_t i = 0; i < c->languages; i++) {
        w->language[i] = c->language[i].name;
        w->tokens[i] = (uint64_t)c->language[i].windows * c->context;
    }
    return ERR_NONE;
}

enum err calibrate_windows_open(const struct tokenizer *t, const struct calibrate_text *text,
                                uint32_t texts, uint32_t context, uint64_t per_language, bool balanced,
                                uint64_t seed, struct calibrate_windows **out, struct fault *f)
{
    struct calibrate_windows *w = calloc(1, sizeof *w);
    struct cutting *c = calloc(1, sizeof *c);
    enum err e = w && c ? ERR_NONE : ERR_MEMORY;
    if (e)
        goto out;
    *c = (struct cutting){.tokenizer = t, .context = context, .wanted = seed ? 0 : per_language, .fault = f};
    if (texts == 0)
        e = fault_set(f, ERR_ARGUMENT, "expected at least one text");
    for (uint32_t i = 0; !e && i < texts; i++)
        e = add_text(c, &text[i]);
    if (!e)
        e = set_budgets(c, per_language, balanced);
    for (uint32_t i = 0; !e && i < c->languages; i++)
        e = pick_windows(&c->language[i], context, seed);
    if (!e)
        e = lay_out(c, w);
out:
    for (uint32_t i = 0; c && i < c->languages; i++) {
        free(c->language[i].token);
        free(c->language[i].pick);
    }
    free(c);
    if (e)
        calibrate_windows_close(w);
    else
        *out = w;
    return e;
}

uint32_t calibrate_windows_context(const struct gguf *base, uint32_t most)
{
    struct gguf_text architecture;
    uint32_t trained = 0;
    char key[96];
    if (gguf_string(base, "general.architecture", &architecture) != ERR_NONE)
        return most;
    snprintf(key, sizeof key, "%.*s.context_length", (int)(architecture.bytes < 64 ? architecture.bytes : 64),
             architecture.text);
    return gguf_u32(base, key, &trained) == ERR_NONE && trained > 0 && trained < most ? trained : most;
}

enum err calibrate_windows_of(const struct gguf *base, const struct calibrate_text *text, uint32_t texts,
                              uint32_t context, uint64_t per_language, bool balanced, uint64_t seed,
                              struct calibrate_windows **out, struct fault *f)
{
    char reason[GGUF_REASON_BYTES] = "";
    struct tokenizer *tokenizer = NULL;
    enum err e = tokenizer_open(base, &tokenizer, reason);
    if (e)
        return fault_set(f, e, "%s", reason);
    e = calibrate_windows_open(tokenizer, text, texts, calibrate_windows_context(base, context), per_language, balanced,
                               seed, out, f);
    tokenizer_close(tokenizer);
    return e;
}

void calibrate_windows_close(struct calibrate_windows *w)
{
    if (!w)
        return;
    free(w->window);
    free(w->token);
    free(w->language);
    free(w->tokens);
    free(w);
}

uint64_t calibrate_windows_bytes(const struct calibrate_text *text, uint32_t texts, uint64_t per_language, uint64_t seed)
{
    const uint64_t most = first_bytes(seed ? 0 : per_language);
    uint64_t longest = 0, sum = 0;
    for (uint32_t i = 0; i < texts; i++) {
        struct stat status;
        const uint64_t bytes = stat(text[i].path, &status) || status.st_size < 0 ? 0 : (uint64_t)status.st_size;
        const uint64_t read = bytes < most ? bytes : most;
        longest = read > longest ? read : longest;
        sum += read;
    }
    return BYTE_BYTES * longest + BYTE_TOKENS * sum;
}

uint32_t calibrate_windows_languages(const struct calibrate_text *text, uint32_t texts)
{
    uint32_t languages = 0;
    for (uint32_t i = 0; i < texts; i++) {
        bool is_new = true;
        for (uint32_t k = 0; k < i; k++)
            is_new = is_new && strcmp(text[k].language, text[i].language) != 0;
        languages += is_new;
    }
    return languages ? languages : 1;
}

enum err calibrate_windows_step(const struct calibrate_windows *w, uint32_t i, struct model *m)
{
    const struct model_run run = {.outputs = w->context, .count = w->context, .tokens = w->window[i].token};
    model_truncate(m, 0, 0);
    return model_step(m, &run, 1);
}

bool calibrate_windows_is_held(uint32_t i)
{
    return i % HELD_EVERY == HELD_EVERY - 1;
}
