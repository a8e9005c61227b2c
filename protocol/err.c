/* err.c: the names of the errors. */
#include "protocol/err.h"

const char *err_name(enum err e)
{
    switch (e) {
    case ERR_NONE: return "ERR_NONE";
    case ERR_ARGUMENT: return "ERR_ARGUMENT";
    case ERR_MEMORY: return "ERR_MEMORY";
    case ERR_IO: return "ERR_IO";
    case ERR_NOT_FOUND: return "ERR_NOT_FOUND";
    case ERR_FORMAT: return "ERR_FORMAT";
    case ERR_SIGNATURE: return "ERR_SIGNATURE";
    case ERR_STALE: return "ERR_STALE";
    case ERR_VERSION: return "ERR_VERSION";
    case ERR_UNSUPPORTED: return "ERR_UNSUPPORTED";
    case ERR_DEVICE: return "ERR_DEVICE";
    case ERR_MISMATCH: return "ERR_MISMATCH";
    case ERR_FULL: return "ERR_FULL";
    case ERR_EXPIRED: return "ERR_EXPIRED";
    case ERR_AUDIENCE: return "ERR_AUDIENCE";
    case ERR_GATE: return "ERR_GATE";
    case ERR_TIMEOUT: return "ERR_TIMEOUT";
    case ERR_CANCELLED: return "ERR_CANCELLED";
    case ERR_CRASHED: return "ERR_CRASHED";
    case ERR_FORCE_INT: break;
    }
    return "ERR_?";
}
