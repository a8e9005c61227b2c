/* sensitivity_kld.h: distributions of a base over some windows, kept, and how far a model is from them. */
#ifndef SENSITIVITY_KLD_H
#define SENSITIVITY_KLD_H

#include "compress/calibrate_windows.h"
#include "model/model.h"

struct sensitivity_kld;

/* Run the second half of each window and keep, per position, the 256 likeliest tokens and the rest as one.
 * Errors: ERR_MEMORY and those of model_step. */
NODISCARD enum err sensitivity_kld_open(struct model *base, const struct calibrate_windows *w,
                                        struct sensitivity_kld **out);
void sensitivity_kld_close(struct sensitivity_kld *k); /* NULL is allowed */

/* Mean KL(base || m) in nats over what is kept: a lower bound of the KLD over the vocabulary, within a few
 * per cent of it. */
NODISCARD enum err sensitivity_kld_of(const struct sensitivity_kld *k, struct model *m, double *out);

/* Options that a model must be opened with. */
struct model_options sensitivity_kld_model(const struct calibrate_windows *w);

#endif
