/* cuda_graph.c: sequences of launches that come again, as CUDA graphs.
 *
 * A node waits for the node before it, or, when it is beside that one, for what that one waits for;
 * the next that is not beside waits for all of those. Kernels that an exec node may not become keep
 * their place in the sequence, so only grids and arguments are ever updated. */
#include "plugins/cuda/cuda.h"

#include <string.h>

static CUDA_KERNEL_NODE_PARAMS params_of(const struct cuda_dev *d, struct cuda_start *s,
                                         void *list[1])
{
    list[0] = s->args;
    return (CUDA_KERNEL_NODE_PARAMS){.func = d->kernel[s->kernel],
                                     .gridDimX = s->x,
                                     .gridDimY = s->y,
                                     .gridDimZ = s->z,
                                     .blockDimX = s->threads,
                                     .blockDimY = 1,
                                     .blockDimZ = 1,
                                     .kernelParams = list};
}

/* The errors are logged; what cannot be destroyed cannot be used either. */
static void forget(struct cuda_dev *d, struct cuda_graph *g)
{
    if (g->exec != NULL)
        (void)!cuda_result(d, "cuGraphExecDestroy", d->driver->cuGraphExecDestroy(g->exec));
    if (g->graph != NULL)
        (void)!cuda_result(d, "cuGraphDestroy", d->driver->cuGraphDestroy(g->graph));
    g->exec = NULL;
    g->graph = NULL;
    g->count = 0;
}

void cuda_graph_close(struct cuda_dev *d)
{
    for (int i = 0; i < CUDA_GRAPHS; i++)
        forget(d, &d->graph[i]);
}

static int is_same_sequence(const struct cuda_graph *g, const struct cuda_dev *d)
{
    if (g->count != d->queued)
        return 0;
    for (uint32_t i = 0; i < g->count; i++)
        if (g->start[i].kernel != d->queue[i].kernel ||
            g->start[i].is_beside != d->queue[i].is_beside)
            return 0;
    return 1;
}

/* Nodes first .. last - 1 are beside each other and wait for those from `before` to first - 1. */
static enum err add_nodes(struct cuda_dev *d, struct cuda_graph *g)
{
    uint32_t before = 0, first = 0;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < g->count && e == ERR_NONE; i++) {
        void *list[1];
        const CUDA_KERNEL_NODE_PARAMS params = params_of(d, &g->start[i], list);
        if (i > 0 && !g->start[i].is_beside) {
            before = first;
            first = i;
        }
        e = cuda_result(d, "cuGraphAddKernelNode",
                        d->driver->cuGraphAddKernelNode_v2(&g->node[i], g->graph,
                                                           first > before ? g->node + before : NULL,
                                                           first - before, &params));
    }
    return e;
}

static enum err build(struct cuda_dev *d, struct cuda_graph *g)
{
    memcpy(g->start, d->queue, d->queued * sizeof *g->start);
    enum err e = cuda_result(d, "cuGraphCreate", d->driver->cuGraphCreate(&g->graph, 0));
    if (e != ERR_NONE) {
        g->graph = NULL;
        return e;
    }
    e = add_nodes(d, g);
    if (e != ERR_NONE)
        return e;
    e = cuda_result(d, "cuGraphInstantiate",
                    d->driver->cuGraphInstantiateWithFlags(&g->exec, g->graph, 0));
    if (e != ERR_NONE)
        g->exec = NULL;
    return e;
}

/* Nodes whose grid or arguments are others than last time. */
static enum err update(struct cuda_dev *d, struct cuda_graph *g)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < g->count && e == ERR_NONE; i++) {
        void *list[1];
        if (memcmp(&g->start[i], &d->queue[i], sizeof g->start[i]) == 0)
            continue;
        g->start[i] = d->queue[i];
        const CUDA_KERNEL_NODE_PARAMS params = params_of(d, &g->start[i], list);
        e = cuda_result(d, "cuGraphExecKernelNodeSetParams",
                        d->driver->cuGraphExecKernelNodeSetParams_v2(g->exec, g->node[i], &params));
    }
    return e;
}

static struct cuda_graph *find(struct cuda_dev *d)
{
    struct cuda_graph *oldest = &d->graph[0];
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        if (is_same_sequence(&d->graph[i], d))
            return &d->graph[i];
        if (d->graph[i].used < oldest->used)
            oldest = &d->graph[i];
    }
    return oldest;
}

enum err cuda_graph_start(struct cuda_dev *d, int *is_done)
{
    if (d->queued < CUDA_GRAPH_LEAST)
        return ERR_NONE;
    struct cuda_graph *g = find(d);
    g->used = ++d->clock;
    if (!is_same_sequence(g, d)) {
        forget(d, g);
        memcpy(g->start, d->queue, d->queued * sizeof *g->start);
        g->count = d->queued;
        return ERR_NONE;
    }
    const enum err e = g->exec == NULL ? build(d, g) : update(d, g);
    if (e != ERR_NONE) { /* a driver that cannot: nothing was started yet, so plain launches do */
        forget(d, g);
        d->has_graphs = 0;
        return ERR_NONE;
    }
    *is_done = 1;
    return cuda_result(d, "cuGraphLaunch", d->driver->cuGraphLaunch(g->exec, NULL));
}
