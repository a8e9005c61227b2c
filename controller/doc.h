/* doc.h: reading and filling the JSON documents of the registry without a check at every field.
 *
 * Readers give a stated default for what is absent or of another type. Writers that run out of memory
 * (or are given text that is not UTF-8) are remembered per thread, and registry_commit refuses then,
 * so a document with a missing field is never made durable.
 */
#ifndef DOC_H
#define DOC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "" , 0, 0.0, false when absent. The text lives as long as the document. */
const char *doc_text(const json_t *doc, const char *key);
int64_t doc_int(const json_t *doc, const char *key);
double doc_real(const json_t *doc, const char *key);
bool doc_bool(const json_t *doc, const char *key);

void doc_set_text(json_t *doc, const char *key, const char *value);
void doc_set_int(json_t *doc, const char *key, int64_t value);
void doc_set_real(json_t *doc, const char *key, double value); /* not finite: null */
void doc_set_bool(json_t *doc, const char *key, bool value);
void doc_set_hex(json_t *doc, const char *key, const uint8_t *bytes, size_t size); /* all zero: "" */
/* Steal the value; NULL counts as a failure. */
void doc_set(json_t *doc, const char *key, json_t *value);
void doc_append(json_t *array, json_t *value);
/* As above, but only what is not 0 (or ""): for facts that a device may leave out. */
void doc_note_int(json_t *doc, const char *key, int64_t value);
void doc_note_real(json_t *doc, const char *key, double value);
void doc_note_text(json_t *doc, const char *key, const char *value);

/* Did a writer fail on this thread since doc_forget_failure()? */
bool doc_has_failed(void);
void doc_forget_failure(void);

#endif
