/* agent.h: the agent at one glance: processes, threads, arrows. No code.
 *
 *   tared                     one process, one thread of ours (Paho and libmicrohttpd bring none of ours in):
 *   |                         everything is a callback of loop.c, so nothing in it locks
 *   |- tared-worker (serve)   holds the committed variant, answers requests, watches activations
 *   |- tared-worker (trial)   the same for a variant on trial, beside the first
 *   '- tared-worker (task)    at most one: probe, fetch, verify, derive, self-test, benchmark or shadow
 *
 * Only workers load plugins, read models, parse what an artifact server sends. A worker that crashes,
 * hangs or eats memory costs a worker: worker.c kills it, its owner starts another after a back-off.
 *
 *   settings  identity            what the operator and this device say
 *        |       |
 *   tared.c ---- loop             start, signals, systemd
 *        |
 *   link ------- transport        birth, will, pull of the plan, outbox, acks, benchmark requests, commands
 *    | |
 *    | accept                     a signed plan against this device: a code for each refusal
 *    |
 *   jobs ------- task worker      the state machine of protocol/job.h, one transaction per step
 *    |
 *   slots                         two slots: what they hold, which one serves; which files may go
 *    |
 *   serve ------ serve, trial     HTTP in the OpenAI form, dispatch, retry on the surviving worker
 *    |
 *   telemetry -- task worker      sketches, memory, heat, energy, errors, shadow runs, calibration sums
 *    |
 *   store  spool                  LMDB: what must not be lost; what may be lost if it is known
 *
 * A fact travels in this order: store (durable) -> link (announced) -> controller's ack -> deleted.
 * kill -9 between any two leaves a state from which the next start goes on: jobs reads its record and
 * raises JOB_EVENT_RESTART, link sends what the outbox holds, workers have died with the agent.
 *
 * Files in the state folder: device.seed, db/ (store), tel/ (spool), blobs/<sha256> (bases, profiles,
 * texts; .part while fetching), variants/<sha256>.gguf, work/ (what is being derived), http.port.
 */
#ifndef AGENT_H
#define AGENT_H

#define AGENT_VERSION "0.1.0"
enum { AGENT_NUMBER = 0 * 1000000 + 1 * 1000 + 0 };

#endif
