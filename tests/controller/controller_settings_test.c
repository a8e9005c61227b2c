/* controller_settings_test.c: the packaged example is taken, and what is not documented is refused. */
#include "controller/controller_settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness.h"

static enum err load(const char *text, char *why, struct controller_settings *out)
{
    char path[] = "/tmp/tare-settings-XXXXXX";
    int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    enum err e = controller_settings_load(path, out, why, 300);
    unlink(path);
    return e;
}

#define GOOD "[fleet]\nid = a\n[controller]\nstate = /tmp/x\n[broker]\ntls = no\n"

static void takes_the_packaged_example(void)
{
    struct controller_settings s;
    char why[300];
    CU_ASSERT_EQUAL(controller_settings_load(SOURCE_DIR "/packaging/controller.ini", &s, why, sizeof why),
                    ERR_NONE);
    CU_ASSERT_STRING_EQUAL(s.http_address, "127.0.0.1"); /* loopback unless somebody says otherwise */
    CU_ASSERT_STRING_EQUAL(s.token_file, "/var/lib/tare-controller/api.token");
    CU_ASSERT_TRUE(s.broker_tls);
}

/* Every commented key of the example is a key with the default that it shows. */
static void documents_every_default(void)
{
    FILE *in = fopen(SOURCE_DIR "/packaging/controller.ini", "r");
    char line[300], all[16384] = "", key[80], value[200], why[300];
    struct controller_settings with, without;
    unsigned found = 0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(in);
    while (fgets(line, sizeof line, in)) {
        bool is_default = sscanf(line, "# %79[a-z_0-9] = %199[^\n]", key, value) == 2;
        found += is_default;
        if (is_default && (strstr(value, "STATE/") || strstr(line, "web =")))
            continue;
        strncat(all, is_default ? line + 2 : line, sizeof all - strlen(all) - 1);
    }
    fclose(in);
    CU_ASSERT(found > 20);
    CU_ASSERT_EQUAL_FATAL(load(all, why, &with), ERR_NONE);
    CU_ASSERT_EQUAL(controller_settings_load(SOURCE_DIR "/packaging/controller.ini", &without, why,
                                             sizeof why),
                    ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&with, &without, sizeof with), 0);
}

static void refuses_what_it_does_not_know(void)
{
    static const char *const bad[] = {
        GOOD "colour = red\n",
        GOOD "[nonsense]\nx = 1\n",
        GOOD "port = 0\n",
        GOOD "port = 70000\n",
        GOOD "port = 12a\n",
        GOOD "tls = maybe\n",
        GOOD "tls = no\n",
        GOOD "[calibration]\ndrift_limit = nan\n",
        GOOD "[calibration]\ndrift_limit = 0.01\ndrift_rearm = 0.5\n",
        "[fleet]\nid = Upper\n[controller]\nstate = /tmp/x\n[broker]\ntls = no\n",
        "[fleet]\nid = a\n[broker]\ntls = no\n",
        "[fleet]\nid = a\n[controller]\nstate = /tmp/x\n",
        "[fleet]\nid\n",
    };
    struct controller_settings s, before;
    char why[300];
    memset(&s, 7, sizeof s);
    before = s;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        why[0] = '\0';
        CU_ASSERT_EQUAL(load(bad[i], why, &s), ERR_FORMAT);
        CU_ASSERT(strlen(why) > 20);
        CU_ASSERT_EQUAL(memcmp(&s, &before, sizeof s), 0);
    }
    CU_ASSERT_EQUAL(load(GOOD, why, &s), ERR_NONE);
    CU_ASSERT_EQUAL(controller_settings_load("/absent.ini", &s, why, sizeof why), ERR_IO);
}

RUN_SUITE("controller settings", {"takes the packaged example", takes_the_packaged_example},
          {"documents every default", documents_every_default},
          {"refuses what it does not know", refuses_what_it_does_not_know})
