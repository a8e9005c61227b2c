/* options_test.c: every kind of option, its bounds, and the one-line errors. */
#include "cli/options.h"

#include <string.h>

#include "tests/harness.h"

struct settings {
    bool flag;
    int64_t count, bytes;
    double rate;
    const char *name;
    struct cli_list texts;
    int type;
};

#define FIELD(x) offsetof(struct settings, x)

static const struct cli_option options[] = {
    {.letter = 'f', .name = "flag", .kind = CLI_FLAG, .offset = FIELD(flag), .help = "a flag"},
    {.letter = 'n',
     .name = "count",
     .kind = CLI_INT,
     .offset = FIELD(count),
     .value = "N",
     .preset = "7",
     .minimum = -5,
     .maximum = 100,
     .help = "a count"},
    {.name = "bytes",
     .kind = CLI_BYTES,
     .offset = FIELD(bytes),
     .value = "BYTES",
     .help = "a size"},
    {.name = "rate",
     .kind = CLI_REAL,
     .offset = FIELD(rate),
     .value = "X",
     .preset = "0.5",
     .help = "a rate"},
    {.letter = 'o',
     .name = "output",
     .kind = CLI_TEXT,
     .offset = FIELD(name),
     .value = "FILE",
     .is_required = true,
     .help = "a file"},
    {.name = "text",
     .kind = CLI_LIST,
     .offset = FIELD(texts),
     .value = "FILE...",
     .is_greedy = true,
     .help = "files"},
    {.name = "type",
     .kind = CLI_CHOICE,
     .offset = FIELD(type),
     .value = "TYPE",
     .choices = "F16|Q4_K|Q4",
     .help = "a type"},
    {.name = NULL}};

static const struct cli_verb verb = {.name = "try",
                                     .summary = "try things",
                                     .operands = "FILE",
                                     .operands_min = 1,
                                     .operands_max = 2,
                                     .options = options,
                                     .shared = CLI_ENGINE | CLI_OUTPUT,
                                     .settings_bytes = sizeof(struct settings)};

static struct settings got;
static struct cli_call call;
static bool wants_help;

/* Parse words separated by blanks; returns the status. */
static int parse(const char *line)
{
    static char words[512];
    char *argv[32];
    int argc = 0;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    options_free(&call);
    call = (struct cli_call){.verb = &verb, .full_name = "try"};
    wants_help = false;
    int status = options_parse(&call, argc, argv, &wants_help);
    got = *(const struct settings *)call.settings;
    return status;
}

static void test_values(void)
{
    CU_ASSERT_EQUAL(parse("-o out in"), CLI_DONE);
    CU_ASSERT_EQUAL(got.count, 7);
    CU_ASSERT_DOUBLE_EQUAL(got.rate, 0.5, 0);
    CU_ASSERT_EQUAL(got.type, -1);
    CU_ASSERT_FALSE(got.flag);
    CU_ASSERT_STRING_EQUAL(got.name, "out");
    CU_ASSERT_EQUAL(call.operands, 1);
    CU_ASSERT_STRING_EQUAL(call.operand[0], "in");

    CU_ASSERT_EQUAL(parse("a --output=x=y -fn-5 b --type Q4 --bytes 3M --rate -1e-3 --json -t 2"),
                    CLI_DONE);
    CU_ASSERT_STRING_EQUAL(got.name, "x=y");
    CU_ASSERT_TRUE(got.flag);
    CU_ASSERT_EQUAL(got.count, -5);
    CU_ASSERT_EQUAL(got.type, 2);
    CU_ASSERT_EQUAL(got.bytes, 3 << 20);
    CU_ASSERT_DOUBLE_EQUAL(got.rate, -1e-3, 0);
    CU_ASSERT_TRUE(call.common.json);
    CU_ASSERT_EQUAL(call.common.threads, 2);
    CU_ASSERT_EQUAL(call.operands, 2);

    CU_ASSERT_EQUAL(parse("in --text a b -o x --text c -- -b"), CLI_DONE);
    CU_ASSERT_EQUAL(got.texts.count, 3);
    CU_ASSERT_STRING_EQUAL(got.texts.items[2], "c");
    CU_ASSERT_STRING_EQUAL(call.operand[1], "-b");

    CU_ASSERT_EQUAL(parse("--nonsense-after --help"), CLI_USAGE);
    CU_ASSERT_EQUAL(parse("--help --nonsense"), CLI_DONE);
    CU_ASSERT_TRUE(wants_help);
}

static void test_refusals(void)
{
    static const char *const lines[] = {
        "in",
        "-o x",
        "-o x a b c",
        "-o x in --count 101",
        "-o x in --count -6",
        "-o x in --count 5x",
        "-o x in --count",
        "-o x in --count 99999999999999999999",
        "-o x in --rate nan",
        "-o x in --rate 1,5",
        "-o x in --bytes 5X",
        "-o x in --bytes -1",
        "-o x in --bytes 9999999999G",
        "-o x in --type Q4_",
        "-o x in --flag=1",
        "-o x in -z",
        "-o x in --outputs y",
        "-o x in -t -1",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        CU_ASSERT_EQUAL(parse(lines[i]), CLI_USAGE);
        CU_ASSERT_NOT_EQUAL(call.error[0], 0);
        CU_ASSERT_PTR_NULL(strchr(call.error, '\n'));
    }
}

static void test_one_line(void)
{
    CU_ASSERT_EQUAL(cli_fail(&call, CLI_INPUT, "a\nb\033[1m", "row 3", "expected %d", 4),
                    CLI_INPUT);
    CU_ASSERT_STRING_EQUAL(call.error, "a?b?[1m: row 3: expected 4");
    char big[3000];
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = 0;
    CU_ASSERT_EQUAL(cli_fail(&call, CLI_INPUT, big, big, "end"), CLI_INPUT);
    CU_ASSERT_EQUAL(strlen(call.error), sizeof call.error - 1);
    options_free(&call);
}

static void test_sentences(void)
{
    for (int e = ERR_NONE; e <= ERR_CRASHED; e++)
        CU_ASSERT_PTR_NULL(strstr(cli_sentence((enum err)e), "does not know"));
    CU_ASSERT_PTR_NOT_NULL(strstr(cli_sentence((enum err)999), "does not know"));
    CU_ASSERT_EQUAL(cli_status_of(ERR_GATE), CLI_FAILED);
    CU_ASSERT_EQUAL(cli_status_of(ERR_FORMAT), CLI_INPUT);
    CU_ASSERT_EQUAL(cli_status_of(ERR_MEMORY), CLI_ENVIRONMENT);
}

RUN_SUITE("options", {"values of every kind", test_values}, {"refusals", test_refusals},
          {"errors are one line", test_one_line}, {"sentences and statuses", test_sentences})
