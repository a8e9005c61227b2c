/* bad_table.c: a plugin whose table is wrong in one way, chosen when it is built. */
#include "plugins/scalar/scalar.h"

__attribute__((visibility("default"))) hal_entry_fn hal_plugin_entry;

const struct hal_plugin *hal_plugin_entry(void)
{
    static struct hal_plugin plugin;
    plugin = scalar_plugin;
    plugin.name = BAD_NAME;
#ifdef BAD_VERSION
    plugin.abi = HAL_ABI + 1;
#endif
#ifdef BAD_HOLE
    plugin.mat_get = NULL;
#endif
    return &plugin;
}
