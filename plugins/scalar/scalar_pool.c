/* scalar_pool.c: a few threads that share out ranges of rows. Which thread does which range is left
 * open, so work may depend on nothing but its range. */
#include "plugins/scalar/scalar.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "plugins/scalar/scalar_pool.h"

enum { THREADS_MAX = 64, PIECES_PER_THREAD = 4 };

struct scalar_pool_thread {
    struct scalar_pool *pool;
    uint32_t index;
    uint64_t seen; /* the last generation that it worked on, or that was before its time */
    pthread_t thread;
};

struct scalar_pool {
    struct hal_host host;
    pthread_mutex_t mutex;
    pthread_cond_t start;
    pthread_cond_t done;
    pthread_cond_t limit; /* where those above it rest */
    uint32_t threads; /* besides the caller */
    uint32_t active;  /* of these: take part, the first ones */
    uint32_t running; /* that still work on this generation */
    uint64_t generation;
    int is_closing;
    void (*work)(void *context, uint32_t first, uint32_t last);
    void *context;
    uint32_t count;
    uint32_t step;
    atomic_uint next; /* piece to take */
    struct scalar_pool_thread thread[THREADS_MAX];
};

static void take_pieces(struct scalar_pool *pool)
{
    const uint32_t pieces = (pool->count - 1) / pool->step + 1;
    for (;;) {
        const uint32_t piece = atomic_fetch_add(&pool->next, 1u);
        if (piece >= pieces)
            return;
        const uint32_t first = piece * pool->step;
        const uint32_t rest = pool->count - first;
        pool->work(pool->context, first, first + (rest < pool->step ? rest : pool->step));
    }
}

static void *thread_main(void *argument)
{
    struct scalar_pool_thread *self = argument;
    struct scalar_pool *pool = self->pool;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (self->index >= pool->active && !pool->is_closing)
            pthread_cond_wait(&pool->limit, &pool->mutex);
        while (pool->generation == self->seen && self->index < pool->active && !pool->is_closing)
            pthread_cond_wait(&pool->start, &pool->mutex);
        if (pool->is_closing)
            break;
        if (self->index >= pool->active)
            continue;
        self->seen = pool->generation;
        pthread_mutex_unlock(&pool->mutex);
        take_pieces(pool);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->running == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

enum err scalar_pool_open(const struct hal_host *host, struct scalar_pool **out)
{
    *out = NULL;
    if (host->threads <= 1)
        return ERR_NONE;
    struct scalar_pool *pool = host->alloc(sizeof *pool);
    if (pool == NULL)
        return ERR_MEMORY;
    *pool = (struct scalar_pool){.host = *host};
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->done, NULL);
    pthread_cond_init(&pool->limit, NULL);
    uint32_t wanted = host->threads - 1;
    if (wanted > THREADS_MAX)
        wanted = THREADS_MAX;
    /* fewer threads than wanted only cost time */
    pool->active = wanted;
    while (pool->threads < wanted) {
        struct scalar_pool_thread *t = &pool->thread[pool->threads];
        t->pool = pool;
        t->index = pool->threads;
        if (pthread_create(&t->thread, NULL, thread_main, t) != 0)
            break;
        pool->threads++;
    }
    scalar_pool_limit(pool, wanted);
    *out = pool;
    return ERR_NONE;
}

void scalar_pool_limit(struct scalar_pool *pool, uint32_t threads)
{
    pthread_mutex_lock(&pool->mutex);
    const uint32_t before = pool->active;
    pool->active = threads < pool->threads ? threads : pool->threads;
    for (uint32_t i = before; i < pool->active; i++)
        pool->thread[i].seen = pool->generation;
    pthread_cond_broadcast(&pool->start);
    pthread_cond_broadcast(&pool->limit);
    pthread_mutex_unlock(&pool->mutex);
}

void scalar_pool_close(struct scalar_pool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->is_closing = 1;
    pthread_cond_broadcast(&pool->start);
    pthread_cond_broadcast(&pool->limit);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->threads; i++)
        pthread_join(pool->thread[i].thread, NULL);
    pthread_cond_destroy(&pool->limit);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->start);
    pthread_mutex_destroy(&pool->mutex);
    const struct hal_host host = pool->host;
    host.release(pool, sizeof *pool);
}

void scalar_parallel(struct scalar_dev *dev, uint32_t count, uint32_t grain,
                     void (*work)(void *context, uint32_t first, uint32_t last), void *context)
{
    struct scalar_pool *pool = dev->pool;
    if (count == 0)
        return;
    if (pool == NULL || pool->active == 0 || count <= grain) {
        work(context, 0, count);
        return;
    }
    const uint32_t pieces = (pool->active + 1) * PIECES_PER_THREAD;
    const uint32_t grains = (count - 1) / grain + 1;
    pthread_mutex_lock(&pool->mutex);
    pool->work = work;
    pool->context = context;
    pool->count = count;
    pool->step = ((grains - 1) / pieces + 1) * grain;
    atomic_store(&pool->next, 0u);
    pool->running = pool->active;
    pool->generation++;
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->mutex);
    take_pieces(pool);
    pthread_mutex_lock(&pool->mutex);
    while (pool->running != 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}
