/* The probe on this processor, or on an emulated one: vnni_probe_test [PATH|none], the best path that is
 * expected. Nothing beyond the baseline may run when none is. */
#include "tests/harness.h"
#include "tests/plugins/vnni_fixture.h"

#include <string.h>

static const char *expected;

static void the_best_path_is_chosen(void)
{
    struct hal_caps caps;
    const enum err e = hal_plugin_entry()->probe(NULL, &caps);
    printf("%s %s ", caps.device, e == ERR_NONE ? caps.path : caps.reason);
    if (expected != NULL && strcmp(expected, "none") != 0)
        CU_ASSERT(e == ERR_NONE && strcmp(caps.path, expected) == 0);
    if (expected != NULL && strcmp(expected, "none") == 0)
        CU_ASSERT(e == ERR_UNSUPPORTED);
    if (e == ERR_NONE) {
        CU_ASSERT(caps.score >= 100 && caps.score < 200 && caps.paths >= 1);
        CU_ASSERT((caps.types >> HAL_Q4_K & 1u) == 1);
        return;
    }
    CU_ASSERT(e == ERR_UNSUPPORTED && caps.score == 0 && caps.reason[0] != '\0');
}

static void only_paths_of_this_machine_open(void)
{
    static const char *const names[] = {"avx2", "avxvnni", "avx512-vnni", "amx-int8", "sse9", ""};
    const struct hal_plugin *plugin = hal_plugin_entry();
    uint32_t paths = 0;
    struct hal_caps best;
    const enum err any = plugin->probe(NULL, &best);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct hal_caps caps;
        struct vnni_fixture f;
        const int probed = plugin->probe(names[i], &caps) == ERR_NONE;
        CU_ASSERT(vnni_fixture_open(&f, names[i], 1) == probed);
        CU_ASSERT(probed || caps.reason[0] != '\0');
        vnni_fixture_close(&f);
        paths += (uint32_t)probed;
    }
    CU_ASSERT(paths == (any == ERR_NONE ? best.paths : 0));
    CU_ASSERT(vnni_fixture_bytes() == 0);
}

/* What serves a token is the plugin's own: nothing of scalar's is left in the table. */
static void no_operation_is_borrowed(void)
{
    const struct hal_plugin *p = hal_plugin_entry(), *s = &scalar_plugin;
    CU_ASSERT(p->matmul != s->matmul && p->embed != s->embed && p->copy != s->copy);
    CU_ASSERT(p->rmsnorm != s->rmsnorm && p->layernorm != s->layernorm && p->rope != s->rope);
    CU_ASSERT(p->store != s->store && p->attend != s->attend && p->glu != s->glu);
    CU_ASSERT(p->add != s->add && p->scale != s->scale && p->scatter != s->scatter);
    CU_ASSERT(p->encode != s->encode && p->decode != s->decode);
}

int main(int argc, char **argv)
{
    expected = argc > 1 ? argv[1] : NULL;
    CU_TestInfo tests[] = {{"the best path is chosen", the_best_path_is_chosen},
                           {"only paths of this machine open", only_paths_of_this_machine_open},
                           {"no operation is borrowed", no_operation_is_borrowed},
                           CU_TEST_INFO_NULL};
    return harness_run("vnni_probe", tests);
}
