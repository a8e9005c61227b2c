/* openai_parts.h: what openai.c (connections), openai_call.c (requests for answers and vectors) and openai_route.c
 * (addresses) share.
 */
#ifndef OPENAI_PARTS_H
#define OPENAI_PARTS_H

#include <microhttpd.h>

#include "agent/openai.h"
#include "agent/openai_json.h"

struct openai {
    struct loop *loop;
    const struct settings *settings;
    struct serve *serve;
    struct MHD_Daemon *daemon;
    struct loop_watch watch;
    struct loop_timer timer;
    struct call *calls;
    bool is_running; /* inside MHD_run */
    bool is_due;
};

/* One HTTP request. It belongs to MHD's connection: on_completed frees it. */
struct call {
    struct openai *h;
    struct call *next;
    struct MHD_Connection *connection;
    struct loop_watch hangup;
    bool is_suspended;
    bool is_gone; /* the client hung up */
    char *body;
    size_t body_bytes, body_capacity;
    struct openai_ask ask;
    struct openai_answer answer;
    struct serve_request *request; /* runs */
    char id[48], model[32];
    /* What came so far. */
    char *text; /* a stream: events not sent yet; else the answer's text, or the vectors' JSON */
    size_t text_bytes, text_capacity, text_sent;
    json_t *logprobs;
    bool has_token, has_ended;
    struct openai_problem problem; /* status 0: none */
    uint32_t reason, vectors;
    struct serve_usage usage;
};

void openai_suspend(struct call *c);
void openai_resume(struct call *c);

/* ---- openai_call.c ---- */
enum MHD_Result openai_send_text(struct call *c, unsigned status, char *text); /* JSON, taken */
enum MHD_Result openai_send_problem(struct call *c);
enum MHD_Result openai_refuse(struct call *c, unsigned status, const char *code, const char *message);
/* The body is whole: the request goes to serve. */
enum MHD_Result openai_begin(struct call *c, enum openai_kind kind);
/* After a resume: more of a stream, or the answer. */
enum MHD_Result openai_go_on(struct call *c);
void openai_call_close(struct call *c); /* what a call holds; not the call */

/* ---- openai_route.c ---- */
/* Answers, or (kind set) wants openai_begin. */
enum MHD_Result openai_route(struct call *c, const char *url, const char *method, enum openai_kind *kind);
void openai_name_model(struct call *c);

#endif
