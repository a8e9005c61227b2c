/* seen.h: which reports of a device's reliable streams have been applied.
 *
 * Each stream is numbered from 1. up_to says that everything up to and with it was applied; what came
 * ahead of a gap is kept as ranges, so nothing is applied twice and an acknowledgement never covers a
 * gap. Kept as a document per (device, epoch), changed in the transaction that applies the report.
 */
#ifndef SEEN_H
#define SEEN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"

enum { SEEN_RANGES_MAX = 64, SEEN_GAP_S = 600, SEEN_GAP_REPEATS = 3 };

struct seen {
    uint64_t up_to;
    uint32_t ranges;
    uint64_t range[SEEN_RANGES_MAX][2]; /* ascending, disjoint, not adjacent, all above up_to + 1 */
    int64_t gap_s;                      /* since when there is a gap; 0: there is none */
    uint32_t repeats;                   /* of what lies beyond the gap, since then */
};

bool seen_has(const struct seen *s, uint64_t seq);

/* Mark first..last. Errors: ERR_ARGUMENT (0, or first above last), ERR_FULL (too many gaps: refuse the
 * report, it will come again). */
NODISCARD enum err seen_add(struct seen *s, uint64_t first, uint64_t last, int64_t now_s);

/* Something beyond the gap came again: its sender has nothing older. After SEEN_GAP_S and
 * SEEN_GAP_REPEATS of these the gap is given up. Returns how many numbers were given up, 0 usually. */
uint64_t seen_repeat(struct seen *s, int64_t now_s);

/* To and from {"up_to": n, "ranges": [[a, b], ...], "gap": s, "repeats": n}. from: NULL gives an empty one. */
void seen_from_doc(const json_t *doc, struct seen *out);
json_t *seen_to_doc(const struct seen *s);

#endif
