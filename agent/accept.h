/* accept.h: a signed plan against this device: the order of checks, and one code for each refusal.
 *
 * Nothing here changes anything: a refused plan leaves the device as it was. Checks, in this order:
 * form and signature by a director's key of the settings, role, type and fleet (JOB_REJECT_FORMAT,
 * _SIGNATURE, _AUDIENCE); critical fields (_CRITICAL); device (_AUDIENCE); version above the newest
 * accepted (_STALE); expiry (_EXPIRED); agent version (_VERSION); then what accept_judge looks at.
 */
#ifndef ACCEPT_H
#define ACCEPT_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/settings.h"
#include "protocol/job.h"
#include "protocol/message.h"

enum { ACCEPT_KEYS_MAX = SETTINGS_KEYS + 16 };

struct accept_keys {
    uint8_t director[ACCEPT_KEYS_MAX][32];
    uint32_t directors;
};

/* What the plan is held against. */
struct accept_device {
    const struct accept_keys *keys;
    const char *fleet;
    const char *device;
    uint64_t newest_plan; /* highest version accepted so far */
    uint64_t now_ms;      /* Unix; 0: unknown, expiry is then not checked */
    const struct message_birth *birth; /* of this start: plugins; NULL before the probe */
    const char *forced_plugin;         /* of the settings, or "" */
    uint64_t disk_free_bytes;          /* UINT64_MAX: unknown */
    uint32_t schema;                   /* of the plan's derivation (slots_setting); 0: not said */
};

/* Reads the minisign public key files of the settings, and the root document: it must be for this fleet, signed
 * as it itself asks, and not have expired at now_s (0: not judged); its director keys count too. On error why[]
 * names the file. */
NODISCARD enum err accept_load_keys(const struct settings *s, uint64_t now_s, struct accept_keys *out, char *why,
                                    uint32_t why_bytes);

/* Opens a director's envelope of the given type with whichever director key it claims; a view into bytes.
 * Errors: those of envelope_open. */
NODISCARD enum err accept_open(const struct accept_keys *keys, const char *fleet, uint32_t type,
                               const uint8_t *bytes, size_t size, const uint8_t **payload, size_t *payload_bytes);

/* Verifies an envelope and decodes the plan in it; plan->tensor and tensors_max are the caller's. JOB_OK, or
 * the code; plan->plan_id and version are valid for codes from JOB_REJECT_STALE on but _CRITICAL. */
uint32_t accept_verify(const struct accept_device *d, const uint8_t *bytes, size_t size, struct message_plan *plan);

/* Can this device do it? JOB_OK, a JOB_REJECT code, or JOB_DEFER_WINDOW; why in words. */
uint32_t accept_judge(const struct accept_device *d, const struct message_plan *plan, char *why,
                      uint32_t why_bytes);

#endif
