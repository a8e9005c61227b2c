/* load.c: the eleven steps from a file to a table, in the order of load.h. */
#include "hal/load.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "generated/plugin_key.h"
#include "protocol/minisign.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

__attribute__((format(printf, 3, 4))) static enum err refuse(char *reason, enum err e,
                                                             const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, LOAD_REASON_BYTES, format, arguments);
    va_end(arguments);
    return e;
}

const char *load_key(void)
{
    return PLUGIN_KEY;
}

enum err load_folder(char *out, size_t bytes)
{
    char exe[4096];
    const ssize_t length = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (length < 0)
        return ERR_IO;
    exe[length] = '\0';
    const int written = snprintf(out, bytes, "%s/../lib/tare/plugins", dirname(exe));
    return written < 0 || (size_t)written >= bytes ? ERR_ARGUMENT : ERR_NONE;
}

int load_is_installed(void)
{
    char exe[4096], cache[4200];
    const ssize_t length = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (length < 0)
        return 1;
    exe[length] = '\0';
    snprintf(cache, sizeof cache, "%s/../CMakeCache.txt", dirname(exe));
    return access(cache, F_OK) != 0;
}

static int is_owned_by_root(const struct stat *s)
{
    return s->st_uid == 0 && (s->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static enum err open_file(const char *path, const struct load_options *options, int *out,
                          size_t *bytes, char *reason)
{
    struct stat s;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return refuse(reason, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open: %s",
                      errno == ELOOP ? "is a symbolic link" : strerror(errno));
    enum err e = ERR_NONE;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode))
        e = refuse(reason, ERR_FORMAT, "not a regular file");
    else if (s.st_size <= 0 || s.st_size > LOAD_BYTES_MAX)
        e = refuse(reason, ERR_FORMAT, "%lld bytes: expected 1 to %d", (long long)s.st_size,
                   LOAD_BYTES_MAX);
    else if (options->is_root_owned && !is_owned_by_root(&s))
        e = refuse(reason, ERR_IO, "must belong to root and be writable by nobody else");
    *bytes = (size_t)s.st_size;
    if (e == ERR_NONE && options->is_root_owned) {
        char folder[4096];
        snprintf(folder, sizeof folder, "%s", path);
        if (stat(dirname(folder), &s) != 0 || !is_owned_by_root(&s))
            e = refuse(reason, ERR_IO, "its folder must belong to root alone");
    }
    if (e != ERR_NONE) {
        close(fd);
        return e;
    }
    *out = fd;
    return ERR_NONE;
}

static int copy_bytes(int from, int to, size_t bytes)
{
    char buffer[65536];
    while (bytes > 0) {
        const ssize_t n = read(from, buffer, bytes < sizeof buffer ? bytes : sizeof buffer);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || write(to, buffer, (size_t)n) != n)
            return -1;
        bytes -= (size_t)n;
    }
    return 0;
}

/* What is verified is what is run: nobody can write to a sealed memfd any more. */
static enum err seal_copy(int from, size_t bytes, int *out, char *reason)
{
    int fd = memfd_create("tare-plugin", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    if (fd < 0 && errno == EINVAL) /* kernels before 6.3 */
        fd = memfd_create("tare-plugin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return refuse(reason, ERR_IO, "memfd_create: %s", strerror(errno));
    if (copy_bytes(from, fd, bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        const int saved = errno;
        close(fd);
        return refuse(reason, ERR_IO, "copying and sealing: %s", strerror(saved));
    }
    *out = fd;
    return ERR_NONE;
}

static enum err read_signature(const char *path, char *text, size_t *bytes, char *reason)
{
    char name[4096];
    const int length = snprintf(name, sizeof name, "%s.minisign", path);
    if (length < 0 || (size_t)length >= sizeof name)
        return refuse(reason, ERR_ARGUMENT, "path too long");
    const int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return refuse(reason, ERR_SIGNATURE, "unsigned: no file %s", basename(name));
    const ssize_t n = read(fd, text, MINISIGN_FILE_MAX);
    close(fd);
    if (n <= 0)
        return refuse(reason, ERR_SIGNATURE, "its signature file is empty");
    *bytes = (size_t)n;
    return ERR_NONE;
}

/* With the built-in key or any of the further ones. */
static enum err verify(int fd, size_t bytes, const char *path, const struct load_options *options,
                       char *reason)
{
    char text[MINISIGN_FILE_MAX];
    size_t text_bytes = 0;
    enum err e = read_signature(path, text, &text_bytes, reason);
    if (e != ERR_NONE)
        return e;
    void *content = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (content == MAP_FAILED)
        return refuse(reason, ERR_IO, "mmap: %s", strerror(errno));
    e = ERR_NOT_FOUND;
    for (uint32_t i = 0; i <= options->key_count && (e == ERR_NOT_FOUND); i++) {
        const char *line = i == 0 ? PLUGIN_KEY : options->keys[i - 1];
        struct minisign_public key;
        if (minisign_public_decode(line, strlen(line), &key) == ERR_NONE)
            e = minisign_verify(&key, content, bytes, text, text_bytes);
    }
    munmap(content, bytes);
    switch (e) {
    case ERR_NONE: return ERR_NONE;
    case ERR_NOT_FOUND: return refuse(reason, ERR_SIGNATURE, "signed by a key that is not trusted");
    case ERR_SIGNATURE:
        return refuse(reason, ERR_SIGNATURE, "altered: its signature does not verify");
    default: return refuse(reason, ERR_SIGNATURE, "malformed signature file: %s", err_name(e));
    }
}

static int has_hole(const struct hal_plugin *p)
{
    return p->name == NULL || p->version == NULL || p->probe == NULL || p->open == NULL ||
           p->close == NULL || p->mat_new == NULL || p->mat_free == NULL || p->mat_put == NULL ||
           p->mat_get == NULL || p->matmul == NULL;
}

enum err load_accept(const struct hal_plugin *table, const char *name, struct hal_plugin *out,
                     char *reason)
{
    struct hal_plugin copy;
    if (table == NULL)
        return refuse(reason, ERR_FORMAT, "its entry returned no table");
    if (table->abi != HAL_ABI)
        return refuse(reason, ERR_VERSION, "speaks ABI %u, this program speaks %u", table->abi,
                      HAL_ABI);
    memset(&copy, 0, sizeof copy);
    memcpy(&copy, table, table->size < sizeof copy ? table->size : sizeof copy);
    if (has_hole(&copy))
        return refuse(reason, ERR_FORMAT, "a required operation is missing");
    const size_t length = strnlen(copy.name, 16);
    if (length == 0 || length == 16 ||
        strspn(copy.name, "abcdefghijklmnopqrstuvwxyz0123456789") != length)
        return refuse(reason, ERR_FORMAT, "its name is not of the form [a-z0-9]{1,15}");
    if (strcmp(copy.name, name) != 0)
        return refuse(reason, ERR_FORMAT, "calls itself %s", copy.name);
    *out = copy;
    reason[0] = '\0';
    return ERR_NONE;
}

static void name_of(const char *path, char *name, size_t bytes)
{
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", path);
    snprintf(name, bytes, "%s", basename(copy));
    char *end = strrchr(name, '.');
    if (end != NULL)
        *end = '\0';
}

/* fd stays open for ever: glibc recognises a library by its path, and would hand out this one for
 * the next file that got the same number. */
static enum err load_sealed(int fd, const char *path, struct hal_plugin *out, char *reason)
{
    char place[64], name[64];
    snprintf(place, sizeof place, "/proc/self/fd/%d", fd);
    void *library = dlopen(place, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return refuse(reason, ERR_FORMAT, "does not load: %s", dlerror());
    hal_entry_fn *entry;
    *(void **)&entry = dlsym(library, HAL_ENTRY);
    if (entry == NULL)
        return refuse(reason, ERR_FORMAT, "exports no %s", HAL_ENTRY);
    name_of(path, name, sizeof name);
    return load_accept(entry(), name, out, reason);
}

enum err load_plugin(const char *path, const struct load_options *options, struct hal_plugin *out,
                     char *reason)
{
    static const struct load_options defaults;
    const struct load_options *o = options != NULL ? options : &defaults;
    int file = -1, sealed = -1;
    size_t bytes = 0;
    reason[0] = '\0';
    enum err e = open_file(path, o, &file, &bytes, reason);
    if (e != ERR_NONE)
        return e;
    e = seal_copy(file, bytes, &sealed, reason);
    close(file);
    if (e != ERR_NONE)
        return e;
    e = verify(sealed, bytes, path, o, reason);
    if (e != ERR_NONE) {
        close(sealed);
        return e;
    }
    return load_sealed(sealed, path, out, reason);
}
