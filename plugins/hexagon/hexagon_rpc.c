/* hexagon_rpc.c: the one door to FastRPC: the vendor's library by dlopen, own declarations, no SDK.
 */
#include "plugins/hexagon/hexagon.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum {
    DOMAIN_CDSP = 3,
    REQUEST_UNSIGNED = 2, /* of remote_session_control */
    REQUEST_DSP_INFO = 2, /* of remote_handle_control */
    ATTRIBUTE_PRESENT = 0,
    ATTRIBUTE_UNSIGNED = 1,
    ATTRIBUTE_HVX_128 = 3,
    ATTRIBUTE_ARCHITECTURE = 6
};

static const char module_uri[] =
    "file:///libtare_hexagon_skel.so?tare_hexagon_skel_handle_invoke&_modver=1.0&_dom=cdsp";

/* dlsym gives a data pointer; POSIX lets it stand for a function. */
static int find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static uint32_t ask(const struct hexagon_rpc *rpc, uint32_t attribute)
{
    struct {
        uint32_t domain, attribute, answer;
    } question = {DOMAIN_CDSP, attribute, 0};
    return rpc->handle_control(REQUEST_DSP_INFO, &question, sizeof question) == 0 ? question.answer
                                                                                  : 0;
}

enum err hexagon_rpc_open(struct hexagon_rpc *rpc, uint32_t *architecture, char reason[96])
{
    memset(rpc, 0, sizeof *rpc);
    rpc->library = dlopen("libcdsprpc.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!rpc->library)
        rpc->library = dlopen("libcdsprpc.so", RTLD_NOW | RTLD_LOCAL);
    if (!rpc->library) {
        snprintf(reason, 96, "no FastRPC library: %.70s", dlerror());
        return ERR_UNSUPPORTED;
    }
    if (!find(rpc->library, "remote_handle64_open", &rpc->open) ||
        !find(rpc->library, "remote_handle64_invoke", &rpc->invoke) ||
        !find(rpc->library, "remote_handle64_close", &rpc->close) ||
        !find(rpc->library, "remote_session_control", &rpc->session_control) ||
        !find(rpc->library, "remote_handle_control", &rpc->handle_control) ||
        !find(rpc->library, "rpcmem_alloc", &rpc->alloc) ||
        !find(rpc->library, "rpcmem_free", &rpc->release)) {
        snprintf(reason, 96, "the FastRPC library lacks a function");
        return ERR_UNSUPPORTED;
    }
    if (!ask(rpc, ATTRIBUTE_PRESENT) || !ask(rpc, ATTRIBUTE_UNSIGNED) ||
        !ask(rpc, ATTRIBUTE_HVX_128)) {
        snprintf(reason, 96, "no compute DSP with 128-byte HVX and unsigned modules answers");
        return ERR_UNSUPPORTED;
    }
    *architecture = ask(rpc, ATTRIBUTE_ARCHITECTURE) & 0xff;
    return ERR_NONE;
}

enum err hexagon_rpc_start(const struct hexagon_rpc *rpc, uint64_t *handle, char reason[96])
{
    struct {
        int32_t domain, enable;
    } unsigned_module = {DOMAIN_CDSP, 1};
    struct hexagon_info info = {0, 0, 0};
    int rc = rpc->session_control(REQUEST_UNSIGNED, &unsigned_module, sizeof unsigned_module);
    if (rc == 0)
        rc = rpc->open(module_uri, handle);
    if (rc != 0) {
        snprintf(reason, 96, "the DSP refused the module: 0x%x", (unsigned)rc);
        return ERR_DEVICE;
    }
    union hexagon_arg args[1] = {{.buffer = {&info, sizeof info}}};
    rc = rpc->invoke(*handle, HEXAGON_SCALARS(HEXAGON_INFO, 0, 1, 0, 0), args);
    if (rc == 0 && info.version == HEXAGON_VERSION && info.vector_bytes == 128)
        return ERR_NONE;
    snprintf(reason, 96, "the DSP's module is another one: 0x%x, version %u, vectors of %u",
             (unsigned)rc, info.version, info.vector_bytes);
    (void)rpc->close(*handle); /* nothing more can be done about a module that does not fit */
    return ERR_DEVICE;
}
