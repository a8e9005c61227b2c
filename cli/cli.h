/* cli.h: the frame that every verb of `tare` stands in.
 *
 * A verb is one file that exports `const struct cli_verb cli_<verb>` and one line in the table of
 * main.c. It declares its options, operands, defaults and examples; the frame parses them into the
 * verb's own settings struct, prints help from the same table, and turns errors into exit statuses.
 *
 *     struct quantise_settings { const char *out; int64_t window; struct cli_list texts; };
 *
 *     static const struct cli_option options[] = {
 *         {.letter = 'o', .name = "output", .kind = CLI_TEXT, .value = "FILE", .is_required = true,
 *          .offset = offsetof(struct quantise_settings, out), .help = "the variant to write"},
 *         {.name = "window", .kind = CLI_INT, .value = "N", .preset = "512", .minimum = 2,
 *          .maximum = 1e6, .offset = offsetof(struct quantise_settings, window),
 *          .help = "tokens per window"},
 *         {.name = NULL}};
 *
 *     static int quantize(struct cli_call *call)
 *     {
 *         const struct quantise_settings *s = call->settings;
 *         ...
 *         return CLI_DONE;
 *     }
 *
 *     const struct cli_verb cli_quantize = {
 *         .name = "quantize", .operands = "BASE.gguf", .operands_min = 1, .operands_max = 1,
 *         .summary = "derive a variant of a base", .options = options,
 *         .shared = CLI_ENGINE | CLI_OUTPUT, .settings_bytes = sizeof(struct quantise_settings),
 *         .run = quantize, .examples = examples};
 */
#ifndef CLI_H
#define CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

struct engine;
struct json_t; /* jansson's json_t; a verb that answers in JSON includes <jansson.h> itself */

enum cli_status {
    CLI_DONE = 0,
    CLI_FAILED = 1,     /* a gate or a comparison failed */
    CLI_USAGE = 2,      /* the command line */
    CLI_INPUT = 3,      /* a file or text that was given is bad or absent */
    CLI_ENVIRONMENT = 4 /* missing plugin, no memory, no disk, no broker */
};

/* Kind of an option and the type of its field in the settings struct. */
enum cli_kind {
    CLI_FLAG,  /* bool */
    CLI_INT,   /* int64_t, within minimum..maximum unless both are 0 */
    CLI_BYTES, /* int64_t; 512, 64K, 2M, 4G (powers of 1024) */
    CLI_REAL,  /* double, within minimum..maximum unless both are 0 */
    CLI_TEXT,  /* const char *; NULL when not given and without preset */
    CLI_LIST,  /* struct cli_list; the option may be repeated, and "--text A B" takes every operand
                  up to the next option when is_greedy is set */
    CLI_CHOICE /* int: index into the words of .choices; -1 when not given and without preset */
};

struct cli_list {
    size_t count;
    const char **items; /* owned by the frame until the verb has returned */
};

struct cli_option {
    char letter;      /* 0: no short form */
    const char *name; /* long form without dashes; NULL ends a table */
    enum cli_kind kind;
    size_t offset;       /* of the field in the settings struct */
    const char *value;   /* what help calls the value, "FILE"; NULL for a flag */
    const char *preset;  /* the default as one would type it; NULL: the field stays zero or -1 */
    const char *choices; /* CLI_CHOICE: words separated by '|' */
    double minimum, maximum;
    bool is_required;
    bool is_greedy;   /* CLI_LIST: see above */
    const char *help; /* one line */
};

struct cli_example {
    const char *command; /* as one would type it; NULL ends a table */
    const char *meaning;
};

enum cli_shared {
    CLI_ENGINE = 1, /* --plugin --path --threads --plugin-folder --plugin-key --memory: see
                       cli_engine_open */
    CLI_OUTPUT = 2  /* --json --quiet */
};

struct cli_call;

struct cli_verb {
    const char *name;
    const char *summary;  /* half a line, lower case, no period */
    const char *operands; /* as help shows them: "BASE.gguf", "[ID [pause|resume]]"; NULL: none */
    int operands_min, operands_max;
    const char *text; /* optional paragraph for --help */
    const struct cli_option *options;
    const struct cli_example *examples;
    unsigned shared; /* enum cli_shared, or-ed */
    size_t settings_bytes;
    int (*run)(struct cli_call *call);   /* returns enum cli_status */
    const struct cli_verb *const *verbs; /* a verb of verbs (fleet): NULL-ended, run is NULL */
};

/* What the shared options said. */
struct cli_common {
    const char *plugin;          /* NULL: the best that passes its check */
    const char *path;            /* NULL: the plugin's own choice; "avx2" forces a lower one */
    const char *plugin_folder;   /* NULL: the installed or built one */
    struct cli_list plugin_keys; /* further minisign public keys, files or base64 lines */
    int64_t threads;             /* 0: as many as the device probe says */
    int64_t memory_bytes;        /* 0: no budget */
    bool json;
    bool quiet;
};

struct cli_call {
    const struct cli_verb *verb;
    const char *full_name; /* "quantize", "fleet deploy" */
    struct cli_common common;
    const void *settings; /* the verb's struct, filled */
    int operands;
    char **operand;
    struct json_t *answer; /* set by cli_answer */
    char error[1024];      /* set by cli_fail */
};

/* Say what went wrong on standard error, as one line "tare: FILE: PLACE: TEXT" (NULL parts are left
 * out), and keep it for the --json document. Control characters are printed as '?'. Returns status,
 * so that a verb ends with `return cli_fail(call, CLI_INPUT, path, "tensor 3", "shape is ...");`.
 */
int cli_fail(struct cli_call *call, enum cli_status status, const char *file, const char *place,
             const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The exit status that fits an error: gates and mismatches 1; wrong bytes, signatures, digests and
 * absent names 3; memory, input/output, device and timeout 4. ERR_NONE is CLI_DONE. */
int cli_status_of(enum err e);

/* A plain sentence for an error: "the signature does not verify". Never NULL. */
const char *cli_sentence(enum err e);

/* Hand over the one document that --json prints; takes the reference. Called once per run; without
 * --json the document is dropped, so a verb may build it always. When a verb fails without an
 * answer the frame prints {"error": ..., "status": n}. */
void cli_answer(struct cli_call *call, struct json_t *document);

/* Print to standard output for people: nothing with --json. */
void cli_print(const struct cli_call *call, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Print a remark to standard error: nothing with --quiet. */
void cli_note(const struct cli_call *call, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Open the engine that the shared options ask for. Returns CLI_DONE, or has called cli_fail.
 * The caller closes it with engine_close. */
int cli_engine_open(struct cli_call *call, struct engine **out);

enum { CLI_KEYS_MAX = 16, CLI_KEY_BYTES = 128 };

/* The keys of --plugin-key, as base64 lines. */
struct cli_keys {
    uint32_t count;
    const char *keys[CLI_KEYS_MAX]; /* into lines */
    char lines[CLI_KEYS_MAX][CLI_KEY_BYTES];
};

/* Read them. Returns CLI_DONE, or has called cli_fail. */
int cli_plugin_keys(struct cli_call *call, struct cli_keys *out);

/* "1.5 MiB" into text; returns text. */
char *cli_bytes(double bytes, char text[32]);

#endif
