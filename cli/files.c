#include "cli/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress/claim.h"

enum { PATH_BYTES = 4096, LOCKS_MAX = 64 };

/* A run that is interrupted takes its lock files with it. Only what a signal handler may touch: pointers are set
 * before they are counted, and each lives until it no longer is. */
static const char *lock[LOCKS_MAX];
static volatile sig_atomic_t locks;
static volatile pid_t locks_of; /* a forked child has none */

static void on_signal(int signal_number)
{
    for (sig_atomic_t i = 0; i < locks && getpid() == locks_of; i++)
        unlink(lock[i]);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void watch(const struct claim *claim)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction now, ours = {.sa_handler = on_signal};
    locks_of = getpid();
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL)
            (void)sigaction(numbers[i], &ours, NULL);
    if (locks < LOCKS_MAX) {
        lock[locks] = claim_path(claim);
        locks = locks + 1;
    }
}

/* Zero, or errno where its folder is not there. */
static int identify(const char *path, struct files_entry *out)
{
    char folder[PATH_BYTES];
    struct stat s;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    *out = (struct files_entry){.is_there = false};
    const size_t bytes = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (bytes >= sizeof folder || strlen(name) >= sizeof out->name)
        return ENAMETOOLONG;
    if (stat(path, &s) == 0) {
        out->is_there = true;
        out->device = s.st_dev;
        out->inode = s.st_ino;
    }
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)bytes : 1, slash ? path : ".");
    if (stat(folder, &s))
        return errno;
    out->folder_device = s.st_dev;
    out->folder_inode = s.st_ino;
    return S_ISDIR(s.st_mode) ? 0 : ENOTDIR;
}

static bool is_same(const struct files_entry *a, const struct files_entry *b)
{
    return (a->is_there && b->is_there && a->device == b->device && a->inode == b->inode) ||
           (a->folder_device == b->folder_device && a->folder_inode == b->folder_inode && strcmp(a->name, b->name) == 0);
}

/* Is a what a run that writes b makes and removes beside it? */
static bool is_beside(const struct files_entry *a, const struct files_entry *b)
{
    static const char *const suffixes[] = {".part",   ".state",  ".state.new",  ".work",        ".blocks",      ".layers",
                                           ".layers.new", ".lock", ".refused", ".pruned", ".pruned.part", ".pruned.work",
                                           ".rotated", ".rotated.part"};
    const size_t bytes = strlen(b->name);
    if (a->folder_device != b->folder_device || a->folder_inode != b->folder_inode || strncmp(a->name, b->name, bytes) != 0)
        return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (strcmp(a->name + bytes, suffixes[i]) == 0)
            return true;
    return false;
}

static struct files_entry *add(struct files *f, const struct files_entry *e, const char *path)
{
    char *name = strdup(path);
    struct files_entry *entry = realloc(f->entry, (f->entries + 1u) * sizeof *entry);
    if (entry)
        f->entry = entry;
    if (!entry || !name) {
        free(name);
        f->is_short = true;
        return NULL;
    }
    f->entry[f->entries] = *e;
    f->entry[f->entries].path = name;
    return &f->entry[f->entries++];
}

/* What lies in a folder goes by the folder's name where it is spoken of. */
static void add_folder(struct files *f, const char *path, DIR *folder)
{
    for (struct dirent *d; (d = readdir(folder));) {
        struct stat s;
        struct files_entry e = {.is_there = true};
        if (fstatat(dirfd(folder), d->d_name, &s, 0) || !S_ISREG(s.st_mode))
            continue;
        e.device = s.st_dev;
        e.inode = s.st_ino;
        (void)add(f, &e, path);
    }
}

void files_read(struct files *f, const char *path)
{
    struct files_entry e;
    if (!path || !path[0] || identify(path, &e) || !e.is_there)
        return;
    DIR *folder = opendir(path);
    if (folder)
        add_folder(f, path, folder);
    else
        (void)add(f, &e, path);
    if (folder)
        closedir(folder);
}

void files_read_list(struct files *f, const struct cli_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        files_read(f, list->items[i]);
}

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)   ? "a folder"
           : S_ISLNK(mode) ? "a symbolic link"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

int files_write(struct files *f, struct cli_call *call, const char *option, const char *path)
{
    struct stat s;
    struct files_entry e;
    struct fault fault = {""};
    if (!path)
        return CLI_DONE;
    const size_t bytes = strlen(path);
    if (bytes == 0)
        return cli_fail(call, CLI_USAGE, NULL, option, "expected the name of a file, found ''");
    if (lstat(path, &s) == 0 && !S_ISREG(s.st_mode))
        return cli_fail(call, CLI_USAGE, path, option, "is %s: expected a regular file or a new name", kind_of(s.st_mode));
    if (path[bytes - 1] == '/')
        return cli_fail(call, CLI_USAGE, path, option, "expected the name of a file, found that of a folder");
    const int error = identify(path, &e);
    if (error)
        return cli_fail(call, CLI_ENVIRONMENT, path, option, "%s", strerror(error));
    for (uint32_t i = 0; i < f->entries; i++)
        if (is_same(&f->entry[i], &e))
            return cli_fail(call, CLI_USAGE, path, option,
                            f->entry[i].claim ? "this run writes %s there already: expected another name"
                                              : "this run reads %s, which is the same file: expected another name",
                            f->entry[i].path);
    for (uint32_t i = 0; i < f->entries; i++)
        if (is_beside(&f->entry[i], &e) || (f->entry[i].claim && is_beside(&e, &f->entry[i])))
            return cli_fail(call, CLI_USAGE, path, option, "the run would replace %s on its way: expected another name",
                            is_beside(&f->entry[i], &e) ? f->entry[i].path : path);
    struct files_entry *entry = f->is_short ? NULL : add(f, &e, path);
    if (!entry)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory");
    if (claim_take(path, 0, &entry->claim, &fault) == ERR_NONE) {
        watch(entry->claim);
        return CLI_DONE;
    }
    free(f->entry[--f->entries].path);
    return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "%s", fault.text[0] ? fault.text : "no memory");
}

void files_close(struct files *f)
{
    locks = 0; /* a verb has one set of files */
    for (uint32_t i = 0; i < f->entries; i++) {
        claim_drop(f->entry[i].claim);
        free(f->entry[i].path);
    }
    free(f->entry);
    *f = (struct files){0};
}
