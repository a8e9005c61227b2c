/* mock_cuda_twin.c: blocks of threads as fibres. A fibre runs until it meets the others: at a
 * barrier of the block, or in a shuffle or matrix product of its warp. */
#define CUDA_TWIN
#include "plugins/cuda/cuda_lang.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include "tests/plugins/cuda/mock_cuda.h"

enum { THREADS_MAX = 256, LANES = 32, STACK_BYTES = 64 << 10 };
enum state { READY, AT_BLOCK, AT_WARP, DONE };

/* A point of execution with a stack of its own. swapcontext() asks the kernel for the signal mask at
 * each of the millions of switches, so the common machine has a switch without it. */
#ifdef __x86_64__
struct point {
    void *stack;
};
void mock_cuda_switch(struct point *from, struct point *to);
__asm__(".text\n.hidden mock_cuda_switch\n.type mock_cuda_switch, @function\nmock_cuda_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov (%rsi), %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size mock_cuda_switch, . - mock_cuda_switch\n");

static void make_point(struct point *p, char *stack, size_t bytes, void (*entry)(void))
{
    void **top = (void **)(void *)(stack + bytes);
    memset(top - 8, 0, 8 * sizeof *top);
    memcpy(top - 2, &entry, sizeof entry); /* where ret goes, on a stack aligned as after a call */
    p->stack = top - 8;
}
#else
struct point {
    ucontext_t context;
};

static void mock_cuda_switch(struct point *from, struct point *to)
{
    if (swapcontext(&from->context, &to->context) != 0)
        abort();
}

static void make_point(struct point *p, char *stack, size_t bytes, void (*entry)(void))
{
    if (getcontext(&p->context) != 0)
        abort();
    p->context.uc_stack.ss_sp = stack;
    p->context.uc_stack.ss_size = bytes;
    makecontext(&p->context, entry, 0);
}
#endif

/* What lanes lay out for each other. Two sets by turns: a lane may lay out the next while others
 * still read. */
struct table {
    uint value[LANES];
    uint a[LANES][4], b[LANES][2];
};

static struct {
    struct point scheduler, fibre[THREADS_MAX];
    enum state state[THREADS_MAX];
    unsigned turn[THREADS_MAX];
    struct table table[THREADS_MAX / LANES][2];
    char *stacks;
    void (*twin)(const void *);
    const void *args;
} sim;

struct twin_place twin_here;

static void wait_as(enum state s)
{
    const uint me = twin_here.thread;
    sim.state[me] = s;
    mock_cuda_switch(&sim.fibre[me], &sim.scheduler);
}

void twin_sync(void)
{
    wait_as(AT_BLOCK);
}

static struct table *take_turn(void)
{
    const uint me = twin_here.thread;
    return &sim.table[me / LANES][sim.turn[me]++ % 2];
}

uint twin_shuffle(uint value, uint mask)
{
    const uint lane = twin_here.thread % LANES;
    struct table *t = take_turn();
    t->value[lane] = value;
    wait_as(AT_WARP);
    return t->value[lane ^ mask];
}

static int dot_words(uint x, uint y)
{
    int sum = 0;
    for (uint i = 0; i < 32; i += 8)
        sum += (int8_t)(x >> i) * (int8_t)(y >> i);
    return sum;
}

/* PTX ISA, "Matrix fragments for mma.m16n8k16 / m16n8k32" with .s8: word w of row r of a is in
 * register (r / 8) + 2 (w / 4) of lane 4 (r % 8) + w % 4; word w of column n of b in register w / 4
 * of lane 4 n + w % 4. */
void twin_multiply(uint depth, const uint *a, const uint *b, int *c)
{
    const uint lane = twin_here.thread % LANES, words = depth / 4;
    struct table *t = take_turn();
    memcpy(t->a[lane], a, words / 4 * 2 * sizeof *a);
    memcpy(t->b[lane], b, words / 4 * sizeof *b);
    wait_as(AT_WARP);
    for (uint e = 0; e < 4; e++) {
        const uint row = lane / 4 + 8 * (e / 2), column = 2 * (lane % 4) + e % 2;
        c[e] = 0;
        for (uint w = 0; w < words; w++)
            c[e] += dot_words(t->a[4 * (row % 8) + w % 4][row / 8 + 2 * (w / 4)],
                              t->b[4 * column + w % 4][w / 4]);
    }
}

/* ---- asynchronous copies: of one thread, in order, done when it waits ---- */

enum { COPIES_MAX = 64, LOST = 0xd0 };

static struct {
    struct {
        char *to;
        const char *from;
        uint bytes, wanted, group;
    } copy[COPIES_MAX];
    uint count, groups; /* groups committed */
} copies[THREADS_MAX];

void twin_async_copy(void *to, const void *from, uint bytes, uint wanted)
{
    const uint me = twin_here.thread;
    if (copies[me].count == COPIES_MAX || (uintptr_t)to % bytes != 0 || (uintptr_t)from % bytes != 0 ||
        (wanted != 0 && wanted != bytes)) {
        fprintf(stderr, "mock: an asynchronous copy of %u bytes, %u wanted, from %p to %p\n", bytes,
                wanted, from, to);
        abort();
    }
    memset(to, LOST, bytes);
    copies[me].copy[copies[me].count].to = to;
    copies[me].copy[copies[me].count].from = from;
    copies[me].copy[copies[me].count].bytes = bytes;
    copies[me].copy[copies[me].count].wanted = wanted;
    copies[me].copy[copies[me].count++].group = copies[me].groups;
}

void twin_async_commit(void)
{
    copies[twin_here.thread].groups++;
}

void twin_async_wait(uint left)
{
    const uint me = twin_here.thread;
    uint kept = 0;
    for (uint i = 0; i < copies[me].count; i++) {
        if (copies[me].copy[i].group + left >= copies[me].groups) {
            copies[me].copy[kept++] = copies[me].copy[i];
            continue;
        }
        memset(copies[me].copy[i].to, 0, copies[me].copy[i].bytes);
        memcpy(copies[me].copy[i].to, copies[me].copy[i].from, copies[me].copy[i].wanted);
    }
    copies[me].count = kept;
}

static void start(void)
{
    sim.twin(sim.args);
    wait_as(DONE); /* for ever */
}

static void prepare(unsigned thread)
{
    make_point(&sim.fibre[thread], sim.stacks + (size_t)thread * STACK_BYTES, STACK_BYTES, start);
    sim.state[thread] = READY;
    sim.turn[thread] = 0;
    copies[thread].count = copies[thread].groups = 0;
}

/* Run the lanes of a warp until all are done or at the barrier of the block. */
static void run_warp(unsigned first)
{
    for (;;) {
        unsigned waiting = 0, others = 0;
        for (unsigned i = first; i < first + LANES; i++) {
            if (sim.state[i] == READY) {
                twin_here.thread = i;
                mock_cuda_switch(&sim.scheduler, &sim.fibre[i]);
            }
            waiting += sim.state[i] == AT_WARP;
            others += sim.state[i] == AT_BLOCK;
        }
        if (waiting == 0)
            return;
        if (others != 0 || waiting != LANES) {
            /* lanes that returned early would leave the others waiting on a GPU */
            fprintf(stderr, "mock: %u lanes in a warp operation without the rest\n", waiting);
            abort();
        }
        for (unsigned i = first; i < first + LANES; i++)
            sim.state[i] = READY;
    }
}

static void run_block(unsigned threads)
{
    for (unsigned i = 0; i < threads; i++)
        prepare(i);
    for (;;) {
        unsigned waiting = 0;
        for (unsigned i = 0; i < threads; i += LANES)
            run_warp(i);
        for (unsigned i = 0; i < threads; i++)
            waiting += sim.state[i] == AT_BLOCK;
        if (waiting == 0)
            return;
        if (waiting != threads) {
            fprintf(stderr, "mock: %u of %u threads reach a barrier\n", waiting, threads);
            abort();
        }
        for (unsigned i = 0; i < threads; i++)
            sim.state[i] = READY;
    }
}

void mock_cuda_run(void (*twin)(const void *), const void *args, const unsigned grid[3],
                   unsigned threads)
{
    if (sim.stacks == NULL)
        sim.stacks = mmap(NULL, (size_t)THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sim.stacks == MAP_FAILED || threads > THREADS_MAX || threads % LANES != 0)
        abort();
    sim.twin = twin;
    sim.args = args;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                twin_here = (struct twin_place){0, x, y, z};
                run_block(threads);
            }
}
