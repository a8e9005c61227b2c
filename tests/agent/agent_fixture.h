/* agent_fixture.h: a scratch state folder, settings, a director's key and signed plans for the agent's tests. */
#ifndef AGENT_FIXTURE_H
#define AGENT_FIXTURE_H

#include "agent/accept.h"
#include "agent/identity.h"
#include "agent/loop.h"
#include "agent/settings.h"
#include "protocol/message.h"

struct fixture {
    char folder[256];
    struct settings settings;
    struct identity identity;
    struct keys_secret director;
    struct accept_keys keys;
    struct loop *loop;
};

/* A new empty folder below /tmp and all that belongs to it; the stub is the worker. */
void fixture_open(struct fixture *f);
void fixture_close(struct fixture *f); /* deletes the folder */

/* A link to the file in the folder, so that what is kept beside it goes with the folder: its path. */
const char *fixture_link(struct fixture *f, const char *file);

/* A plan that the fixture's device accepts: base of 7 bytes, text of 3, gates KLD 0.05, variant 0x44.. of 5. */
void fixture_plan(const struct fixture *f, uint64_t version, struct message_plan *out);
/* Signs anything as the director. */
size_t fixture_sign(const struct fixture *f, uint32_t type, const uint8_t *payload, size_t bytes, uint8_t *out,
                    size_t capacity);
size_t fixture_sign_plan(const struct fixture *f, const struct message_plan *plan, uint8_t *out, size_t capacity);

/* Turns the loop until done() or the time is over; true: done. */
bool fixture_wait(struct fixture *f, int ms, bool (*done)(void *context), void *context);

#endif
