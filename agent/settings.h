/* settings.h: what the operator says about one device: an INI file, documented in packaging/agent.ini.
 *
 * Unknown sections and keys, repeated keys and values out of range are refused with file and line.
 */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"

enum { SETTINGS_PATH = 512, SETTINGS_NAME = 128, SETTINGS_KEYS = 8 };

struct settings {
    /* [fleet] */
    char fleet[SETTINGS_NAME];
    char director_keys[SETTINGS_KEYS][SETTINGS_PATH]; /* files; at least one, or a root document */
    uint32_t director_key_count;
    char root[SETTINGS_PATH]; /* file of a root document (keys.h), or "" */
    /* [broker] */
    char broker_host[SETTINGS_NAME];
    uint32_t broker_port;
    char broker_ca[SETTINGS_PATH];
    char broker_cert[SETTINGS_PATH];
    char broker_key[SETTINGS_PATH];
    uint32_t keepalive_s;
    uint32_t reconnect_most_s; /* longest wait for the next attempt to connect */
    /* [controller] */
    char controller_url[SETTINGS_PATH]; /* of the artifact server, without a slash at the end */
    char controller_ca[SETTINGS_PATH];  /* for https; "" for the system's authorities */
    uint32_t poll_s;
    /* [agent] */
    char state[SETTINGS_PATH];
    uint64_t disk_bytes;   /* limit of fetched and derived files; 0: none but the disk guard */
    uint32_t trial_attempts;
    bool verbose;
    /* [engine] */
    char plugin[SETTINGS_NAME]; /* "" for the best one that passes its check */
    char path[SETTINGS_NAME];   /* code path to force, or "" */
    char plugin_folder[SETTINGS_PATH];
    char plugin_keys[SETTINGS_KEYS][SETTINGS_PATH]; /* further minisign public keys, files */
    uint32_t plugin_key_count;
    uint32_t threads;
    uint64_t memory_bytes; /* of one worker; 0: none */
    uint32_t hang_s;       /* a worker at work that is silent for so long is killed */
    /* [serve] */
    char listen_address[SETTINGS_NAME];
    uint32_t listen_port; /* 0: any free one, written to <state>/http.port */
    uint32_t sequences;   /* answered together */
    uint32_t context;     /* tokens of one of them, at most */
    uint32_t queue;       /* further requests that may wait */
    uint32_t keep;        /* texts that may rest in the cache beside those that run; 0: none is reused */
    uint64_t cache_bytes; /* of keys and values in memory; 0: all that the texts may need */
    uint64_t spill_bytes; /* of the file in state that texts at rest may go to; 0: none */
    /* [telemetry] */
    uint32_t telemetry_s;
    double shadow_rate;   /* of requests, 0..1 */
    double moments_rate;  /* of batches, 0..1 */
    uint32_t calibration_s; /* between two reports of second moments */
    uint64_t ring_bytes;
};

/* Reads and checks a file. On error out is untouched and why[] holds one line for the operator,
 * "file:line: what is wrong, what was expected". ERR_IO, ERR_FORMAT. */
NODISCARD enum err settings_load(const char *file, struct settings *out, char *why, uint32_t why_bytes);

#endif
