/* loop.h: the agent's one event loop: descriptors, timers and a clock that tests may turn by hand.
 *
 * Everything in the agent runs on the thread that calls loop_run; nothing here locks.
 */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"

struct loop;

/* A watched descriptor or a timer; owned by the caller, zero it before first use, delete it before
 * it goes away. Its callback may delete itself and any other. */
struct loop_watch {
    int fd;
    void (*call)(void *context, uint32_t events);
    void *context;
    bool active;
};

struct loop_timer {
    int64_t at_ms; /* loop_now_ms time at which it fires; it fires once */
    void (*call)(void *context);
    void *context;
    struct loop_timer *next;
    bool active;
};

NODISCARD enum err loop_open(struct loop **out);
void loop_close(struct loop *l);

/* Watches fd for epoll events (EPOLLIN, EPOLLOUT); the watch must be inactive. ERR_IO. */
NODISCARD enum err loop_add(struct loop *l, struct loop_watch *w, int fd, uint32_t events,
                            void (*call)(void *context, uint32_t events), void *context);
NODISCARD enum err loop_change(struct loop *l, struct loop_watch *w, uint32_t events);
void loop_delete(struct loop *l, struct loop_watch *w); /* an inactive watch is allowed */

/* (Re)arms a timer to fire once, delay_ms from now. */
void loop_set_timer(struct loop *l, struct loop_timer *t, int64_t delay_ms, void (*call)(void *context),
                    void *context);
void loop_clear_timer(struct loop *l, struct loop_timer *t);

/* Monotonic milliseconds: CLOCK_BOOTTIME, so sleep counts; or what loop_fake_clock set. */
int64_t loop_now_ms(const struct loop *l);
/* Wall-clock seconds; moves with the fake clock once one is set. */
int64_t loop_wall_s(const struct loop *l);
/* From now on time stands still until it is called again. For tests. */
void loop_fake_clock(struct loop *l, int64_t now_ms);

/* Waits for at most wait_ms (-1: until something happens), runs what is due. ERR_IO. */
NODISCARD enum err loop_once(struct loop *l, int wait_ms);
/* Runs until loop_stop. */
NODISCARD enum err loop_run(struct loop *l);
void loop_stop(struct loop *l);

/* A uniform number in [0, bound), for jitter. */
uint32_t loop_jitter(uint32_t bound);

#endif
