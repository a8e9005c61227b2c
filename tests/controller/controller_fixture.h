/* controller_fixture.h: a controller in a scratch folder, and devices that speak to it without a broker. */
#ifndef CONTROLLER_FIXTURE_H
#define CONTROLLER_FIXTURE_H

#include "controller/controller.h"
#include "controller/controller_link.h"
#include "controller/doc.h"
#include "controller/ingest.h"
#include "protocol/envelope.h"
#include "protocol/job.h"
#include "protocol/keys.h"
#include "protocol/message.h"
#include "protocol/topic.h"
#include "tests/harness.h"

#define FIXTURE_FLEET "test"

struct fixture {
    char folder[64];
    struct controller_settings settings;
    struct controller *c;
    struct posts *posts; /* what the controller has sent since fixture_forget */
    int64_t now_ms;
};

struct fixture_device {
    struct keys_secret keys;
    char id[KEYS_ID_HEX];
    uint64_t epoch;
    uint64_t seq[MESSAGE_STREAMS];
};

void fixture_open(struct fixture *f);
void fixture_reopen(struct fixture *f); /* as after kill -9: only what was committed is left */
void fixture_close(struct fixture *f);  /* removes the folder */
void fixture_forget(struct fixture *f);

void fixture_device(struct fixture_device *d, uint8_t number);
/* Sign a payload as the device and hand it to ingest as one batch; what became of it. */
enum err fixture_say(struct fixture *f, const struct fixture_device *d, uint32_t kind, uint32_t type,
                     const uint8_t *payload, size_t size);
/* The raw form: any topic, any bytes. */
enum err fixture_raw(struct fixture *f, const char *topic, bool is_retained, const uint8_t *bytes,
                     size_t size);
enum err fixture_birth(struct fixture *f, struct fixture_device *d, const char *name);
enum err fixture_job(struct fixture *f, struct fixture_device *d, const struct message_plan *plan,
                     uint32_t state, uint32_t code, const uint8_t variant[32]);
/* count events from first on. */
enum err fixture_batch(struct fixture *f, const struct fixture_device *d, uint64_t first,
                       uint32_t count);
void fixture_approve(struct fixture *f, const struct fixture_device *d);

/* The newest post of a kind for a device, opened with the director's key; false when there is none. The
 * payload lives as long as the posts. */
bool fixture_post(const struct fixture *f, const char *device, uint32_t kind, uint32_t type,
                  struct envelope *out);
/* The newest ack's seq of a stream; 0 when there is none. */
uint64_t fixture_acked(const struct fixture *f, const struct fixture_device *d, uint32_t stream);

/* A document of the registry (the caller's), NULL when absent. */
json_t *fixture_doc(const struct fixture *f, enum registry_table table, const char *key);
size_t fixture_count(const struct fixture *f, enum registry_table table);

#endif
