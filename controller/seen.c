/* seen.c: applied sequence numbers as one mark and a few ranges. */
#include "controller/seen.h"

#include <string.h>

#include "controller/doc.h"

bool seen_has(const struct seen *s, uint64_t seq)
{
    if (seq <= s->up_to)
        return true;
    for (uint32_t i = 0; i < s->ranges; i++)
        if (seq >= s->range[i][0] && seq <= s->range[i][1])
            return true;
    return false;
}

static void drop_range(struct seen *s, uint32_t i)
{
    memmove(&s->range[i], &s->range[i + 1], (s->ranges - i - 1) * sizeof s->range[0]);
    s->ranges--;
}

static void close_gap(struct seen *s)
{
    while (s->ranges > 0 && s->range[0][0] <= s->up_to + 1) {
        if (s->range[0][1] > s->up_to)
            s->up_to = s->range[0][1];
        drop_range(s, 0);
    }
}

enum err seen_add(struct seen *s, uint64_t first, uint64_t last, int64_t now_s)
{
    if (first == 0 || first > last)
        return ERR_ARGUMENT;
    uint64_t before = s->up_to;
    if (first <= s->up_to + 1) {
        if (last > s->up_to)
            s->up_to = last;
    } else {
        uint32_t i = 0;
        while (i < s->ranges && s->range[i][1] + 1 < first)
            i++;
        if (i < s->ranges && s->range[i][0] <= last + 1) {
            if (first < s->range[i][0])
                s->range[i][0] = first;
            if (last > s->range[i][1])
                s->range[i][1] = last;
            while (i + 1 < s->ranges && s->range[i + 1][0] <= s->range[i][1] + 1) {
                if (s->range[i + 1][1] > s->range[i][1])
                    s->range[i][1] = s->range[i + 1][1];
                drop_range(s, i + 1);
            }
        } else {
            if (s->ranges == SEEN_RANGES_MAX)
                return ERR_FULL;
            memmove(&s->range[i + 1], &s->range[i], (s->ranges - i) * sizeof s->range[0]);
            s->range[i][0] = first;
            s->range[i][1] = last;
            s->ranges++;
        }
    }
    close_gap(s);
    if (s->ranges == 0) {
        s->gap_s = 0;
        s->repeats = 0;
    } else if (s->gap_s == 0 || s->up_to != before) {
        s->gap_s = now_s; /* a gap that moves is being filled */
        s->repeats = 0;
    }
    return ERR_NONE;
}

uint64_t seen_repeat(struct seen *s, int64_t now_s)
{
    if (s->ranges == 0)
        return 0;
    s->repeats++;
    if (s->repeats < SEEN_GAP_REPEATS || now_s - s->gap_s < SEEN_GAP_S)
        return 0;
    uint64_t lost = s->range[0][0] - s->up_to - 1;
    s->up_to = s->range[0][0] - 1;
    close_gap(s);
    s->gap_s = s->ranges ? now_s : 0;
    s->repeats = 0;
    return lost;
}

void seen_from_doc(const json_t *doc, struct seen *out)
{
    memset(out, 0, sizeof *out);
    out->up_to = (uint64_t)doc_int(doc, "up_to");
    out->gap_s = doc_int(doc, "gap");
    out->repeats = (uint32_t)doc_int(doc, "repeats");
    const json_t *ranges = json_object_get(doc, "ranges");
    for (size_t i = 0; i < json_array_size(ranges) && i < SEEN_RANGES_MAX; i++) {
        const json_t *pair = json_array_get(ranges, i);
        out->range[i][0] = (uint64_t)json_integer_value(json_array_get(pair, 0));
        out->range[i][1] = (uint64_t)json_integer_value(json_array_get(pair, 1));
        out->ranges++;
    }
}

json_t *seen_to_doc(const struct seen *s)
{
    json_t *doc = json_object();
    json_t *ranges = json_array();
    if (!doc || !ranges) {
        json_decref(doc);
        json_decref(ranges);
        return NULL;
    }
    for (uint32_t i = 0; i < s->ranges; i++)
        doc_append(ranges, json_pack("[I,I]", (json_int_t)s->range[i][0], (json_int_t)s->range[i][1]));
    doc_set_int(doc, "up_to", (int64_t)s->up_to);
    doc_set(doc, "ranges", ranges);
    doc_set_int(doc, "gap", s->gap_s);
    doc_set_int(doc, "repeats", s->repeats);
    return doc;
}
