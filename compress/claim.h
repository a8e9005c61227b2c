/* claim.h: who writes OUT. Two runs on one name would write the same OUT.part, OUT.work and the rest at once.
 *
 * A claim is a kernel's lock (flock) on OUT.lock: it ends with the process, whatever ends it. The file is removed
 * when the claim is dropped; a killed run leaves it, empty, and the next one takes it.
 */
#ifndef CLAIM_H
#define CLAIM_H

#include "compress/fault.h"

struct claim;

/* Claim out_path, waiting for so long at most where another holds it. Two claims of one process are two.
 * Errors: ERR_IO (another run writes it; OUT.lock cannot be made), ERR_ARGUMENT (the path is too long), ERR_MEMORY. */
NODISCARD enum err claim_take(const char *out_path, unsigned wait_ms, struct claim **out, struct fault *f);
void claim_drop(struct claim *c); /* NULL is allowed */

/* OUT.lock; lives as long as the claim. */
const char *claim_path(const struct claim *c);

#endif
