/* emulator_main.c: the DSP as a program for qemu-hexagon: reads a request, calls the module,
 * answers. Linux system calls by trap0(#1); freestanding. It ends when its input does. */
#include <stddef.h>
#include <stdint.h>

#include "plugins/hexagon/hexagon_skel.h"
#include "tests/plugins/hexagon/emulator_wire.h"

enum {
    CALL_READ = 63,
    CALL_WRITE = 64,
    CALL_EXIT = 93,
    CALL_MMAP2 = 222,
    READ_WRITE = 3,
    SHARED = 1
};

int tare_hexagon_skel_handle_invoke(uint64_t handle, uint32_t scalars, union hexagon_arg *args);

static long call(long n, long a, long b, long c, long d, long e, long f)
{
    register long r6 __asm__("r6") = n, r0 __asm__("r0") = a, r1 __asm__("r1") = b,
                     r2 __asm__("r2") = c, r3 __asm__("r3") = d, r4 __asm__("r4") = e,
                     r5 __asm__("r5") = f;
    __asm__ volatile("trap0(#1)"
                     : "+r"(r0)
                     : "r"(r6), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5)
                     : "memory");
    return r0;
}

static void quit(long status)
{
    for (;;)
        call(CALL_EXIT, status, 0, 0, 0, 0, 0);
}

static int transfer(long number, long fd, void *data, uint32_t bytes)
{
    char *p = data;
    while (bytes > 0) {
        const long n = call(number, fd, (long)p, (long)bytes, 0, 0, 0);
        if (n <= 0)
            return 0;
        p += n;
        bytes -= (uint32_t)n;
    }
    return 1;
}

static int answer(uint8_t *shared, const struct emulator_request *q, uint64_t *handle)
{
    union hexagon_arg args[EMULATOR_BUFFERS + 1];
    if (q->buffers > EMULATOR_BUFFERS)
        return HEXAGON_BAD_PARAMETER;
    for (uint32_t i = 0; i < q->buffers; i++) {
        if ((uint64_t)q->buffer[i].offset + q->buffer[i].bytes > EMULATOR_SHARED_BYTES)
            return HEXAGON_BAD_PARAMETER;
        args[i].buffer.data = shared + q->buffer[i].offset;
        args[i].buffer.bytes = q->buffer[i].bytes;
    }
    args[q->buffers].handle = 0;
    const int result = tare_hexagon_skel_handle_invoke(1, q->scalars, args);
    *handle = args[q->buffers].handle;
    return result;
}

void cmain(void);
__asm__(".globl _start\n.type _start,@function\n_start:\n"
        " r29 = and(r29,#-256)\n" /* HVX spills need an aligned stack */
        " r1 = #0\n r30 = r1\n call cmain\n");

void cmain(void)
{
    struct emulator_request q;
    struct emulator_response r;
    uint8_t *shared = (uint8_t *)call(CALL_MMAP2, 0, EMULATOR_SHARED_BYTES, READ_WRITE, SHARED,
                                      EMULATOR_SHARED_FD, 0);
    if ((unsigned long)shared > 0xfffff000ul)
        quit(2);
    while (transfer(CALL_READ, 0, &q, sizeof q)) {
        r.sequence = q.sequence;
        r.handle = 0;
        r.result = answer(shared, &q, &r.handle);
        if (r.result != 0 && r.result != HEXAGON_NO_SUCH)
            r.result |= HEXAGON_REMOTE;
        if (!transfer(CALL_WRITE, 1, &r, sizeof r))
            quit(3);
    }
    quit(0);
}
