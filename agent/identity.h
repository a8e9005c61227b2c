/* identity.h: who this device is: an Ed25519 key made at first start, and the id that follows from it. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include "protocol/err.h"
#include "protocol/keys.h"

struct identity {
    struct keys_secret key;
    char id[KEYS_ID_HEX]; /* the device id */
};

/* Loads <folder>/device.seed, 32 bytes, mode 0600, or makes it: written aside, synced, renamed, so that a
 * device never has half a key. The folder is made with mode 0700. A seed that others may read is refused.
 * Errors: ERR_IO, ERR_FORMAT (not 32 bytes), ERR_AUDIENCE (its mode), ERR_MEMORY. */
NODISCARD enum err identity_load(const char *folder, struct identity *out);
void identity_wipe(struct identity *i);

#endif
