#include "compress/parallel.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS_MAX = 64 };

struct loop {
    atomic_uint next;
    atomic_int error;
    uint32_t count, grain;
    parallel_work *work;
    void *context;
};

static void *take(void *context)
{
    struct loop *l = context;
    while (atomic_load(&l->error) == ERR_NONE) {
        const uint32_t first = atomic_fetch_add(&l->next, l->grain);
        if (first >= l->count)
            break;
        const uint32_t last = l->count - first < l->grain ? l->count : first + l->grain;
        const enum err e = l->work(l->context, first, last);
        int none = ERR_NONE;
        if (e)
            atomic_compare_exchange_strong(&l->error, &none, (int)e);
    }
    return NULL;
}

enum err parallel_run(uint32_t threads, uint32_t count, uint32_t grain, parallel_work *work,
                      void *context)
{
    pthread_t helper[THREADS_MAX];
    uint32_t helpers = 0;
    struct loop l = {.count = count, .grain = grain, .work = work, .context = context};
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    while (helpers + 1 < threads && (uint64_t)helpers * grain < count &&
           pthread_create(&helper[helpers], NULL, take, &l) == 0)
        helpers++;
    take(&l);
    while (helpers > 0)
        pthread_join(helper[--helpers], NULL);
    return (enum err)atomic_load(&l.error);
}
