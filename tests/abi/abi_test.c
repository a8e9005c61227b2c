/* abi_test.c: plugins built against older and newer headers of the same ABI. */
#include "tests/harness.h"

#include <string.h>

#include "hal/load.h"
#include "plugins/scalar/scalar.h"
#include "tests/abi/abi_v1.h"

/* The same list as in abi_v1.c, by the live header: nothing may have moved. */
static const size_t offsets[] = {offsetof(struct hal_plugin, abi),
                                 offsetof(struct hal_plugin, size),
                                 offsetof(struct hal_plugin, name),
                                 offsetof(struct hal_plugin, version),
                                 offsetof(struct hal_plugin, probe),
                                 offsetof(struct hal_plugin, open),
                                 offsetof(struct hal_plugin, close),
                                 offsetof(struct hal_plugin, mat_new),
                                 offsetof(struct hal_plugin, mat_free),
                                 offsetof(struct hal_plugin, mat_put),
                                 offsetof(struct hal_plugin, mat_get),
                                 offsetof(struct hal_plugin, matmul),
                                 offsetof(struct hal_plugin, embed),
                                 offsetof(struct hal_plugin, rmsnorm),
                                 offsetof(struct hal_plugin, layernorm),
                                 offsetof(struct hal_plugin, rope),
                                 offsetof(struct hal_plugin, store),
                                 offsetof(struct hal_plugin, attend),
                                 offsetof(struct hal_plugin, glu),
                                 offsetof(struct hal_plugin, add),
                                 offsetof(struct hal_plugin, scale),
                                 offsetof(struct hal_plugin, scatter),
                                 offsetof(struct hal_plugin, encode),
                                 offsetof(struct hal_plugin, decode),
                                 offsetof(struct hal_mat, mem),
                                 offsetof(struct hal_mat, type),
                                 offsetof(struct hal_mat, use),
                                 offsetof(struct hal_mat, rows),
                                 offsetof(struct hal_mat, cols),
                                 sizeof(struct hal_mat),
                                 offsetof(struct hal_caps, types),
                                 offsetof(struct hal_caps, device),
                                 offsetof(struct hal_caps, reason),
                                 sizeof(struct hal_caps),
                                 offsetof(struct hal_host, threads),
                                 offsetof(struct hal_host, path),
                                 sizeof(struct hal_span),
                                 offsetof(struct hal_attend, scale),
                                 offsetof(struct hal_attend, first),
                                 sizeof(struct hal_rope_shape)};

static void test_offsets(void)
{
    size_t count;
    const size_t *old = abi_v1_offsets(&count);
    CU_ASSERT_EQUAL_FATAL(count, sizeof offsets / sizeof offsets[0]);
    for (size_t i = 0; i < count; i++)
        CU_ASSERT_EQUAL(old[i], offsets[i]);
}

/* A plugin of the first release: taken, with what it has. */
static void test_old(void)
{
    struct hal_plugin plugin;
    char reason[LOAD_REASON_BYTES];
    CU_ASSERT_EQUAL(load_accept(abi_v1_table(), "old", &plugin, reason), ERR_NONE);
    CU_ASSERT_PTR_NOT_NULL(plugin.decode);
    CU_ASSERT_PTR_NULL(plugin.attend);
    struct hal_caps caps;
    CU_ASSERT_EQUAL(plugin.probe(NULL, &caps), ERR_NONE);
    CU_ASSERT_EQUAL(caps.score, 2);
}

/* A table that ends early: what it lacks is NULL; before matmul is a hole. */
static void test_shorter(void)
{
    struct hal_plugin plugin, table = scalar_plugin;
    char reason[LOAD_REASON_BYTES];
    table.size = offsetof(struct hal_plugin, embed);
    CU_ASSERT_EQUAL(load_accept(&table, "scalar", &plugin, reason), ERR_NONE);
    CU_ASSERT_PTR_EQUAL(plugin.matmul, scalar_plugin.matmul);
    CU_ASSERT_PTR_NULL(plugin.embed);
    CU_ASSERT_PTR_NULL(plugin.decode);
    table.size = offsetof(struct hal_plugin, encode);
    CU_ASSERT_EQUAL(load_accept(&table, "scalar", &plugin, reason), ERR_NONE);
    CU_ASSERT_PTR_NOT_NULL(plugin.scatter);
    CU_ASSERT_PTR_NULL(plugin.encode);
    table.size = offsetof(struct hal_plugin, matmul);
    CU_ASSERT_EQUAL(load_accept(&table, "scalar", &plugin, reason), ERR_FORMAT);
    table.size = 0;
    CU_ASSERT_EQUAL(load_accept(&table, "scalar", &plugin, reason), ERR_FORMAT);
}

/* A table of a later header: what we do not know is not looked at. */
static void test_longer(void)
{
    struct {
        struct hal_plugin known;
        void *later[8];
    } table;
    struct hal_plugin plugin;
    char reason[LOAD_REASON_BYTES];
    memset(&table, 0xd0, sizeof table);
    table.known = scalar_plugin;
    table.known.size = sizeof table;
    CU_ASSERT_EQUAL(load_accept(&table.known, "scalar", &plugin, reason), ERR_NONE);
    CU_ASSERT_PTR_EQUAL(plugin.decode, scalar_plugin.decode);
}

static void test_refusals(void)
{
    struct hal_plugin plugin, table = scalar_plugin;
    char reason[LOAD_REASON_BYTES];
    memset(&plugin, 0xd0, sizeof plugin);
    const struct hal_plugin untouched = plugin;
    table.abi = HAL_ABI + 1;
    CU_ASSERT_EQUAL(load_accept(&table, "scalar", &plugin, reason), ERR_VERSION);
    CU_ASSERT_PTR_NOT_NULL(strstr(reason, "speaks ABI 2"));
    table = scalar_plugin;
    CU_ASSERT_EQUAL(load_accept(&table, "vnni", &plugin, reason), ERR_FORMAT);
    CU_ASSERT_PTR_NOT_NULL(strstr(reason, "calls itself scalar"));
    table.name = "Sc alar";
    CU_ASSERT_EQUAL(load_accept(&table, "Sc alar", &plugin, reason), ERR_FORMAT);
    table.name = "abcdefghijklmnop";
    CU_ASSERT_EQUAL(load_accept(&table, "abcdefghijklmnop", &plugin, reason), ERR_FORMAT);
    CU_ASSERT_EQUAL(load_accept(NULL, "scalar", &plugin, reason), ERR_FORMAT);
    CU_ASSERT_EQUAL(memcmp(&plugin, &untouched, sizeof plugin), 0);
}

RUN_SUITE("abi", {"offsets", test_offsets}, {"old plugin", test_old}, {"shorter", test_shorter},
          {"longer", test_longer}, {"refusals", test_refusals})
