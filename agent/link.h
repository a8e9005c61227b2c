/* link.h: the agent on the wire: birth and will, questions, the outbox, acknowledgements, what comes down.
 *
 * The wire forgets; the store and the spool do not. On every connection the birth goes out, the newest plan is
 * asked for, and every report that is not acknowledged is sent again, in order; reports that the controller
 * stays silent about are sent again after a while. Only an acknowledgement, signed by the director, deletes.
 * Reports wait until the controller has said that this device is approved.
 */
#ifndef LINK_H
#define LINK_H

#include "agent/accept.h"
#include "agent/bench.h"
#include "agent/identity.h"
#include "agent/jobs.h"
#include "agent/spool.h"
#include "agent/telemetry.h"
#include "protocol/transport.h"

struct link_options {
    struct loop *loop;
    const struct settings *settings;
    const struct identity *identity;
    const struct accept_keys *keys;
    struct store *store;
    struct spool *spool;
};

struct link;

NODISCARD enum err link_open(const struct link_options *options, struct link **out);
void link_close(struct link *l); /* says good-bye; NULL is allowed */

/* The will of this connection, for transport_options: signed, in out. */
NODISCARD enum err link_will(const struct identity *identity, const char *fleet, uint64_t epoch, const char *reason,
                             uint8_t *out, size_t capacity, size_t *size);

/* Takes the transport (it closes it) and connects; the others answer what comes. birth: as probed. */
NODISCARD enum err link_start(struct link *l, const struct transport *transport, struct jobs *jobs,
                              struct bench *bench, struct telemetry *telemetry, struct message_birth *birth);

void link_posted(struct link *l);  /* reports or records wait */
void link_changed(struct link *l); /* a new birth is due */
void link_ask(struct link *l);     /* ask for the newest plan now */
/* Unix milliseconds by the controller's clock where it has answered, else by ours if it looks set, never
 * before anything that was known before; 0: unknown. */
uint64_t link_now_ms(const struct link *l);
/* Has the controller answered in this connection, lately? */
bool link_in_contact(const struct link *l);
bool link_is_approved(const struct link *l);

#endif
