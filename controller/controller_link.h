/* controller_link.h: the controller's connection: what comes up is handed to ingest in batches, what
 * goes down is signed by the director and published after the commit that decided it.
 */
#ifndef CONTROLLER_LINK_H
#define CONTROLLER_LINK_H

#include "controller/controller.h"
#include "protocol/transport.h"

/* Messages decided within one transaction: sent when it was committed, dropped when it was not. All of
 * them are hints or can be asked for again, so a crash between commit and publish loses nothing. */
struct posts;
NODISCARD enum err posts_open(struct posts **out);
void posts_close(struct posts *p); /* NULL is allowed */
/* Queue bytes for a device under a kind of topic.h. Copies. Errors: ERR_MEMORY, ERR_ARGUMENT. */
NODISCARD enum err posts_add(struct posts *p, const char *fleet, const char *device, uint32_t kind,
                             const uint8_t *bytes, size_t size);
/* Sign a payload as director and queue it. */
NODISCARD enum err posts_add_signed(struct posts *p, const struct controller *c, const char *device,
                                    uint32_t kind, uint32_t type, const uint8_t *payload,
                                    size_t size);
/* Move all of from behind what is in to. */
void posts_move(struct posts *to, struct posts *from);
size_t posts_count(const struct posts *p);
/* The i-th one, for tests. */
const uint8_t *posts_get(const struct posts *p, size_t i, const char **topic, size_t *size);

/* Takes the transport (closes it with the link). */
NODISCARD enum err controller_link_open(struct controller *c, const struct transport *transport,
                                        struct controller_link **out);
void controller_link_close(struct controller_link *l); /* NULL is allowed */
int controller_link_fd(const struct controller_link *l);

/* Move p's messages into the link's queue, which it empties as the transport takes them. The oldest are
 * dropped beyond a bound. p is empty afterwards. l NULL: they are dropped. */
void controller_link_send(struct controller_link *l, struct posts *p);

/* Receive and publish what can be done now. *wait_ms: call again after at most so long. */
void controller_link_pump(struct controller_link *l, int *wait_ms);

#endif
