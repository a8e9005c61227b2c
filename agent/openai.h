/* openai.h: the model in the OpenAI HTTP form, on loopback.
 *
 *   POST /v1/completions, /v1/chat/completions   with "stream": true as server-sent events
 *   GET  /v1/models, /health
 *
 * Taken: prompt (a string), messages, max_tokens, max_completion_tokens, temperature, top_p, top_k, seed,
 * stop, logprobs, top_logprobs, stream, stream_options.include_usage, n = 1. Errors are
 * {"error": {"message", "type", "param", "code"}}. A full queue is 429 with Retry-After; no model is 503.
 * A client that hangs up ends its request.
 *
 * Runs in the agent's loop: libmicrohttpd starts no thread.
 */
#ifndef OPENAI_H
#define OPENAI_H

#include "agent/loop.h"
#include "agent/serve.h"
#include "agent/settings.h"

struct openai;

/* Listens, and writes the port to <state>/http.port. *port gets it.
 * Errors: ERR_IO (address in use, folder), ERR_MEMORY. */
NODISCARD enum err openai_open(struct loop *loop, const struct settings *settings, struct serve *serve,
                             struct openai **out, uint16_t *port);
/* Before serve_close: running answers are cut. NULL is allowed. */
void openai_close(struct openai *h);

#endif
