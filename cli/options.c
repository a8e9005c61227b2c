/* options.c: from a command line to a verb's settings, and from its tables to its help. */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHARED(field) offsetof(struct cli_common, field)

static const struct cli_option engine_options[] = {
    {.name = "plugin",
     .kind = CLI_TEXT,
     .offset = SHARED(plugin),
     .value = "NAME",
     .help = "compute with this plugin (default: the best that passes its check)"},
    {.name = "path",
     .kind = CLI_TEXT,
     .offset = SHARED(path),
     .value = "NAME",
     .help = "force a path of the plugin, such as avx2"},
    {.letter = 't',
     .name = "threads",
     .kind = CLI_INT,
     .offset = SHARED(threads),
     .value = "N",
     .maximum = 1024,
     .preset = "0",
     .help = "threads to compute with; 0 asks the device"},
    {.name = "plugin-folder",
     .kind = CLI_TEXT,
     .offset = SHARED(plugin_folder),
     .value = "FOLDER",
     .help = "look for plugins here"},
    {.name = "plugin-key",
     .kind = CLI_LIST,
     .offset = SHARED(plugin_keys),
     .value = "KEY.pub",
     .help = "trust this plugin key too; may be repeated"},
    {.name = "memory",
     .kind = CLI_BYTES,
     .offset = SHARED(memory_bytes),
     .value = "BYTES",
     .preset = "0",
     .help = "refuse to use more than this, such as 512M; 0: no limit"},
    {.name = NULL}};

static const struct cli_option output_options[] = {
    {.name = "json",
     .kind = CLI_FLAG,
     .offset = SHARED(json),
     .help = "print one JSON document on standard output"},
    {.letter = 'q',
     .name = "quiet",
     .kind = CLI_FLAG,
     .offset = SHARED(quiet),
     .help = "no progress, no remarks"},
    {.name = NULL}};

/* Where an option was found: its table entry and the struct that its offset counts in. */
struct place {
    const struct cli_option *option;
    char *base;
};

/* The three tables of a verb, in the order of its help. */
static int tables(const struct cli_call *call, const struct cli_option *table[3], char *base[3])
{
    int n = 0;
    if (call->verb->options) {
        table[n] = call->verb->options;
        base[n++] = (char *)(uintptr_t)call->settings;
    }
    if (call->verb->shared & CLI_ENGINE) {
        table[n] = engine_options;
        base[n++] = (char *)(uintptr_t)&call->common;
    }
    if (call->verb->shared & CLI_OUTPUT) {
        table[n] = output_options;
        base[n++] = (char *)(uintptr_t)&call->common;
    }
    return n;
}

/* The option called name (of `chars` characters), or with this letter; option is NULL if none is.
 */
static struct place find(const struct cli_call *call, const char *name, size_t chars, char letter)
{
    const struct cli_option *table[3];
    char *base[3];
    int n = tables(call, table, base);
    for (int t = 0; t < n; t++)
        for (const struct cli_option *o = table[t]; o->name; o++)
            if (letter ? o->letter == letter
                       : strlen(o->name) == chars && !strncmp(o->name, name, chars))
                return (struct place){o, base[t]};
    return (struct place){NULL, NULL};
}

static int bad_value(struct cli_call *call, const struct cli_option *o, const char *text)
{
    const char *name = o->name;
    bool has_range = o->minimum != 0 || o->maximum != 0;
    switch (o->kind) {
    case CLI_INT:
    case CLI_REAL:
        if (has_range)
            return cli_fail(call, CLI_USAGE, NULL, NULL,
                            "--%s takes a number from %.15g to %.15g, not '%s'", name, o->minimum,
                            o->maximum, text);
        return cli_fail(call, CLI_USAGE, NULL, NULL, "--%s takes a number, not '%s'", name, text);
    case CLI_BYTES:
        return cli_fail(call, CLI_USAGE, NULL, NULL,
                        "--%s takes a size such as 65536, 512K, 64M or 2G, not '%s'", name, text);
    default:
        return cli_fail(call, CLI_USAGE, NULL, NULL, "--%s takes one of %s, not '%s'", name,
                        o->choices, text);
    }
}

static int choice_of(const char *choices, const char *text)
{
    size_t chars = strlen(text);
    int index = 0;
    for (const char *word = choices; *word; index++) {
        size_t n = strcspn(word, "|");
        if (n == chars && !strncmp(word, text, n))
            return index;
        word += n + (word[n] == '|');
    }
    return -1;
}

static bool read_bytes(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    int shift = 0;
    if (end == text || errno || value < 0)
        return false;
    switch (*end) {
    case 'K':
    case 'k': shift = 10; break;
    case 'M':
    case 'm': shift = 20; break;
    case 'G':
    case 'g': shift = 30; break;
    case 'T':
    case 't': shift = 40; break;
    default: break;
    }
    end += shift != 0;
    if (*end || value > (INT64_MAX >> shift))
        return false;
    *out = (int64_t)value << shift;
    return true;
}

static int list_add(struct cli_call *call, struct cli_list *list, const char *item)
{
    const char **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (!items)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory for the command line");
    list->items = items;
    list->items[list->count++] = item;
    return CLI_DONE;
}

static bool in_range(const struct cli_option *o, double value)
{
    return (o->minimum == 0 && o->maximum == 0) || (value >= o->minimum && value <= o->maximum);
}

/* Read text as the option's kind into its field. */
static int set_value(struct cli_call *call, struct place place, const char *text)
{
    const struct cli_option *o = place.option;
    void *field = place.base + o->offset;
    char *end = NULL;
    bool is_good = true;
    errno = 0;
    switch (o->kind) {
    case CLI_FLAG: *(bool *)field = true; break;
    case CLI_TEXT: *(const char **)field = text; break;
    case CLI_LIST: return list_add(call, field, text);
    case CLI_BYTES: is_good = read_bytes(text, field); break;
    case CLI_INT: {
        long long value = strtoll(text, &end, 10);
        is_good = end != text && !*end && !errno && in_range(o, (double)value);
        *(int64_t *)field = (int64_t)value;
        break;
    }
    case CLI_REAL: {
        double value = strtod(text, &end);
        is_good = end != text && !*end && isfinite(value) && in_range(o, value);
        *(double *)field = value;
        break;
    }
    case CLI_CHOICE: {
        int index = choice_of(o->choices, text);
        is_good = index >= 0;
        *(int *)field = index;
        break;
    }
    }
    return is_good ? CLI_DONE : bad_value(call, o, text);
}

static int set_presets(struct cli_call *call)
{
    const struct cli_option *table[3];
    char *base[3];
    int n = tables(call, table, base);
    for (int t = 0; t < n; t++) {
        for (const struct cli_option *o = table[t]; o->name; o++) {
            if (o->kind == CLI_CHOICE)
                *(int *)(void *)(base[t] + o->offset) = -1;
            int status =
                o->preset ? set_value(call, (struct place){o, base[t]}, o->preset) : CLI_DONE;
            if (status)
                return status;
        }
    }
    return CLI_DONE;
}

/* One option at argv[i], its value in `joined` ("--name=joined", "-njoined") or in the next
 * arguments. Returns a status; *i ends at the last argument used. */
static int take(struct cli_call *call, struct place place, const char *joined, int argc,
                char **argv, int *i)
{
    const struct cli_option *o = place.option;
    if (o->kind == CLI_FLAG) {
        if (joined)
            return cli_fail(call, CLI_USAGE, NULL, NULL, "--%s takes no value", o->name);
        return set_value(call, place, "");
    }
    if (joined)
        return set_value(call, place, joined);
    if (*i + 1 >= argc)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "--%s needs a value: %s", o->name, o->value);
    int status = set_value(call, place, argv[++*i]);
    while (!status && o->is_greedy && *i + 1 < argc && argv[*i + 1][0] != '-')
        status = set_value(call, place, argv[++*i]);
    return status;
}

/* "-abc": flags may be joined, and the last letter may carry its value. */
static int take_letters(struct cli_call *call, int argc, char **argv, int *i)
{
    for (const char *letters = argv[*i] + 1; *letters; letters++) {
        struct place place = find(call, NULL, 0, *letters);
        if (!place.option)
            return cli_fail(call, CLI_USAGE, NULL, NULL, "unknown option -%c; see tare %s --help",
                            *letters, call->full_name);
        if (place.option->kind != CLI_FLAG)
            return take(call, place, letters[1] ? letters + 1 : NULL, argc, argv, i);
        int status = take(call, place, NULL, argc, argv, i);
        if (status)
            return status;
    }
    return CLI_DONE;
}

static int take_long(struct cli_call *call, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2;
    size_t chars = strcspn(name, "=");
    struct place place = find(call, name, chars, 0);
    if (!place.option)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "unknown option --%.*s; see tare %s --help",
                        (int)chars, name, call->full_name);
    return take(call, place, name[chars] ? name + chars + 1 : NULL, argc, argv, i);
}

/* What must be there, is there. */
static int check_complete(struct cli_call *call)
{
    const struct cli_verb *verb = call->verb;
    for (const struct cli_option *o = verb->options; o && o->name; o++) {
        const char *field = (const char *)call->settings + o->offset;
        bool is_absent =
            (o->kind == CLI_TEXT && !*(const char *const *)(const void *)field) ||
            (o->kind == CLI_LIST && !((const struct cli_list *)(const void *)field)->count) ||
            (o->kind == CLI_CHOICE && *(const int *)(const void *)field < 0);
        if (o->is_required && is_absent)
            return cli_fail(call, CLI_USAGE, NULL, NULL,
                            "%s needs %s%s --%s %s; see tare %s --help", call->full_name,
                            o->letter ? (char[]){'-', o->letter, 0} : "", o->letter ? " or" : "",
                            o->name, o->value, call->full_name);
    }
    if (call->operands < verb->operands_min)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "%s needs %s; see tare %s --help",
                        call->full_name, verb->operands, call->full_name);
    if (call->operands > verb->operands_max)
        return cli_fail(call, CLI_USAGE, NULL, NULL,
                        "%s does not know what to do with '%s'; see tare %s --help",
                        call->full_name, call->operand[verb->operands_max], call->full_name);
    return CLI_DONE;
}

int options_parse(struct cli_call *call, int argc, char **argv, bool *wants_help)
{
    bool is_ended = false;
    call->settings = calloc(1, call->verb->settings_bytes + 1);
    call->operand = calloc((size_t)argc + 1, sizeof *call->operand);
    if (!call->settings || !call->operand)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory for the command line");
    int status = set_presets(call);
    /* --json decides how errors are told, so it counts from wherever it stands */
    for (int i = 0; i < argc && (call->verb->shared & CLI_OUTPUT) && strcmp(argv[i], "--") != 0;
         i++)
        call->common.json |= !strcmp(argv[i], "--json");
    for (int i = 0; i < argc && !status; i++) {
        if (!is_ended && !strcmp(argv[i], "--")) {
            is_ended = true;
        } else if (is_ended || argv[i][0] != '-' || !argv[i][1]) {
            call->operand[call->operands++] = argv[i];
        } else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            *wants_help = true;
            return CLI_DONE;
        } else if (argv[i][1] == '-') {
            status = take_long(call, argc, argv, &i);
        } else {
            status = take_letters(call, argc, argv, &i);
        }
    }
    return status ? status : check_complete(call);
}

void options_free(struct cli_call *call)
{
    const struct cli_option *table[3];
    char *base[3];
    int n = call->settings ? tables(call, table, base) : 0;
    for (int t = 0; t < n; t++)
        for (const struct cli_option *o = table[t]; o->name; o++)
            if (o->kind == CLI_LIST)
                free(((struct cli_list *)(void *)(base[t] + o->offset))->items);
    free((void *)(uintptr_t)call->settings);
    free(call->operand);
    call->settings = NULL;
    call->operand = NULL;
}

static void print_table(const struct cli_option *table, FILE *to)
{
    for (const struct cli_option *o = table; o && o->name; o++) {
        char left[96];
        int chars = snprintf(left, sizeof left, "%c%c%c --%s%s%s", o->letter ? '-' : ' ',
                             o->letter ? o->letter : ' ', o->letter ? ',' : ' ', o->name,
                             o->value ? " " : "", o->value ? o->value : "");
        fprintf(to, "  %-28s %s%s", left, chars > 28 ? "\n                               " : "",
                o->help ? o->help : "");
        if (o->kind == CLI_CHOICE)
            fprintf(to, ": %s", o->choices);
        if (o->is_required)
            fprintf(to, " (required)");
        else if (o->preset && strcmp(o->preset, "0") != 0)
            fprintf(to, " (default %s)", o->preset);
        fputc('\n', to);
    }
}

void options_help(const struct cli_verb *verb, const char *full_name, FILE *to)
{
    fprintf(to, "tare %s: %s\n\n", full_name, verb->summary);
    if (verb->verbs) {
        fprintf(to, "usage: tare %s VERB ...\n\n", full_name);
        for (const struct cli_verb *const *v = verb->verbs; *v; v++)
            fprintf(to, "  %-12s %s\n", (*v)->name, (*v)->summary);
        fprintf(to, "\nSee tare %s VERB --help.\n", full_name);
    } else {
        fprintf(to, "usage: tare %s%s%s", full_name, verb->operands ? " " : "",
                verb->operands ? verb->operands : "");
        for (const struct cli_option *o = verb->options; o && o->name; o++)
            if (o->is_required)
                fprintf(to, " --%s %s", o->name, o->value);
        fprintf(to, "%s\n", verb->options || verb->shared ? " [options]" : "");
    }
    if (verb->text)
        fprintf(to, "\n%s\n", verb->text);
    if (verb->examples && verb->examples->command) {
        fprintf(to, "\nexamples:\n");
        for (const struct cli_example *e = verb->examples; e->command; e++)
            fprintf(to, "  # %s\n  %s\n", e->meaning, e->command);
    }
    if (verb->options && verb->options->name) {
        fprintf(to, "\noptions:\n");
        print_table(verb->options, to);
    }
    if (verb->shared & CLI_ENGINE) {
        fprintf(to, "\nwhere it computes:\n");
        print_table(engine_options, to);
    }
    if (verb->shared & CLI_OUTPUT) {
        fprintf(to, "\noutput:\n");
        print_table(output_options, to);
    }
}
