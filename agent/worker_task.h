/* worker_task.h: what the tasks that open a model share. */
#ifndef WORKER_TASK_H
#define WORKER_TASK_H

#include "agent/worker_parts.h"
#include "model/model.h"

struct plan;

/* A model on an engine, with all it hangs on. */
struct worker_task_model {
    struct gguf *gguf;
    struct model *model;
};

/* setting: cache and rounding; NULL: as stock. On error why is filled and *out is empty. */
NODISCARD enum err worker_task_open(struct worker_self *w, const char *path, struct engine *e, uint32_t context,
                                    const struct model_options *setting, struct worker_task_model *out,
                                    char why[WORKER_WHY]);
void worker_task_close(struct worker_task_model *m);

/* The plan of compress inside the signed one (WIRE_K_PLAN); what both say must agree. */
NODISCARD enum err worker_task_plan(const struct wire *m, struct plan **out, char why[WORKER_WHY]);

/* CACHE and ACTIVATIONS of a message into o; what is absent or no cache type stays. */
void worker_task_setting(const struct wire *m, struct model_options *o);

#endif
