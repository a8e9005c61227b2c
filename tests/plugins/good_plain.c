/* good_plain.c: plugins that serve: scalar under another name, whole or with only what is required.
 */
#include "plugins/scalar/scalar.h"

static enum err good_probe(const char *path, struct hal_caps *caps)
{
    const enum err e = scalar_plugin.probe(path, caps);
    caps->score = 50;
    return e;
}

static void fill(struct hal_plugin *p)
{
    *p = scalar_plugin;
    p->name = GOOD_NAME;
    p->probe = good_probe;
#ifdef GOOD_SPARE
    p->embed = NULL;
    p->rmsnorm = NULL;
    p->layernorm = NULL;
    p->rope = NULL;
    p->store = NULL;
    p->attend = NULL;
    p->glu = NULL;
    p->add = NULL;
    p->scale = NULL;
    p->scatter = NULL;
    p->encode = NULL;
    p->decode = NULL;
    p->copy = NULL;
    p->top = NULL;
#endif
}

HAL_EXPORT(fill)
