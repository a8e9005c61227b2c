/* check.c: the run over all operations; the table of tolerances; failing allocations. */
#include "hal/check_case.h"

#include <string.h>

#include "hal/check_host.h"
#include "plugins/scalar/scalar.h"

static int has_matmul(const struct hal_plugin *p)
{
    return p->matmul != NULL;
}

static int has_embed(const struct hal_plugin *p)
{
    return p->embed != NULL;
}

static int has_rmsnorm(const struct hal_plugin *p)
{
    return p->rmsnorm != NULL;
}

static int has_layernorm(const struct hal_plugin *p)
{
    return p->layernorm != NULL;
}

static int has_rope(const struct hal_plugin *p)
{
    return p->rope != NULL;
}

static int has_store(const struct hal_plugin *p)
{
    return p->store != NULL;
}

static int has_attend(const struct hal_plugin *p)
{
    return p->attend != NULL && p->store != NULL;
}

static int has_glu(const struct hal_plugin *p)
{
    return p->glu != NULL;
}

static int has_add(const struct hal_plugin *p)
{
    return p->add != NULL;
}

static int has_scale(const struct hal_plugin *p)
{
    return p->scale != NULL;
}

static int has_scatter(const struct hal_plugin *p)
{
    return p->scatter != NULL;
}

static int has_encode(const struct hal_plugin *p)
{
    return p->encode != NULL;
}

static int has_decode(const struct hal_plugin *p)
{
    return p->decode != NULL;
}

static int has_copy(const struct hal_plugin *p)
{
    return p->copy != NULL;
}

static int has_top(const struct hal_plugin *p)
{
    return p->top != NULL;
}

const struct check_op check_ops[] = {{"matmul", 2e-5, has_matmul, check_matmul},
                                     {"embed", 0, has_embed, check_embed},
                                     {"rmsnorm", 2e-6, has_rmsnorm, check_rmsnorm},
                                     {"layernorm", 4e-6, has_layernorm, check_layernorm},
                                     {"rope", 4e-6, has_rope, check_rope},
                                     {"store", 0, has_store, check_store},
                                     {"attend", 2e-5, has_attend, check_attend},
                                     {"glu", 4e-6, has_glu, check_glu},
                                     {"add", 0, has_add, check_add},
                                     {"scale", 0, has_scale, check_scale},
                                     {"scatter", 2e-6, has_scatter, check_scatter},
                                     {"encode", 0, has_encode, check_encode},
                                     {"decode", 0, has_decode, check_decode},
                                     {"copy", 0, has_copy, check_copy},
                                     {"top", 0, has_top, check_top},
                                     {NULL, 0, NULL, NULL}};

const struct check_op *check_op_find(const char *name)
{
    const struct check_op *op = check_ops;
    while (op->name != NULL && strcmp(op->name, name) != 0)
        op++;
    return op;
}

static void start_op(struct check_run *c, const char *name)
{
    snprintf(c->report->op, sizeof c->report->op, "%s", name);
    c->pattern = CHECK_NORMAL;
    c->shape[0] = '\0';
}

/* open and mat_new refused memory at every allocation in turn: ERR_MEMORY, and nothing kept. */
static enum err check_memory(struct check_run *c, const struct hal_host *host)
{
    void *dev = NULL;
    start_op(c, "open");
    for (uint32_t n = 1;; n++) {
        check_case(c, "allocation %u fails", n);
        check_host_fail_at(n);
        const enum err e = c->plugin->open(host, &dev);
        if (e == ERR_NONE)
            break;
        check_host_fail_at(0);
        if (e != ERR_MEMORY)
            return check_fail(c, ERR_MISMATCH, "returned %s, wanted ERR_MEMORY", err_name(e));
        if (check_host_live() != 0)
            return check_fail(c, ERR_MISMATCH, "keeps %u buffers", check_host_live());
    }
    check_host_fail_at(0);
    const uint32_t before = check_host_live();
    static const struct hal_mat wanted[] = {
        {.type = HAL_F32, .use = HAL_ACTIVATION, .rows = 5, .cols = 512},
        {.type = HAL_F16, .use = HAL_CACHE, .rows = 9, .cols = 64},
        {.type = HAL_Q8_0, .use = HAL_WEIGHT, .rows = 33, .cols = 256}};
    start_op(c, "mat_new");
    enum err bad = ERR_NONE;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0] && bad == ERR_NONE; i++) {
        if (!(c->caps.types >> wanted[i].type & 1u) && wanted[i].use == HAL_WEIGHT)
            continue;
        for (uint32_t n = 1; bad == ERR_NONE; n++) {
            struct hal_mat m = wanted[i];
            check_case(c, "use %u, allocation %u fails", m.use, n);
            check_host_fail_at(n);
            const enum err e = c->plugin->mat_new(dev, &m);
            if (e == ERR_NONE) {
                check_host_fail_at(0);
                c->plugin->mat_free(dev, &m);
                break;
            }
            if (e != ERR_MEMORY)
                bad = check_fail(c, ERR_MISMATCH, "returned %s, wanted ERR_MEMORY", err_name(e));
        }
    }
    check_host_fail_at(0);
    c->plugin->close(dev);
    c->report->cases++;
    (void)before;
    if (bad == ERR_NONE && check_host_live() != 0)
        bad = check_fail(c, ERR_MISMATCH, "leaks %u buffers", check_host_live());
    return bad;
}

static enum err run_ops(struct check_run *c)
{
    for (const struct check_op *op = check_ops; op->name != NULL; op++) {
        if (!op->has(c->plugin) ||
            (c->options->op != NULL && strcmp(c->options->op, op->name) != 0))
            continue;
        start_op(c, op->name);
        enum err e = op->check(c);
        if (e == ERR_NONE && check_host_fault() != NULL)
            e = check_fail(c, ERR_MISMATCH, "%s", check_host_fault());
        if (e != ERR_NONE)
            return e;
    }
    return ERR_NONE;
}

static enum err run_all(struct check_run *c, const struct hal_host *host)
{
    enum err e = c->options->op == NULL ? check_memory(c, host) : ERR_NONE;
    if (e != ERR_NONE)
        return e;
    start_op(c, "open");
    c->plugin->close(NULL);
    e = c->plugin->open(host, &c->dev);
    if (e != ERR_NONE)
        return check_fail(c, e, "open: %s", err_name(e));
    e = run_ops(c);
    c->plugin->close(c->dev);
    if (e != ERR_NONE)
        return e;
    start_op(c, "close");
    if (check_host_fault() != NULL)
        return check_fail(c, ERR_MISMATCH, "%s", check_host_fault());
    if (check_host_live() != 0)
        return check_fail(c, ERR_MISMATCH, "leaks %u buffers", check_host_live());
    return ERR_NONE;
}

enum err check_plugin(const struct hal_plugin *plugin, const struct check_options *options,
                      struct check_report *report)
{
    struct check_options o = {0};
    struct hal_host host;
    memset(report, 0, sizeof *report);
    if (options != NULL)
        o = *options;
    o.seed = o.seed != 0 ? o.seed : 1;
    o.threads = o.threads != 0 ? o.threads : 2;
    struct check_run c = {.plugin = plugin, .options = &o, .report = report, .random = o.seed};
    start_op(&c, "probe");
    enum err e = plugin->probe(o.path, &c.caps);
    if (e != ERR_NONE)
        return check_fail(&c, e, "cannot run here: %.*s", (int)sizeof c.caps.reason, c.caps.reason);
    e = scalar_plugin.open(&check_host_plain, &c.reference);
    if (e != ERR_NONE)
        return check_fail(&c, e, "the check has no memory");
    check_host_start(&host, o.threads, o.path);
    e = run_all(&c, &host);
    scalar_plugin.close(c.reference);
    if (e == ERR_NONE)
        report->op[0] = '\0';
    return e;
}
