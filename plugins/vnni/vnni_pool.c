/* vnni_pool.c: the claim word holds (epoch, tiles, next), so that a claim is valid or void by itself: a
 * thread that wakes late can only claim a tile of the job that is running. */
#include "plugins/vnni/vnni_pool.h"
#include "plugins/vnni/vnni_topology.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS_MAX = 256,
    SPINS_BEFORE_CLOCK = 64,
    SPIN_WORKER_NS = 60000, /* longer than the serial pieces between two jobs of a forward pass */
    SPIN_CALLER_NS = 20000,
    TILE_BITS = 24
};

static const uint64_t TILE_MASK = (UINT64_C(1) << TILE_BITS) - 1;

struct worker {
    struct vnni_pool *pool;
    pthread_t thread;
    uint32_t index;
};

struct vnni_pool {
    _Alignas(64) _Atomic uint64_t claim; /* epoch : 16, tiles : 24, next : 24 */
    _Alignas(64) _Atomic uint32_t finished;
    _Alignas(64) _Atomic uint32_t epoch; /* futex of the workers */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t caller_sleeps;
    _Atomic uint32_t is_closing;
    _Atomic uint32_t active; /* threads that take part; futex of those that do not */
    _Alignas(64) vnni_tile_fn *work;
    void *context;
    uint32_t threads;
    uint64_t nodes;
    struct worker workers[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Spin until *word differs from value, at most limit_ns. */
static void spin_while(_Atomic uint32_t *word, uint32_t value, int64_t limit_ns)
{
    int64_t start = 0;
    for (uint32_t spins = 0; atomic_load_explicit(word, memory_order_acquire) == value; spins++) {
        __builtin_ia32_pause();
        if (spins % SPINS_BEFORE_CLOCK != SPINS_BEFORE_CLOCK - 1)
            continue;
        const int64_t now = now_ns();
        if (start == 0)
            start = now;
        if (now - start > limit_ns)
            return;
    }
}

static void share(struct vnni_pool *pool, uint32_t thread)
{
    for (;;) {
        const uint64_t claim = atomic_fetch_add_explicit(&pool->claim, 1, memory_order_acq_rel);
        const uint32_t tiles = (uint32_t)(claim >> TILE_BITS & TILE_MASK);
        const uint32_t tile = (uint32_t)(claim & TILE_MASK);
        if (tile >= tiles)
            return;
        pool->work(pool->context, tile, thread); /* the job cannot end before this tile does */
        const uint32_t done = atomic_fetch_add_explicit(&pool->finished, 1, memory_order_seq_cst) + 1;
        if (done == tiles && atomic_load_explicit(&pool->caller_sleeps, memory_order_seq_cst) != 0)
            futex_wake(&pool->finished, 1);
    }
}

static void *worker_main(void *argument)
{
    const struct worker *self = argument;
    struct vnni_pool *pool = self->pool;
    uint32_t seen = 0;
    while (atomic_load(&pool->is_closing) == 0) {
        const uint32_t active = atomic_load(&pool->active);
        if (self->index >= active) {
            futex_wait(&pool->active, active);
            seen = atomic_load(&pool->epoch); /* its job, if it is not over, can do without us */
            continue;
        }
        spin_while(&pool->epoch, seen, SPIN_WORKER_NS);
        if (atomic_load(&pool->epoch) == seen) {
            atomic_fetch_add(&pool->sleepers, 1);
            futex_wait(&pool->epoch, seen);
            atomic_fetch_sub(&pool->sleepers, 1);
            continue;
        }
        seen = atomic_load(&pool->epoch);
        share(pool, self->index);
    }
    return NULL;
}

static void announce(struct vnni_pool *pool)
{
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->sleepers) != 0)
        futex_wake(&pool->epoch, INT_MAX);
}

static size_t pool_bytes(uint32_t threads)
{
    return sizeof(struct vnni_pool) + (threads - 1) * sizeof(struct worker);
}

static uint32_t threads_wanted(const struct hal_host *host)
{
    const uint32_t threads = host->threads == 0 ? 1 : host->threads;
    return threads > THREADS_MAX ? THREADS_MAX : threads;
}

/* Only the threads that are ours: the caller's belongs to the host, and finds the CPU that is left. */
static void pin(const struct vnni_topology *t, uint32_t threads, pthread_t thread, uint32_t index)
{
    cpu_set_t cpus;
    if (vnni_topology_place(t, threads, index, &cpus))
        (void)pthread_setaffinity_np(thread, sizeof cpus, &cpus); /* a wish: slower without, not wrong */
}

/* TARE_PIN=0 in the environment leaves threads and pages to the kernel. */
static void read_topology(struct vnni_topology *out)
{
    cpu_set_t allowed;
    const char *wish = getenv("TARE_PIN");
    memset(out, 0, sizeof *out);
    out->nodes = 1;
    if ((wish == NULL || strcmp(wish, "0") != 0) && sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        vnni_topology_read("/sys/devices/system", &allowed, out);
}

enum err vnni_pool_open(const struct hal_host *host, struct vnni_pool **out)
{
    const uint32_t wanted = threads_wanted(host);
    struct vnni_pool *pool = host->alloc(pool_bytes(wanted));
    if (pool == NULL)
        return ERR_MEMORY;
    atomic_init(&pool->claim, 0);
    atomic_init(&pool->finished, 0);
    atomic_init(&pool->epoch, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->caller_sleeps, 0);
    atomic_init(&pool->is_closing, 0);
    atomic_init(&pool->active, wanted);
    pool->threads = wanted;
    struct vnni_topology topology;
    read_topology(&topology);
    pool->nodes = topology.nodes;
    sigset_t all, before;
    sigfillset(&all); /* the host's signals are the host's threads' */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    uint32_t started = 1;
    for (; started < wanted; started++) {
        struct worker *worker = &pool->workers[started - 1];
        *worker = (struct worker){.pool = pool, .index = started};
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
            break;
        pin(&topology, wanted, worker->thread, started);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pool->threads = started;
    atomic_store(&pool->active, started);
    *out = pool;
    return ERR_NONE;
}

void vnni_pool_close(const struct hal_host *host, struct vnni_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->is_closing, 1);
    vnni_pool_limit(pool, pool->threads);
    announce(pool);
    for (uint32_t i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i - 1].thread, NULL);
    host->release(pool, pool_bytes(threads_wanted(host)));
}

uint32_t vnni_pool_threads(const struct vnni_pool *pool)
{
    return pool->threads;
}

uint32_t vnni_pool_active(const struct vnni_pool *pool)
{
    return atomic_load_explicit(&pool->active, memory_order_relaxed);
}

void vnni_pool_limit(struct vnni_pool *pool, uint32_t threads)
{
    atomic_store(&pool->active, threads < pool->threads ? threads : pool->threads);
    futex_wake(&pool->active, INT_MAX);
}

uint64_t vnni_pool_nodes(const struct vnni_pool *pool)
{
    return pool->nodes;
}

void vnni_pool_run(struct vnni_pool *pool, vnni_tile_fn *work, void *context, uint32_t tiles)
{
    if (tiles == 1 || vnni_pool_active(pool) == 1) {
        for (uint32_t tile = 0; tile < tiles; tile++)
            work(context, tile, 0);
        return;
    }
    if (tiles == 0)
        return;
    pool->work = work;
    pool->context = context;
    atomic_store_explicit(&pool->finished, 0, memory_order_relaxed);
    const uint64_t epoch = atomic_load_explicit(&pool->epoch, memory_order_relaxed) + 1u;
    atomic_store_explicit(&pool->claim, epoch << 2 * TILE_BITS | (uint64_t)tiles << TILE_BITS,
                          memory_order_release);
    announce(pool);
    share(pool, 0);
    for (;;) {
        const uint32_t done = atomic_load_explicit(&pool->finished, memory_order_acquire);
        if (done == tiles)
            return;
        spin_while(&pool->finished, done, SPIN_CALLER_NS);
        if (atomic_load_explicit(&pool->finished, memory_order_acquire) != done)
            continue;
        atomic_store_explicit(&pool->caller_sleeps, 1, memory_order_seq_cst);
        if (atomic_load_explicit(&pool->finished, memory_order_seq_cst) == done)
            futex_wait(&pool->finished, done);
        atomic_store_explicit(&pool->caller_sleeps, 0, memory_order_relaxed);
    }
}
