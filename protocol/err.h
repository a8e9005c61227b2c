/* err.h: every way a call can fail, numbered for the wire.
 *
 * Reports and HTTP answers carry these numbers, so a value is never reused or renumbered.
 */
#ifndef ERR_H
#define ERR_H

enum err {
    ERR_NONE = 0,
    ERR_ARGUMENT = 1,    /* the caller broke the contract: shape, range, NULL */
    ERR_MEMORY = 2,      /* an allocation was refused, or a budget would be exceeded */
    ERR_IO = 3,          /* file, socket or database; errno says more */
    ERR_NOT_FOUND = 4,   /* no such key, file, symbol, digest or device */
    ERR_FORMAT = 5,      /* the bytes do not parse */
    ERR_SIGNATURE = 6,   /* the bytes parse, the signature does not verify */
    ERR_STALE = 7,       /* valid, but not newer than what we hold: a replay */
    ERR_VERSION = 8,     /* another ABI or protocol version than ours */
    ERR_UNSUPPORTED = 9, /* this machine, model or plugin cannot do it */
    ERR_DEVICE = 10,     /* the accelerator failed or timed out */
    ERR_MISMATCH =
        11,           /* computed and expected differ: plugin against scalar, digest against plan */
    ERR_FULL = 12,    /* a bounded queue or store is full */
    ERR_EXPIRED = 13, /* not_after has passed, or not_before has not come */
    ERR_AUDIENCE = 14,         /* valid, but for another device, fleet, role or type */
    ERR_GATE = 15,             /* a measured value missed its limit */
    ERR_TIMEOUT = 16,          /* no answer in time */
    ERR_CANCELLED = 17,        /* the caller or the controller withdrew the work */
    ERR_CRASHED = 18,          /* the worker or a checked plugin died */
    ERR_FORCE_INT = 0x7fffffff /* 32 bits, even under -fshort-enums */
};

/* "ERR_STALE" and so on; "ERR_?" for a number this build does not know. Never NULL. Any thread. */
const char *err_name(enum err e);

#define NODISCARD __attribute__((warn_unused_result))

#endif
