/* files.h: the files of one run of a verb: what it reads, and what it is to write.
 *
 * All that is read is named first, then all that is written, before any work is done. A run refuses (CLI_USAGE) to
 * write over anything but a regular file: folders, devices, pipes, sockets, and symbolic links, whatever they point
 * to; over a file that it reads or writes under another name; and over one that is called as what it makes beside OUT.
 * What it writes is claimed for it alone (compress/claim.h) until files_close.
 *
 *     struct files files = {0};
 *     files_read(&files, call->operand[0]);
 *     if ((status = files_write(&files, call, "--output", s->out)) != CLI_DONE)
 *         goto out;
 */
#ifndef FILES_H
#define FILES_H

#include <stdint.h>
#include <sys/types.h>

#include "cli/cli.h"

struct claim;

enum { FILES_NAME_BYTES = 256 };

/* A file is known by its inode, one that is not there yet by its folder and name. */
struct files_entry {
    char *path;
    bool is_there;
    dev_t device, folder_device;
    ino_t inode, folder_inode;
    char name[FILES_NAME_BYTES];
    struct claim *claim; /* of what is written */
};

/* All zero is none. */
struct files {
    struct files_entry *entry;
    uint32_t entries;
    bool is_short; /* of memory: files_write says so */
};

/* Of a folder every file in it; NULL, "" and what is absent: nothing. */
void files_read(struct files *f, const char *path);
void files_read_list(struct files *f, const struct cli_list *list);

/* NULL: nothing. Returns CLI_DONE, or has called cli_fail: CLI_USAGE, see above; CLI_ENVIRONMENT where the folder
 * cannot be written, or another run writes that file. */
int files_write(struct files *f, struct cli_call *call, const char *option, const char *path);

void files_close(struct files *f);

#endif
