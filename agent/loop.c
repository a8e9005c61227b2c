/* loop.c: epoll with one timerfd-less timer list: epoll_wait's own timeout serves the nearest one. */
#include "agent/loop.h"

#include <errno.h>
#include <limits.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 32 };

struct loop {
    int epoll;
    bool stopping;
    bool fake;
    int64_t fake_ms;
    struct loop_timer *timers; /* ascending by at_ms */
    /* Events of the round in progress: loop_delete blanks the ones of a watch that goes away. */
    struct epoll_event events[EVENTS];
    int pending;
};

enum err loop_open(struct loop **out)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l)
        return ERR_MEMORY;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll < 0) {
        free(l);
        return ERR_IO;
    }
    *out = l;
    return ERR_NONE;
}

void loop_close(struct loop *l)
{
    if (!l)
        return;
    close(l->epoll);
    free(l);
}

enum err loop_add(struct loop *l, struct loop_watch *w, int fd, uint32_t events,
                  void (*call)(void *context, uint32_t events), void *context)
{
    if (w->active || fd < 0)
        return ERR_ARGUMENT;
    struct epoll_event e = {.events = events, .data.ptr = w};
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &e) != 0)
        return ERR_IO;
    *w = (struct loop_watch){.fd = fd, .call = call, .context = context, .active = true};
    return ERR_NONE;
}

enum err loop_change(struct loop *l, struct loop_watch *w, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = w};
    return epoll_ctl(l->epoll, EPOLL_CTL_MOD, w->fd, &e) == 0 ? ERR_NONE : ERR_IO;
}

void loop_delete(struct loop *l, struct loop_watch *w)
{
    if (!w->active)
        return;
    w->active = false;
    epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL);
    for (int i = 0; i < l->pending; i++)
        if (l->events[i].data.ptr == w)
            l->events[i].data.ptr = NULL;
}

void loop_clear_timer(struct loop *l, struct loop_timer *t)
{
    if (!t->active)
        return;
    t->active = false;
    for (struct loop_timer **p = &l->timers; *p; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            return;
        }
}

void loop_set_timer(struct loop *l, struct loop_timer *t, int64_t delay_ms, void (*call)(void *context),
                    void *context)
{
    loop_clear_timer(l, t);
    *t = (struct loop_timer){
        .at_ms = loop_now_ms(l) + (delay_ms > 0 ? delay_ms : 0), .call = call, .context = context, .active = true};
    struct loop_timer **p = &l->timers;
    while (*p && (*p)->at_ms <= t->at_ms)
        p = &(*p)->next;
    t->next = *p;
    *p = t;
}

int64_t loop_now_ms(const struct loop *l)
{
    if (l->fake)
        return l->fake_ms;
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t loop_wall_s(const struct loop *l)
{
    return l->fake ? l->fake_ms / 1000 : (int64_t)time(NULL);
}

void loop_fake_clock(struct loop *l, int64_t now_ms)
{
    l->fake = true;
    l->fake_ms = now_ms;
}

static void run_timers(struct loop *l)
{
    /* A timer that a callback arms anew for "now" waits for the next round, or descriptors starve. */
    int64_t now = loop_now_ms(l);
    struct loop_timer *due = l->timers;
    int rounds = 0;
    while (due && due->at_ms <= now && !l->stopping && rounds++ < 64) {
        l->timers = due->next;
        due->active = false;
        due->call(due->context);
        due = l->timers;
    }
}

enum err loop_once(struct loop *l, int wait_ms)
{
    if (l->timers) {
        int64_t left = l->timers->at_ms - loop_now_ms(l);
        if (left < 0)
            left = 0;
        if (!l->fake && (wait_ms < 0 || left < wait_ms))
            wait_ms = left > INT_MAX ? INT_MAX : (int)left;
        if (l->fake && left == 0)
            wait_ms = 0;
    }
    int n = epoll_wait(l->epoll, l->events, EVENTS, wait_ms);
    if (n < 0 && errno != EINTR)
        return ERR_IO;
    l->pending = n > 0 ? n : 0;
    for (int i = 0; i < l->pending; i++) {
        struct loop_watch *w = l->events[i].data.ptr;
        if (w && w->active)
            w->call(w->context, l->events[i].events);
    }
    l->pending = 0;
    run_timers(l);
    return ERR_NONE;
}

enum err loop_run(struct loop *l)
{
    l->stopping = false;
    while (!l->stopping) {
        enum err e = loop_once(l, -1);
        if (e)
            return e;
    }
    return ERR_NONE;
}

void loop_stop(struct loop *l)
{
    l->stopping = true;
}

uint32_t loop_jitter(uint32_t bound)
{
    return bound ? randombytes_uniform(bound) : 0;
}
