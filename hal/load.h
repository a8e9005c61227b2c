/* load.h: from a file to a table of operations, or a reason why not.
 *
 * The order: open without following links, a regular file of at most LOAD_BYTES_MAX, copied to a
 * memfd and sealed, its minisign signature (<file>.minisign) verified on those bytes, dlopen with
 * RTLD_NOW | RTLD_LOCAL, the one entry called, ABI compared, min(size) copied, holes in the
 * required part refused, the name compared with the file's. Nothing is ever unloaded, and the memfd
 * stays open: glibc recognises a library by its path string.
 */
#ifndef LOAD_H
#define LOAD_H

#include "hal/hal.h"

enum { LOAD_BYTES_MAX = 64 << 20, LOAD_REASON_BYTES = 200 };

struct load_options {
    const char *const *keys; /* minisign public keys beside the built-in one; NULL: none */
    uint32_t key_count;
    int is_root_owned; /* 1: the folder and the file must be root's and writable by nobody else */
};

/* Load the plugin in path ("/usr/lib/tare/plugins/vnni.so").
 *   out     the table, fields that the plugin is too old to have are NULL
 *   reason  LOAD_REASON_BYTES, words for people; "" on success
 * Errors: ERR_NOT_FOUND, ERR_IO, ERR_FORMAT, ERR_SIGNATURE, ERR_VERSION. Any thread.
 * options NULL: the built-in key, no ownership rule. */
NODISCARD enum err load_plugin(const char *path, const struct load_options *options,
                               struct hal_plugin *out, char *reason);

/* Accept a table: ABI, copy of min(size), holes, name. What load_plugin does after dlsym, for
 * linked-in tables and tests. name: what the table must call itself. */
NODISCARD enum err load_accept(const struct hal_plugin *table, const char *name,
                               struct hal_plugin *out, char *reason);

/* The minisign public key that this build signs its plugins with (base64 line), "" when it has
 * none. */
const char *load_key(void);

/* The folder that this program takes plugins from when it is told none: lib/tare/plugins beside the
 * program's own folder. out: bytes. Errors: ERR_IO, ERR_ARGUMENT (too long). */
NODISCARD enum err load_folder(char *out, size_t bytes);

/* 1: this program runs from where it was installed (not from a build tree), so that its plugins
 * must be root's. */
int load_is_installed(void);

#endif
