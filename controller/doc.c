/* doc.c: fields of JSON documents. */
#include "controller/doc.h"

#include <math.h>
#include <string.h>

#include "protocol/hex.h"

enum { HEX_MAX = 64 };

static _Thread_local bool has_failed;

bool doc_has_failed(void)
{
    return has_failed;
}

void doc_forget_failure(void)
{
    has_failed = false;
}

const char *doc_text(const json_t *doc, const char *key)
{
    const char *text = json_string_value(json_object_get(doc, key));
    return text ? text : "";
}

int64_t doc_int(const json_t *doc, const char *key)
{
    return json_integer_value(json_object_get(doc, key));
}

double doc_real(const json_t *doc, const char *key)
{
    return json_number_value(json_object_get(doc, key));
}

bool doc_bool(const json_t *doc, const char *key)
{
    return json_is_true(json_object_get(doc, key));
}

void doc_set(json_t *doc, const char *key, json_t *value)
{
    if (!value || json_object_set_new(doc, key, value) != 0)
        has_failed = true;
}

void doc_append(json_t *array, json_t *value)
{
    if (!value || json_array_append_new(array, value) != 0)
        has_failed = true;
}

void doc_set_text(json_t *doc, const char *key, const char *value)
{
    doc_set(doc, key, json_string(value));
}

void doc_set_int(json_t *doc, const char *key, int64_t value)
{
    doc_set(doc, key, json_integer(value));
}

void doc_set_real(json_t *doc, const char *key, double value)
{
    doc_set(doc, key, isfinite(value) ? json_real(value) : json_null());
}

void doc_set_bool(json_t *doc, const char *key, bool value)
{
    doc_set(doc, key, json_boolean(value));
}

void doc_set_hex(json_t *doc, const char *key, const uint8_t *bytes, size_t size)
{
    char text[2 * HEX_MAX + 1] = "";
    bool is_zero = true;
    for (size_t i = 0; i < size; i++)
        is_zero = is_zero && bytes[i] == 0;
    if (!is_zero && size <= HEX_MAX)
        hex_encode(bytes, size, text);
    doc_set_text(doc, key, text);
}

void doc_note_int(json_t *doc, const char *key, int64_t value)
{
    if (value)
        doc_set_int(doc, key, value);
}

void doc_note_real(json_t *doc, const char *key, double value)
{
    if (value < 0 || value > 0)
        doc_set_real(doc, key, value);
}

void doc_note_text(json_t *doc, const char *key, const char *value)
{
    if (value[0])
        doc_set_text(doc, key, value);
}
