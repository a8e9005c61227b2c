/* controller_settings.h: /etc/tare/controller.ini.
 *
 * Every key is documented in packaging/controller.ini. Unknown sections and keys, keys given twice and
 * values out of range are refused with FILE:LINE.
 */
#ifndef CONTROLLER_SETTINGS_H
#define CONTROLLER_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"

enum { CONTROLLER_PATH = 512, CONTROLLER_NAME = 128 };

struct controller_settings {
    /* [fleet] */
    char fleet[CONTROLLER_NAME];
    char director_key[CONTROLLER_PATH]; /* minisign secret key; made at first start when absent */
    /* [controller] */
    char state[CONTROLLER_PATH];  /* folder: registry, artifacts, work */
    char name[CONTROLLER_NAME];   /* of this controller in topics and the client id */
    uint32_t map_mib;             /* first size of the registry's map */
    bool is_verbose;
    uint32_t plan_days;           /* a plan expires this long after it was signed */
    uint32_t threads;             /* of the process that derives expected variants; 0: all cores */
    /* [broker] */
    char broker_host[CONTROLLER_NAME];
    uint32_t broker_port;
    bool broker_tls;
    char broker_ca[CONTROLLER_PATH];
    char broker_cert[CONTROLLER_PATH];
    char broker_key[CONTROLLER_PATH];
    uint32_t keepalive_s;
    /* [http] */
    char http_address[CONTROLLER_NAME];
    uint32_t http_port;              /* 0: any free one; the chosen one is in <state>/http.port */
    char token_file[CONTROLLER_PATH]; /* bearer token; made at first start when absent */
    char web[CONTROLLER_PATH];        /* dashboard files */
    char chart_js[CONTROLLER_PATH];   /* chart.min.js of Chart.js 3 */
    /* [artifacts] */
    char artifact_address[CONTROLLER_NAME];
    uint32_t artifact_port; /* 0: any free one; the chosen one is in <state>/artifact.port */
    /* [telemetry] */
    uint64_t telemetry_records; /* kept per device; older ones are dropped */
    uint32_t watch_batch_s;      /* told to devices with each plan; 0: the agent's own setting */
    uint32_t watch_shadow_every;
    uint32_t watch_tokens;
    /* [calibration] */
    bool is_drift_on;
    double drift_limit;        /* score above which a recompression is planned */
    double drift_rearm;        /* and below which the rule is armed again */
    double shadow_kld_limit;   /* mean KLD of shadow evaluation, nats; 0: not watched */
    uint32_t drift_confirm;    /* reports in a row that must be above the limit */
    double drift_rows;         /* rows of activations that a cohort must have seen */
    uint32_t drift_interval_s; /* at most one recompression of a cohort in this time */
    double drift_blend;        /* share of the fleet's statistics in the new profile, the rest is the old */
};

/* Read and check. On error *out is untouched and why holds one line for the operator.
 * Errors: ERR_IO, ERR_FORMAT. */
NODISCARD enum err controller_settings_load(const char *file, struct controller_settings *out,
                                            char *why, uint32_t why_bytes);

#endif
