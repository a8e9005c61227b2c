/* artifact.h: the artifact server: GET and HEAD /b/<sha256> with Range and ETag.
 *
 * Who knows a digest may fetch the file: a SHA-256 is 256 bits that only a signed plan tells. Nothing
 * else is served and nothing is listed. Devices verify what they got by the digest they asked for.
 */
#ifndef ARTIFACT_H
#define ARTIFACT_H

#include "controller/controller.h"

struct artifact_server;

/* Listens on the settings' [artifacts] address; the chosen port is written to STATE/artifact.port.
 * Errors: ERR_IO, ERR_ARGUMENT (address), ERR_MEMORY. */
NODISCARD enum err artifact_open(struct controller *c, struct artifact_server **out);
void artifact_close(struct artifact_server *s); /* NULL is allowed */
uint16_t artifact_port(const struct artifact_server *s);

/* "bytes=a-b", "bytes=a-", "bytes=-n" against a file of size bytes: 1 a range (first, last), 0 ignore
 * the header (another unit or several ranges), -1 not satisfiable. */
int artifact_range(const char *header, uint64_t size, uint64_t *first, uint64_t *last);

#endif
