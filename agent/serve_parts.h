/* serve_parts.h: what serve.c (requests) and serve_server.c (the workers that answer them) share. */
#ifndef SERVE_PARTS_H
#define SERVE_PARTS_H

#include "agent/serve.h"
#include "agent/worker.h"

enum role { MAIN, TRIAL, OLD };

struct server {
    struct serve *s;
    struct server *next;
    enum role role;
    struct serve_model model;
    struct worker *worker;
    bool is_ready;
    struct serve_abilities abilities;
    uint32_t active;
    uint32_t crashes; /* in a row */
    struct loop_timer again;
    struct loop_timer drain;
};

struct serve_request {
    struct serve_request *next;
    struct server *server; /* NULL: waits */
    uint64_t id;
    struct serve_ask ask;
    void *copies[3];  /* input, stop, variables */
    uint32_t *tokens; /* answered so far */
    uint32_t made, capacity; /* tokens, or vectors */
    uint32_t crashes;
    bool is_sampled;
    uint64_t from_us, first_us, last_us;
};

struct serve {
    struct loop *loop;
    const struct settings *settings;
    struct serve_hooks hooks;
    struct server *servers;
    struct serve_request *requests; /* in order of arrival */
    uint64_t ids;
    double rate;
    bool is_draining;
};

uint64_t serve_now_us(void); /* monotonic */
struct server *serve_find(const struct serve *s, enum role role); /* NULL: none */
/* Where the next request goes: to the trial as soon as it is ready, else to main; NULL: nowhere yet. */
struct server *serve_target(const struct serve *s);
/* Requests that wait go to the target, as many as it takes. */
void serve_dispatch(struct serve *s);
/* The end of a request: telemetry, the gate of a trial, the asker. m: the worker's END, or NULL. */
void serve_finish(struct serve *s, struct serve_request *r, enum err error, const char *why, const struct wire *m);
/* Its requests wait again. */
void serve_server_close(struct server *v);

#endif
