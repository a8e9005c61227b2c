/* template_json.c: variables that a caller gives as JSON. What their strings say is foreign. */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "model/template_parts.h"

static struct text foreign_text(struct run *r, const char *at, size_t bytes)
{
    char *copy = template_new(r, 2 * bytes + 1);
    if (!copy)
        return (struct text){.at = ""};
    memcpy(copy, at, bytes);
    memset(copy + bytes, 1, bytes);
    return (struct text){.at = copy, .foreign = (uint8_t *)copy + bytes, .bytes = bytes};
}

static struct value value_of(struct run *r, json_t *v, uint32_t depth);

static struct value dict_of(struct run *r, json_t *v, uint32_t depth)
{
    struct dict *d = template_new(r, sizeof *d);
    const char *key;
    json_t *one;
    json_object_foreach(v, key, one)
    {
        if (!d || template_failed(r))
            break;
        template_set(r, d, template_text_value(foreign_text(r, key, strlen(key))), value_of(r, one, depth + 1));
    }
    return d ? (struct value){.kind = DICT, .dict = d} : (struct value){.kind = NONE};
}

static struct value value_of(struct run *r, json_t *v, uint32_t depth)
{
    const size_t count = json_array_size(v);
    struct value *at;
    if (depth > VALUE_DEPTH_MAX)
        template_refuse(r, "a value is nested more than %d deep", VALUE_DEPTH_MAX);
    if (!template_step(r, 1))
        return (struct value){.kind = NONE};
    switch (json_typeof(v)) {
    case JSON_OBJECT: return dict_of(r, v, depth);
    case JSON_ARRAY:
        if (!(at = template_new(r, (count + 1) * sizeof *at)))
            break;
        for (size_t i = 0; i < count && !template_failed(r); i++)
            at[i] = value_of(r, json_array_get(v, i), depth + 1);
        return template_list(at, count);
    case JSON_STRING: return template_text_value(foreign_text(r, json_string_value(v), json_string_length(v)));
    case JSON_INTEGER: return template_int(json_integer_value(v));
    case JSON_REAL: return (struct value){.kind = FLOAT, .real = json_real_value(v)};
    case JSON_TRUE:
    case JSON_FALSE: return template_bool(json_is_true(v));
    default: break;
    }
    return (struct value){.kind = NONE};
}

bool template_bind_json(struct run *r, struct gguf_text text)
{
    static const char *const taken[] = {"messages", "add_generation_prompt", "bos_token", "eos_token"};
    json_error_t error;
    const char *key;
    json_t *all = json_loadb(text.text, text.bytes, JSON_REJECT_DUPLICATES, &error), *one;
    if (!json_is_object(all))
        template_fail(&r->failure, ERR_ARGUMENT, 1, "variables: expected a JSON object");
    json_object_foreach(all, key, one)
    {
        for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
            if (!strcmp(key, taken[i]))
                template_fail(&r->failure, ERR_ARGUMENT, 1, "variables: '%s' is not for the caller to say", key);
        const struct text name = foreign_text(r, key, strlen(key));
        if (!template_failed(r))
            template_bind(r, name, value_of(r, one, 0));
    }
    json_decref(all);
    return !template_failed(r);
}
