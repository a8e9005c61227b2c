/* quantise_file.h: the file side of quantise.c: header, digest that follows the writing, checkpoint. */
#ifndef QUANTISE_FILE_H
#define QUANTISE_FILE_H

#include "compress/digest.h"
#include "compress/plan.h"
#include "model/gguf.h"

struct quantise_file;

/* Open OUT.part for a plan; is resumed from OUT.state when that is of the same plan, base and options
 * (identity says so). done gets how many tensors are there already. Errors: ERR_IO, ERR_MEMORY. */
NODISCARD enum err quantise_file_open(const char *out_path, const struct plan *plan,
                                      const struct gguf *base, const char identity[DIGEST_HEX],
                                      struct quantise_file **out, uint32_t *done, struct fault *f);

NODISCARD enum err quantise_file_append(struct quantise_file *q, const void *data, size_t bytes);

/* tensors are complete: remembered durably, at once when is_due, else when enough has been written since the
 * last time. */
NODISCARD enum err quantise_file_checkpoint(struct quantise_file *q, uint32_t tensors, bool is_due);

/* The plan came with DIGEST_LATER for its base: this is it. To be called before finish; until then nothing is hashed. */
NODISCARD enum err quantise_file_base(struct quantise_file *q, const char sha256[DIGEST_HEX]);

/* Wait for the digest of everything; expected is "" or what it must be.
 * Errors: ERR_MISMATCH (kept as OUT.refused), ERR_IO. */
NODISCARD enum err quantise_file_finish(struct quantise_file *q, const char *expected,
                                        char sha256[DIGEST_HEX], uint64_t *bytes, struct fault *f);

/* Put what is finished in place. Errors: ERR_IO. */
NODISCARD enum err quantise_file_commit(struct quantise_file *q, struct fault *f);

/* Or keep it as OUT.refused; the run is then over too. */
void quantise_file_refuse(struct quantise_file *q);

/* OUT.part, where the file lies until then. */
const char *quantise_file_part(const struct quantise_file *q);

/* What close leaves: nothing is open; a part that no state tells of; a part with its state; OUT.refused. */
enum quantise_file_left { QUANTISE_FILE_NONE, QUANTISE_FILE_PART, QUANTISE_FILE_STATE, QUANTISE_FILE_REFUSED };
enum quantise_file_left quantise_file_left(const struct quantise_file *q); /* NULL is allowed */

/* Which file failed last and why, one line; "" if none did. */
const char *quantise_file_reason(const struct quantise_file *q);

/* Remove all that lies beside out_path but a pruned base. */
void quantise_file_discard(const char *out_path);

/* Without commit the part and its state are left for a later run. NULL is allowed. */
void quantise_file_close(struct quantise_file *q);

#endif
