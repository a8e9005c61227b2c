/* fallback.h: an engine for a plugin that leaves operations out. */
#ifndef FALLBACK_H
#define FALLBACK_H

#include "hal/hal.h"

/* Number of operations after matmul, in the order of struct hal_plugin: embed 0 ... copy 12, top 13. */
enum { FALLBACK_OPS = 14 };

/* Name of operation i after matmul, i < FALLBACK_OPS: "embed". */
const char *fallback_name(uint32_t i);

/* Bit i: the plugin lacks operation i after matmul. */
uint32_t fallback_missing(const struct hal_plugin *plugin);

/* Wrap an opened plugin: ops gets functions that pass on what the plugin has and do the rest with
 * scalar on copies in host memory; dev gets what to call them with, and owns plugin_dev from then
 * on. Operations done here allocate from host and may fail with ERR_MEMORY. embed of a weight needs
 * the plugin's mat_get. Errors: ERR_MEMORY (plugin_dev stays the caller's). */
NODISCARD enum err fallback_open(const struct hal_plugin *plugin, void *plugin_dev,
                                 const struct hal_host *host, struct hal_plugin *ops, void **dev);

/* A plugin for the CPU, opened, for what an accelerator does on host memory (encode, decode): where it is
 * sooner than the accelerator's own, by hal/split.h, and in scalar's place. dev is what fallback_open gave
 * and owns helper_dev from then on. helper has encode and decode. */
void fallback_help(void *dev, const struct hal_plugin *helper, void *helper_dev);

#endif
