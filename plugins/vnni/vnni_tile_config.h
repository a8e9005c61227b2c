/* vnni_tile_config.h: how the tile registers of AMX are set up. For kernel files with AMX only. */
#ifndef VNNI_TILE_CONFIG_H
#define VNNI_TILE_CONFIG_H

#include <stdint.h>

struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Eight tiles of 16 rows x 64 bytes. */
static const struct tile_config tile_config_full = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* The whole struct is named as input: the intrinsic of gcc 12 names its first bytes only. */
static inline void tile_config_load(const struct tile_config *config)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*config));
}

#endif
