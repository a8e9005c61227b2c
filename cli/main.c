/* main.c: `tare`: the table of verbs, and what all of them share. */
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/verbs.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define VERBS_ENTRY(name) &cli_##name,
static const struct cli_verb *const verbs[] = {VERBS(VERBS_ENTRY) NULL};

static void print_help(FILE *to)
{
    fputs(
        "tare: compress a transformer model for every device of a fleet, and keep it calibrated\n\n"
        "usage: tare VERB ...\n\n",
        to);
    for (const struct cli_verb *const *v = verbs; *v; v++)
        fprintf(to, "  %-12s %s\n", (*v)->name, (*v)->summary);
    fputs("\nexamples:\n"
          "  # derive a 4-bit variant of a base, calibrated on your own text\n"
          "  tare quantize base.gguf -o small.gguf --type Q4_K --text notes.txt\n"
          "  # measure what it lost against the base\n"
          "  tare eval small.gguf --reference base.gguf --text held-out.txt\n"
          "  # what one verb takes\n"
          "  tare quantize --help\n"
          "\nexit status: 0 done, 1 a gate or comparison failed, 2 usage, 3 bad input, 4 "
          "environment\n",
          to);
}

/* A word that shares its beginning with what was typed, to say "did you mean". */
static const char *nearest(const struct cli_verb *const *table, const char *word)
{
    size_t best = 1;
    const char *name = NULL;
    for (; *table; table++) {
        size_t same = 0;
        while (word[same] && word[same] == (*table)->name[same])
            same++;
        if (same > best) {
            best = same;
            name = (*table)->name;
        }
    }
    return name;
}

/* Print the answer, or the error when there is none; a full disk behind standard output is an
 * error. */
static int conclude(struct cli_call *call, int status)
{
    if (call->common.json) {
        if (!call->answer)
            call->answer = json_pack("{s:s?, s:i}", "error", call->error[0] ? call->error : NULL,
                                     "status", status);
        if (!call->answer ||
            json_dumpf(call->answer, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) ||
            putchar('\n') == EOF)
            status =
                cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "the JSON document cannot be printed");
    }
    json_decref(call->answer);
    call->answer = NULL;
    if (fflush(stdout) || ferror(stdout))
        status = cli_fail(call, CLI_ENVIRONMENT, "standard output", NULL, "cannot be written: %s",
                          strerror(errno));
    return status;
}

static int run_verb(const struct cli_verb *verb, const char *full_name, int argc, char **argv)
{
    struct cli_call call = {.verb = verb, .full_name = full_name};
    bool wants_help = false;
    int status = options_parse(&call, argc, argv, &wants_help);
    if (wants_help) {
        call.common.json = false;
        options_help(verb, full_name, stdout);
    } else if (!status) {
        status = verb->run(&call);
    }
    status = conclude(&call, status);
    options_free(&call);
    return status;
}

/* Find argv[0] in a table and run it; a verb of verbs looks at the next word. */
static int dispatch(const struct cli_verb *const *table, const char *prefix, int argc, char **argv)
{
    struct cli_call call = {0};
    char full_name[128];
    for (; *table && strcmp((*table)->name, argv[0]) != 0; table++)
        ;
    if (!*table)
        return -1;
    snprintf(full_name, sizeof full_name, "%s%s%s", prefix, *prefix ? " " : "", argv[0]);
    if (!(*table)->verbs)
        return run_verb(*table, full_name, argc - 1, argv + 1);
    if (argc < 2)
        return cli_fail(&call, CLI_USAGE, NULL, NULL, "%s needs a verb; see tare %s --help",
                        full_name, full_name);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        options_help(*table, full_name, stdout);
        return conclude(&call, CLI_DONE);
    }
    int status = dispatch((*table)->verbs, full_name, argc - 1, argv + 1);
    if (status >= 0)
        return status;
    const char *name = nearest((*table)->verbs, argv[1]);
    return cli_fail(&call, CLI_USAGE, NULL, NULL, "%s: unknown verb '%s'%s%s; see tare %s --help",
                    full_name, argv[1], name ? ", did you mean " : "", name ? name : "", full_name);
}

int main(int argc, char **argv)
{
    struct cli_call call = {0};
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is reported by conclude, with its status */
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        print_help(stdout);
        return conclude(&call, CLI_DONE);
    }
    if (!strcmp(argv[1], "--version")) {
        printf("tare %s\n", TARE_VERSION);
        return conclude(&call, CLI_DONE);
    }
    int status = dispatch(verbs, "", argc - 1, argv + 1);
    if (status >= 0)
        return status;
    const char *name = nearest(verbs, argv[1]);
    return cli_fail(&call, CLI_USAGE, NULL, NULL, "unknown verb '%s'%s%s; see tare --help", argv[1],
                    name ? ", did you mean " : "", name ? name : "");
}
