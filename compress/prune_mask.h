/* prune_mask.h: unstructured masks: single weights become 0, by |w| or |w| * rms of the input
 * (arXiv:2306.11695), compared within a row. No file is smaller for it. */
#ifndef PRUNE_MASK_H
#define PRUNE_MASK_H

#include "compress/prune.h"

/* row [cols] in place, h [cols] second moments or NULL; scratch [cols]. Of equals the first goes. */
void prune_mask_row(const struct prune *p, const float *h, uint32_t cols, float *row, float *scratch);

#endif
