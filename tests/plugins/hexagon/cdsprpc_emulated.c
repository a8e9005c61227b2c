/* cdsprpc_emulated.c: a library with the ABI of the vendor's libcdsprpc.so.1 whose DSP is a
 * qemu-hexagon process. For tests: found through LD_LIBRARY_PATH by the plugin as it ships. It is
 * strict where a device is: no module without an unsigned domain, error numbers as a device gives
 * them, an allocator that aborts on a double free, outputs filled with a pattern before each call.
 *
 * HEXAGON_EMULATED_FAULT=die:N kills the DSP before call N; alloc:N makes the N-th allocation fail.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plugins/hexagon/hexagon_skel.h"
#include "tests/plugins/hexagon/emulator_wire.h"

#define EXPORT __attribute__((visibility("default")))

enum { PAGE = 4096, PAGES = EMULATOR_SHARED_BYTES / PAGE, BOUNCE_PAGES = PAGES / 4 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int shared_fd = -1;
static uint8_t *shared;
static uint32_t
    run[PAGES]; /* at the first page of an allocation: its pages; elsewhere taken or 0 */
static int to_dsp = -1, from_dsp = -1;
static pid_t dsp;
static uint32_t sequence, calls, allocations;
static int has_unsigned_domain;

static long fault(const char *kind)
{
    const char *text = getenv("HEXAGON_EMULATED_FAULT");
    const size_t length = strlen(kind);
    return text && strncmp(text, kind, length) == 0 && text[length] == ':' ? atol(text + length + 1)
                                                                           : -1;
}

static int map_shared(void)
{
    if (shared)
        return 1;
    shared_fd = memfd_create("hexagon", MFD_CLOEXEC);
    if (shared_fd < 0 || ftruncate(shared_fd, EMULATOR_SHARED_BYTES) != 0)
        return 0;
    void *p = mmap(NULL, EMULATOR_SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    if (p == MAP_FAILED)
        return 0;
    shared = p;
    return 1;
}

EXPORT void *rpcmem_alloc(int heap, uint32_t flags, int bytes)
{
    (void)heap, (void)flags;
    void *p = NULL;
    pthread_mutex_lock(&lock);
    const uint32_t pages = bytes > 0 ? ((uint32_t)bytes + PAGE - 1) / PAGE : 0;
    const int is_refused = (long)allocations++ == fault("alloc");
    for (uint32_t at = 0, free = 0;
         !is_refused && pages && map_shared() && at < PAGES - BOUNCE_PAGES; at++) {
        free = run[at] ? 0 : free + 1;
        if (free < pages)
            continue;
        const uint32_t first = at + 1 - pages;
        for (uint32_t i = first; i <= at; i++)
            run[i] = UINT32_MAX;
        run[first] = pages;
        p = shared + (size_t)first * PAGE;
        break;
    }
    pthread_mutex_unlock(&lock);
    return p;
}

EXPORT void rpcmem_free(void *p)
{
    pthread_mutex_lock(&lock);
    const size_t offset = (size_t)((uint8_t *)p - shared);
    const size_t first = offset / PAGE;
    if (!shared || offset % PAGE || first >= PAGES || run[first] == 0 || run[first] == UINT32_MAX) {
        fprintf(stderr, "rpcmem_free: %p is no allocation\n", p);
        abort();
    }
    const uint32_t pages = run[first];
    memset(p, 0xdb, (size_t)pages * PAGE); /* a use after free shows */
    memset(run + first, 0, pages * sizeof *run);
    pthread_mutex_unlock(&lock);
}

EXPORT int rpcmem_to_fd(void *p)
{
    const size_t offset = (size_t)((uint8_t *)p - shared);
    return shared && offset % PAGE == 0 && offset / PAGE < PAGES && run[offset / PAGE] ? shared_fd
                                                                                       : -1;
}

EXPORT int remote_session_control(uint32_t request, void *data, uint32_t bytes)
{
    const int32_t *words = data;
    if (request != 2 || bytes != 8 || words[0] != 3)
        return HEXAGON_UNSUPPORTED;
    has_unsigned_domain = words[1];
    return 0;
}

EXPORT int remote_handle_control(uint32_t request, void *data, uint32_t bytes)
{
    uint32_t *words = data;
    if (request != 2 || bytes != 12 || words[0] != 3)
        return HEXAGON_UNSUPPORTED;
    words[2] = words[1] == 0 || words[1] == 1 || words[1] == 3 ? 1 : words[1] == 6 ? 0x66 : 0;
    return 0;
}

/* The program lies beside this library. */
static int program_path(char *out, size_t room)
{
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)rpcmem_alloc, &info))
        return 0;
    const char *slash = strrchr(info.dli_fname, '/');
    const int length = slash ? (int)(slash - info.dli_fname) : 0;
    return snprintf(out, room, "%.*s/hexagon_emulator.elf", length, info.dli_fname) < (int)room &&
           access(out, R_OK) == 0;
}

/* In the child: descriptors 0, 1 and 3, by way of numbers that none of them has. */
static void become_dsp(int in, int out, pid_t parent, const char *program)
{
    const int a = fcntl(in, F_DUPFD, 10), b = fcntl(out, F_DUPFD, 10),
              c = fcntl(shared_fd, F_DUPFD, 10);
    if (a < 0 || b < 0 || c < 0 || dup2(a, 0) < 0 || dup2(b, 1) < 0 ||
        dup2(c, EMULATOR_SHARED_FD) < 0)
        _exit(126);
    close(a), close(b), close(c);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(125);
    unsetenv("LD_LIBRARY_PATH");
    execlp("qemu-hexagon", "qemu-hexagon", "-cpu", "v67", program, (char *)NULL);
    _exit(127);
}

static int start_dsp(void)
{
    char program[4096];
    int down[2], up[2];
    if (!map_shared() || !program_path(program, sizeof program) || pipe2(down, O_CLOEXEC) != 0)
        return 0;
    if (pipe2(up, O_CLOEXEC) != 0) {
        close(down[0]), close(down[1]);
        return 0;
    }
    const pid_t parent = getpid();
    dsp = fork();
    if (dsp == 0)
        become_dsp(down[0], up[1], parent, program);
    close(down[0]), close(up[1]);
    to_dsp = down[1];
    from_dsp = up[0];
    signal(SIGPIPE, SIG_IGN);
    return dsp > 0;
}

static void bury_dsp(void)
{
    if (dsp > 0) {
        kill(dsp, SIGKILL);
        waitpid(dsp, NULL, 0);
    }
    if (to_dsp >= 0)
        close(to_dsp), close(from_dsp);
    dsp = 0;
    to_dsp = from_dsp = -1;
}

static int transfer(int is_write, int fd, void *data, size_t bytes)
{
    char *p = data;
    while (bytes > 0) {
        const ssize_t n = is_write ? write(fd, p, bytes) : read(fd, p, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        p += n;
        bytes -= (size_t)n;
    }
    return 1;
}

static int exchange(struct emulator_request *q, struct emulator_response *r)
{
    if ((long)calls++ == fault("die") && dsp > 0)
        kill(dsp, SIGKILL);
    q->sequence = ++sequence;
    if (dsp > 0 && transfer(1, to_dsp, q, sizeof *q) && transfer(0, from_dsp, r, sizeof *r) &&
        r->sequence == sequence)
        return r->result;
    bury_dsp();
    return HEXAGON_RESET;
}

static int is_shared(const void *p, size_t bytes)
{
    const size_t offset = (size_t)((const uint8_t *)p - shared);
    return (const uint8_t *)p >= shared && offset < (size_t)(PAGES - BOUNCE_PAGES) * PAGE &&
           bytes <= (size_t)(PAGES - BOUNCE_PAGES) * PAGE - offset;
}

/* Buffers of the caller's own memory go through the bounce area, as the real library copies them.
 */
static int call_dsp(uint32_t scalars, union hexagon_arg *args, uint64_t *handle)
{
    const uint32_t in = scalars >> 16 & 0xff, out = scalars >> 8 & 0xff;
    struct emulator_request q = {
        .scalars = scalars, .buffers = in + out, .wants_handle = handle != NULL};
    struct emulator_response r;
    size_t bounce = (size_t)(PAGES - BOUNCE_PAGES) * PAGE;
    if (q.buffers > EMULATOR_BUFFERS)
        return HEXAGON_BAD_PARAMETER;
    for (uint32_t i = 0; i < q.buffers; i++) {
        const size_t bytes = args[i].buffer.bytes;
        uint8_t *at = args[i].buffer.data;
        if (!is_shared(at, bytes)) {
            if (bytes > EMULATOR_SHARED_BYTES - bounce)
                return HEXAGON_BAD_PARAMETER;
            at = shared + bounce;
            bounce += (bytes + 127) & ~(size_t)127;
            if (i < in)
                memcpy(at, args[i].buffer.data, bytes);
        }
        if (i >= in)
            memset(at, 0xa5, bytes);
        q.buffer[i].offset = (uint32_t)(at - shared);
        q.buffer[i].bytes = (uint32_t)bytes;
    }
    const int result = exchange(&q, &r);
    for (uint32_t i = in; i < q.buffers && result == 0; i++)
        if (!is_shared(args[i].buffer.data, args[i].buffer.bytes))
            memcpy(args[i].buffer.data, shared + q.buffer[i].offset, args[i].buffer.bytes);
    if (handle && result == 0)
        *handle = r.handle;
    return result;
}

EXPORT int remote_handle64_open(const char *uri, uint64_t *handle)
{
    int result = HEXAGON_BAD_PERMISSIONS;
    pthread_mutex_lock(&lock);
    if (has_unsigned_domain) {
        uint32_t length = (uint32_t)strlen(uri) + 1;
        union hexagon_arg args[3] = {{.buffer = {&length, sizeof length}},
                                     {.buffer = {(void *)(uintptr_t)uri, length}}};
        result = dsp > 0 || start_dsp()
                     ? call_dsp(HEXAGON_SCALARS(HEXAGON_OPEN, 2, 0, 0, 1), args, handle)
                     : HEXAGON_REFUSED;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORT int remote_handle64_invoke(uint64_t handle, uint32_t scalars, union hexagon_arg *args)
{
    (void)handle;
    pthread_mutex_lock(&lock);
    const int result = dsp > 0 ? call_dsp(scalars, args, NULL) : HEXAGON_RESET;
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORT int remote_handle64_close(uint64_t handle)
{
    (void)handle;
    pthread_mutex_lock(&lock);
    bury_dsp();
    pthread_mutex_unlock(&lock);
    return 0;
}
