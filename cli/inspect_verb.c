/* inspect_verb.c: tare inspect: what a GGUF file holds and how small it is. */
#include <jansson.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"
#include "hal/block.h"
#include "model/cache_cost.h"
#include "model/gguf.h"

enum { TYPES = 64, SHOWN_BYTES = 60 };

struct inspect_settings {
    bool tensors, keys;
};

static const struct cli_option options[] = {
    {.name = "tensors", .kind = CLI_FLAG, .offset = offsetof(struct inspect_settings, tensors),
     .help = "list every tensor"},
    {.name = "keys", .kind = CLI_FLAG, .offset = offsetof(struct inspect_settings, keys),
     .help = "list every metadata key"},
    {.name = NULL}};

struct totals {
    uint64_t tensors[TYPES], values[TYPES], bytes[TYPES];
    uint64_t all_values, all_bytes;
};

static struct totals add_up(const struct gguf *g)
{
    struct totals t = {.all_values = 0};
    for (uint32_t i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *x = gguf_tensor(g, i);
        t.tensors[x->type % TYPES]++;
        t.values[x->type % TYPES] += x->rows * x->shape[0];
        t.bytes[x->type % TYPES] += x->bytes;
        t.all_values += x->rows * x->shape[0];
        t.all_bytes += x->bytes;
    }
    return t;
}

static double bits(uint64_t bytes, uint64_t values)
{
    return values ? 8.0 * (double)bytes / (double)values : 0;
}

static void shape_text(const struct gguf_tensor *t, char out[80])
{
    int used = 0;
    for (uint32_t i = 0; i < t->dims; i++)
        used += snprintf(out + used, 80 - (size_t)used, "%s%" PRIu64, i ? " x " : "", t->shape[i]);
}

/* A scalar, the beginning of a string, or the kind and length of an array. */
static void value_text(const struct gguf_value *v, char out[80])
{
    if (v->kind == GGUF_STRING) {
        const size_t bytes = v->bytes - 8, shown = bytes < SHOWN_BYTES ? bytes : SHOWN_BYTES;
        snprintf(out, 80, "%.*s%s", (int)shown, (const char *)v->data + 8, bytes > shown ? "…" : "");
    } else if (v->kind == GGUF_ARRAY) {
        snprintf(out, 80, "[%" PRIu64 " %s]", v->count, v->element == GGUF_STRING ? "strings" : "numbers");
    } else if (v->kind == GGUF_BOOL) {
        snprintf(out, 80, "%s", gguf_number(v, 0) != 0 ? "true" : "false");
    } else {
        snprintf(out, 80, "%.9g", gguf_number(v, 0));
    }
}

static json_t *value_json(const struct gguf_value *v)
{
    char text[80];
    value_text(v, text);
    if (v->kind == GGUF_STRING) {
        json_t *string = json_stringn((const char *)v->data + 8, v->bytes - 8);
        return string ? string : json_string(""); /* no UTF-8 */
    }
    if (v->kind == GGUF_ARRAY)
        return json_string(text);
    if (v->kind == GGUF_BOOL)
        return json_boolean(gguf_number(v, 0) != 0);
    return v->kind == GGUF_F32 || v->kind == GGUF_F64 ? json_real(gguf_number(v, 0))
                                                      : json_integer((json_int_t)gguf_number(v, 0));
}

/* Keys and values: bytes per token as kept and as full attention would need them, F16 and Q8_0. */
static json_t *cache_json(const struct gguf *g)
{
    static const struct {
        const char *name;
        uint32_t type;
    } types[] = {{"F16", HAL_F16}, {"Q8_0", HAL_Q8_0}};
    struct cache_cost c;
    json_t *d = json_object();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (cache_cost(g, types[i].type, types[i].type, &c) == ERR_NONE)
            json_object_set_new(d, types[i].name,
                                json_pack("{s:I, s:I, s:I, s:I, s:I}", "token_bytes", (json_int_t)c.token_bytes,
                                          "full_token_bytes", (json_int_t)c.full_bytes, "windowed_token_bytes",
                                          (json_int_t)c.windowed_bytes, "bytes_at_32k",
                                          (json_int_t)cache_cost_kept(&c, 32768), "full_bytes_at_32k",
                                          (json_int_t)cache_cost_full(&c, 32768)));
    if (cache_cost(g, HAL_F32, HAL_F32, &c) == ERR_NONE) {
        json_object_set_new(d, "layers", json_integer(c.layers));
        json_object_set_new(d, "windowed_layers", json_integer(c.windowed));
        json_object_set_new(d, "window", json_integer(c.window));
        json_object_set_new(d, "latent", json_boolean(c.is_latent));
    }
    return d;
}

static void print_cache(const struct cli_call *call, const struct gguf *g)
{
    char size[32], full[32];
    struct cache_cost c;
    if (cache_cost(g, HAL_F16, HAL_F16, &c) != ERR_NONE)
        return;
    cli_print(call, "cache         %" PRIu64 " bytes per token in F16, 1/%.2f of full attention; %s at 32k, of %s\n",
              c.token_bytes, (double)c.full_bytes / (double)c.token_bytes,
              cli_bytes((double)cache_cost_kept(&c, 32768), size), cli_bytes((double)cache_cost_full(&c, 32768), full));
    if (c.windowed)
        cli_print(call, "  %u of %u layers keep a window of %u\n", c.windowed, c.layers, c.window);
}

static json_t *document(const struct cli_call *call, const struct gguf *g, const struct totals *t)
{
    const struct inspect_settings *s = call->settings;
    struct gguf_text architecture = {"", 0};
    if (gguf_string(g, "general.architecture", &architecture) != ERR_NONE)
        architecture.bytes = 0;
    json_t *types = json_object();
    for (uint32_t i = 0; i < TYPES; i++)
        if (t->tensors[i])
            json_object_set_new(types, block_type(i)->name,
                                json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)t->tensors[i], "values",
                                          (json_int_t)t->values[i], "bytes", (json_int_t)t->bytes[i]));
    json_t *d = json_pack("{s:s, s:s%, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o}", "file", gguf_path(g), "architecture",
                          architecture.text, architecture.bytes, "file_bytes", (json_int_t)gguf_bytes(g), "tensors",
                          (json_int_t)gguf_tensors(g), "parameters", (json_int_t)t->all_values, "tensor_bytes",
                          (json_int_t)t->all_bytes, "bpw", bits(t->all_bytes, t->all_values), "ratio_fp32",
                          t->all_bytes ? 4.0 * (double)t->all_values / (double)t->all_bytes : 0, "ratio_fp16",
                          t->all_bytes ? 2.0 * (double)t->all_values / (double)t->all_bytes : 0, "types", types);
    json_t *keys = json_object();
    for (uint32_t i = 0; i < gguf_keys(g); i++) {
        const struct gguf_value *v = gguf_key(g, i);
        json_object_setn_new(keys, v->key.text, v->key.bytes, value_json(v));
    }
    json_object_set_new(d, "keys", keys);
    json_object_set_new(d, "cache", cache_json(g));
    if (!s->tensors)
        return d;
    json_t *list = json_array();
    for (uint32_t i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *x = gguf_tensor(g, i);
        json_t *shape = json_array();
        for (uint32_t k = 0; k < x->dims; k++)
            json_array_append_new(shape, json_integer((json_int_t)x->shape[k]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", x->name, "type",
                                              block_type(x->type)->name, "shape", shape, "bytes",
                                              (json_int_t)x->bytes));
    }
    json_object_set_new(d, "tensor_list", list);
    return d;
}

static void print_summary(const struct cli_call *call, const struct gguf *g, const struct totals *t)
{
    char size[32];
    struct gguf_text architecture = {"none", 4};
    if (gguf_string(g, "general.architecture", &architecture) != ERR_NONE)
        architecture = (struct gguf_text){"none", 4};
    cli_print(call, "%s\n", gguf_path(g));
    cli_print(call, "architecture  %.*s\n", (int)architecture.bytes, architecture.text);
    for (uint32_t i = 0; i < gguf_keys(g); i++) { /* the shape of the model: its numbers */
        const struct gguf_value *v = gguf_key(g, i);
        char text[80];
        value_text(v, text);
        if (v->kind != GGUF_ARRAY && v->kind != GGUF_STRING && v->key.bytes > architecture.bytes + 1 &&
            memcmp(v->key.text, architecture.text, architecture.bytes) == 0)
            cli_print(call, "  %-40.*s %s\n", (int)(v->key.bytes - architecture.bytes - 1),
                      v->key.text + architecture.bytes + 1, text);
    }
    cli_print(call, "file          %s\n", cli_bytes((double)gguf_bytes(g), size));
    cli_print(call, "parameters    %" PRIu64 " in %u tensors\n", t->all_values, gguf_tensors(g));
    if (t->all_bytes)
        cli_print(call, "bits          %.3f per weight: 1/%.2f of FP32, 1/%.2f of FP16\n",
                  bits(t->all_bytes, t->all_values), 4.0 * (double)t->all_values / (double)t->all_bytes,
                  2.0 * (double)t->all_values / (double)t->all_bytes);
}

static void print_types(const struct cli_call *call, const struct totals *t)
{
    struct table table;
    table_open(&table, "type|>tensors|>values|>size|>bits|>share");
    for (uint32_t i = 0; i < TYPES; i++) {
        char tensors[24], values[24], size[32], per[16], share[16];
        if (!t->tensors[i])
            continue;
        snprintf(tensors, sizeof tensors, "%" PRIu64, t->tensors[i]);
        snprintf(values, sizeof values, "%" PRIu64, t->values[i]);
        snprintf(per, sizeof per, "%.3f", bits(t->bytes[i], t->values[i]));
        snprintf(share, sizeof share, "%.1f %%", 100.0 * (double)t->bytes[i] / (double)t->all_bytes);
        table_row(&table, (const char *[]){block_type(i)->name, tensors, values,
                                           cli_bytes((double)t->bytes[i], size), per, share});
    }
    table_close(&table, call);
}

static void print_tensors(const struct cli_call *call, const struct gguf *g)
{
    struct table table;
    table_open(&table, "tensor|type|>shape|>size");
    for (uint32_t i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *x = gguf_tensor(g, i);
        char shape[80], size[32];
        shape_text(x, shape);
        table_row(&table, (const char *[]){x->name, block_type(x->type)->name, shape,
                                           cli_bytes((double)x->bytes, size)});
    }
    table_close(&table, call);
}

static void print_keys(const struct cli_call *call, const struct gguf *g)
{
    struct table table;
    table_open(&table, "key|value");
    for (uint32_t i = 0; i < gguf_keys(g); i++) {
        const struct gguf_value *v = gguf_key(g, i);
        char key[TABLE_CELL_MAX], value[80];
        snprintf(key, sizeof key, "%.*s", (int)(v->key.bytes < 90 ? v->key.bytes : 90), v->key.text);
        value_text(v, value);
        table_row(&table, (const char *[]){key, value});
    }
    table_close(&table, call);
}

static int inspect(struct cli_call *call)
{
    const struct inspect_settings *s = call->settings;
    char reason[GGUF_REASON_BYTES];
    struct gguf *g = NULL;
    const enum err e = gguf_open(call->operand[0], &g, reason);
    if (e)
        return cli_fail(call, e == ERR_MEMORY ? CLI_ENVIRONMENT : CLI_INPUT, NULL, NULL, "%s", reason);
    const struct totals t = add_up(g);
    print_summary(call, g, &t);
    print_cache(call, g);
    print_types(call, &t);
    if (s->keys)
        print_keys(call, g);
    if (s->tensors)
        print_tensors(call, g);
    cli_answer(call, document(call, g, &t));
    gguf_close(g);
    return CLI_DONE;
}

const struct cli_verb cli_inspect = {
    .name = "inspect",
    .operands = "FILE.gguf",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "show architecture, tensors, types and size of a GGUF file",
    .options = options,
    .shared = CLI_OUTPUT,
    .settings_bytes = sizeof(struct inspect_settings),
    .run = inspect,
    .examples = (const struct cli_example[]){
        {"tare inspect base.gguf", "types, bits per weight, ratios against FP32 and FP16"},
        {"tare inspect base.gguf --tensors --json", "every tensor, for a script"},
        {NULL, NULL}}};
