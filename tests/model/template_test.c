#include "tests/harness.h"

#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "model/template.h"

/* What make_template_fixtures.py took for now. */
static const struct tm now = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_hour = 13, .tm_min = 5, .tm_sec = 9, .tm_wday = 5, .tm_yday = 207};

enum { MESSAGES_MAX = 16 };

static struct gguf_text view(const json_t *string)
{
    if (!json_is_string(string))
        return (struct gguf_text){"", 0};
    return (struct gguf_text){json_string_value(string), json_string_length(string)};
}

/* One case: what came out, or how it failed, is what Jinja2 made of it. */
static void replay(const char *file, const json_t *whole, const json_t *one)
{
    struct template_message m[MESSAGES_MAX];
    struct template_result got = {0};
    struct template *t = NULL;
    char reason[GGUF_REASON_BYTES] = "";
    const json_t *template = json_object_get(one, "template"), *messages = json_object_get(one, "messages"), *said;
    const json_t *text = json_object_get(one, "text"), *raises = json_object_get(one, "raises");
    const struct gguf_text source = view(template ? template : json_object_get(whole, "template"));
    size_t i;
    if (!messages)
        messages = json_object_get(whole, "messages");
    CU_ASSERT_FATAL(json_array_size(messages) <= MESSAGES_MAX);
    json_array_foreach(messages, i, said)
        m[i] = (struct template_message){view(json_object_get(said, "role")), view(json_object_get(said, "content"))};
    const struct template_call call = {.messages = m,
                                       .count = json_array_size(messages),
                                       .add_generation_prompt = !json_is_false(json_object_get(one, "generate")),
                                       .bos = view(json_object_get(whole, "bos")),
                                       .eos = view(json_object_get(whole, "eos")),
                                       .now = &now};
    enum err e = template_open(source.text, source.bytes, &t, reason);
    if (!e)
        e = template_render(t, &call, &got, reason);
    const bool same = text ? e == ERR_NONE && got.bytes == json_string_length(text) &&
                                 memcmp(got.text, json_string_value(text), got.bytes) == 0
                    : raises ? e == ERR_ARGUMENT && strstr(reason, json_string_value(raises)) != NULL
                             : e != ERR_NONE;
    if (!same)
        fprintf(stderr, "%s: case %.*s\n expected: %s\n got %s: %.*s%s\n", file,
                (int)(template ? source.bytes : 0), source.text, text ? json_string_value(text) : "a failure",
                err_name(e), (int)got.bytes, got.text ? got.text : "", reason);
    CU_ASSERT(same);
    CU_ASSERT(e == ERR_NONE ? reason[0] == 0 : strncmp(reason, "chat template, line ", 20) == 0 && !strchr(reason, '\n'));
    template_result_close(&got);
    template_close(t);
}

static void test_fixtures(void)
{
    const char *folder = SOURCE_DIR "/tests/model/template";
    DIR *d = opendir(folder);
    const struct dirent *entry;
    unsigned files = 0, cases = 0;
    CU_ASSERT_FATAL(d != NULL);
    while ((entry = readdir(d))) {
        char path[512];
        size_t i;
        const json_t *one;
        if (!strstr(entry->d_name, ".json"))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        json_t *whole = json_load_file(path, JSON_ALLOW_NUL, NULL);
        CU_ASSERT_FATAL(whole != NULL);
        json_array_foreach(json_object_get(whole, "cases"), i, one)
        {
            replay(entry->d_name, whole, one);
            cases++;
        }
        json_decref(whole);
        files++;
    }
    closedir(d);
    CU_ASSERT(files >= 19 && cases > 600);
}

static enum err render(const char *source, const char *content, struct template_result *out, char *reason)
{
    const struct template_message m = {{"user", 4}, {content, strlen(content)}};
    const struct template_call call = {.messages = &m, .count = 1, .now = &now};
    struct template *t = NULL;
    enum err e = template_open(source, strlen(source), &t, reason);
    if (!e)
        e = template_render(t, &call, out, reason);
    template_close(t);
    return e;
}

/* What a message said is marked, wherever it went. */
static void test_foreign(void)
{
    static const struct {
        const char *source, *text, *marks;
    } all[] = {
        {"<{{ messages[0].content }}>", "< aBc >", "0111110"},
        {"{{ messages[0].content | trim ~ '|' }}", "aBc|", "1110"},
        {"{{ 'x' + messages[0]['content'].strip() | upper }}", "xABC", "0111"},
        {"{{ messages[0].content.split('B')[1] }}!", "c !", "110"},
        {"{{ messages[0].content | replace('B', '<s>') }}", " a<s>c ", "1100011"},
        {"{{ messages[0].content[1:3] | tojson }}", "\"aB\"", "0110"},
        {"{% set b %}{{ messages[0].content | trim }}{% endset %}{{ b ~ messages[0].role }}", "aBcuser", "1110000"},
        {"{% for c in messages[0].content | trim | list | reverse %}{{ c }}-{% endfor %}", "c-B-a-", "101010"},
        {"{% macro m(x) %}[{{ x | trim | lower }}]{% endmacro %}{{ m(messages[0].content) }}", "[abc]", "01110"},
        {"{{ [messages[0].content | trim, 'k'] | join('+') }}{{ messages[0].content.strip().title() * 2 }}", "aBc+kAbcAbc", "11100111111"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct template_result got = {0};
        char reason[GGUF_REASON_BYTES];
        CU_ASSERT_EQUAL(render(all[i].source, " aBc ", &got, reason), ERR_NONE);
        CU_ASSERT_FATAL(got.bytes == strlen(all[i].text));
        CU_ASSERT(memcmp(got.text, all[i].text, got.bytes) == 0);
        for (size_t k = 0; k < got.bytes; k++)
            CU_ASSERT(got.foreign[k] == (all[i].marks[k] == '1'));
        template_result_close(&got);
    }
}

/* Foreign templates that want all of the machine are stopped, in time, with a reason. */
static void test_bounds(void)
{
    static const char *const greedy[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'x' * 9000000000000 }}",
        "{{ range(9000000000000) | length }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace() %}{% set ns.me = [ns] %}{{ ns.me }}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ 99999999999999999999 }}",
        "{{ [3] | tojson(indent=1000000000) }}",
        "{{ 2 ** 64 }}",
        "{% for i in range(50000) %}{{ messages[0].content * 1000 }}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof greedy / sizeof *greedy; i++) {
        struct template_result got = {0};
        char reason[GGUF_REASON_BYTES] = "";
        const enum err e = render(greedy[i], "content", &got, reason);
        CU_ASSERT(e == ERR_UNSUPPORTED || e == ERR_MEMORY);
        CU_ASSERT(strlen(reason) > 20);
        template_result_close(&got);
    }
    char deep[4096] = "{{ ";
    for (int i = 0; i < 1000; i++)
        strcat(deep, "(");
    struct template_result got = {0};
    char reason[GGUF_REASON_BYTES];
    CU_ASSERT_EQUAL(render(deep, "", &got, reason), ERR_UNSUPPORTED);
    deep[3] = 0;
    for (int i = 0; i < 1000; i++)
        strcat(deep, i ? "+1" : "1");
    strcat(deep, " }}");
    CU_ASSERT_EQUAL(render(deep, "", &got, reason), ERR_UNSUPPORTED);
    CU_ASSERT_EQUAL(render("{{ 1 }}", "\xff", &got, reason), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(render("\xff", "", &got, reason), ERR_UNSUPPORTED);
}

RUN_SUITE("template", {"what Jinja2 makes of it", test_fixtures}, {"what messages say is marked", test_foreign},
          {"greedy templates are stopped", test_bounds})
