#include "harness.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/settings.h"

static char file[] = "/tmp/tare-settings.XXXXXX";

#define GOOD                                                                                                           \
    "[fleet]\nname = demo\ndirector_keys = /a/one.pub, /a/two.pub\n[broker]\nhost = h\nca = c\ncert = d\nkey = e\n"     \
    "[controller]\nurl = http://x:1/\n"

static enum err load(const char *text, struct settings *out, char why[256])
{
    FILE *f = fopen(file, "w");
    fputs(text, f);
    fclose(f);
    return settings_load(file, out, why, 256);
}

static void test_presets(void)
{
    struct settings s;
    char why[256];
    CU_ASSERT_EQUAL_FATAL(load(GOOD "[engine]\nmemory_mib = 3 ; three\n[telemetry]\nshadow_rate = 0.25\n", &s, why), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(s.fleet, "demo");
    CU_ASSERT_EQUAL(s.director_key_count, 2);
    CU_ASSERT_STRING_EQUAL(s.director_keys[1], "/a/two.pub");
    CU_ASSERT_STRING_EQUAL(s.controller_url, "http://x:1");
    CU_ASSERT_EQUAL(s.broker_port, 8883);
    CU_ASSERT_EQUAL(s.memory_bytes, 3u << 20);
    CU_ASSERT_EQUAL(s.shadow_rate, 0.25);
    CU_ASSERT_STRING_EQUAL(s.root, "");
}

static void test_refusals(void)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {GOOD "[agent]\ncolour = red\n", ":12: unknown key \"colour\" in section [agent]"},
        {GOOD "[paint]\nstate = x\n", ":12: unknown key \"state\" in section [paint]"},
        {GOOD "[broker]\nhost = again\n", ":12: host is said twice"},
        {GOOD "[broker]\nport = 0\n", ":12: port is a whole number from 1 to 65535"},
        {GOOD "[broker]\nport = 70000\n", ":12: port is a whole number"},
        {GOOD "[broker]\nport = 8883x\n", ":12: port is a whole number"},
        {GOOD "[telemetry]\nshadow_rate = 1.5\n", ":12: shadow_rate is a number from 0 to 1"},
        {GOOD "[agent]\nverbose = maybe\n", ":12: verbose is yes or no"},
        {GOOD "nonsense\n", ":11: expected [section] or key = value"},
        {"[fleet]\nname = demo\n", ": host is missing from section [broker]"},
        {"[fleet]\nname = demo\n[broker]\nhost = h\nca = c\ncert = d\nkey = e\n[controller]\nurl = u\n",
         ": director_keys is missing from section [fleet], and so is root"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct settings s = {.fleet = "kept"};
        char why[256] = "";
        CU_ASSERT_EQUAL(load(cases[i].text, &s, why), ERR_FORMAT);
        CU_ASSERT(strncmp(why, file, strlen(file)) == 0 && strstr(why, cases[i].why) != NULL);
        CU_ASSERT_STRING_EQUAL(s.fleet, "kept");
    }
}

static void test_example(void)
{
    struct settings s;
    char why[256] = "", other[] = "/tmp/tare-none.ini";
    CU_ASSERT_EQUAL(settings_load(SOURCE_DIR "/packaging/agent.ini", &s, why, sizeof why), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(why, "");
    CU_ASSERT_EQUAL(settings_load(other, &s, why, sizeof why), ERR_IO);
    CU_ASSERT(strstr(why, "cannot be read") != NULL);
    why[0] = 0;
    /* every key of the example, uncommented, is known too */
    FILE *in = fopen(SOURCE_DIR "/packaging/agent.ini", "r"), *out = fopen(file, "w");
    char line[512];
    int keys = 0;
    while (in && fgets(line, sizeof line, in)) {
        bool is_key = line[0] == ';' && line[1] != ' ' && strchr(line, '=');
        keys += is_key;
        fputs(is_key ? line + 1 : line, out);
    }
    fclose(in);
    fclose(out);
    CU_ASSERT(keys > 15);
    CU_ASSERT_EQUAL(settings_load(file, &s, why, sizeof why), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(why, "");
    unlink(file);
}

__attribute__((constructor)) static void make_file(void)
{
    close(mkstemp(file));
}

RUN_SUITE("settings", {"presets and values", test_presets}, {"refusals name file and line", test_refusals},
          {"the packaged example", test_example})
