/* worker_parts.h: what the files of tared-worker share. A worker has one thread, which does one task, or
 * serves; it says what it does over the socket that it was born with, and dies with it.
 */
#ifndef WORKER_PARTS_H
#define WORKER_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/wire.h"
#include "hal/engine.h"
#include "protocol/err.h"

enum { WORKER_KEYS_MAX = 8, WORKER_NAME = 64, WORKER_FOLDER = 512, WORKER_WHY = 256 };

struct worker_self {
    struct wire_channel channel;
    uint64_t id; /* of the task */
    char plugin[WORKER_NAME], path[WORKER_NAME], folder[WORKER_FOLDER];
    char keys[WORKER_KEYS_MAX][128];
    const char *key[WORKER_KEYS_MAX];
    uint32_t key_count;
    uint32_t threads;
    uint64_t memory_bytes;
    int64_t beat_ms; /* when the last sign of life was given */
};

int64_t worker_self_ms(void); /* monotonic */

/* Says that there is progress, a few times a second at most. The process ends when the agent is gone. */
void worker_beat(struct worker_self *w, uint64_t done, uint64_t total);
void worker_reply(struct worker_self *w, const struct wire *m); /* the process ends when it cannot be sent */
void worker_fail(struct worker_self *w, enum err error, const char *why);

/* An engine as the settings, or the plan, want it. On error why is filled. */
NODISCARD enum err worker_engine(struct worker_self *w, const char *plugin, uint32_t threads, struct engine **out,
                                 char why[WORKER_WHY]);
void worker_log(int syslog_level, const char *message);
uint64_t worker_self_rss(void);  /* bytes resident now */

/* The tasks: each answers with DONE or FAILED. */
void worker_probe(struct worker_self *w);
void worker_fetch(struct worker_self *w, const struct wire *m);
void worker_verify(struct worker_self *w, const struct wire *m);
void worker_derive(struct worker_self *w, const struct wire *m);
void worker_selftest(struct worker_self *w, const struct wire *m);
void worker_bench(struct worker_self *w, const struct wire *m);
void worker_shadow(struct worker_self *w, const struct wire *m);
/* Returns when the agent has gone, or an error that FAILED has told. */
enum err worker_serve(struct worker_self *w, const struct wire *m);

#endif
