/* device_int8.h: loops that do nothing but 8-bit multiply-adds, for hal/ceiling.c. */
#ifndef DEVICE_INT8_H
#define DEVICE_INT8_H

#include "hal/device.h"

struct device_int8 {
    int32_t (*run)(uint32_t rounds); /* returns a sum, so that nothing is dropped */
    uint32_t products;               /* multiply-adds of one round */
};

/* The fastest loop for these enum device_feature bits. */
struct device_int8 device_int8_best(uint32_t features);

#endif
