/* openai.h: the model in the OpenAI HTTP form, on loopback.
 *
 *   POST /v1/completions, /v1/chat/completions   with "stream": true as server-sent events
 *   POST /v1/embeddings
 *   GET  /v1/models, /v1/models/ID, /health
 *
 * Taken: model (the ID that /v1/models gives, its whole digest, or "default"), prompt (a string or tokens), messages,
 * chat_template_kwargs (variables of the template, such as enable_thinking),
 * max_tokens, max_completion_tokens, temperature, top_p, top_k, seed, stop, logprobs, top_logprobs, stream,
 * stream_options.include_usage, n = 1; of embeddings: input (strings or tokens), encoding_format, dimensions (the
 * first so many values, normalised again). Unknown fields are passed over; known ones that would change the answer
 * and are not supported (tools, penalties, logit_bias, JSON mode, echo, suffix) are refused.
 *
 * Errors are {"error": {"message", "type", "param", "code"}}: 400, also what the model's chat template refuses; 404
 * of an address, or model_not_found; 405; 413 of a body over 1 MiB; 429 of a full queue and 503 without a model, both
 * with Retry-After; 500, also of a chat template that cannot be used. A client that hangs up ends its request.
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
