/* table.c: rows of text with columns as wide as what they hold. */
#include "cli/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Columns on a terminal: code points, which is what names in this program's tables need. */
static size_t width(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void put(struct table *t, size_t at, const char *text, size_t chars)
{
    char *cell = t->cell[at];
    if (chars >= TABLE_CELL_MAX)
        chars = TABLE_CELL_MAX - 1;
    while (chars > 0 && ((unsigned char)text[chars] & 0xc0) == 0x80)
        chars--; /* not in the middle of a character */
    memcpy(cell, text, chars);
    cell[chars] = 0;
    for (; *cell; cell++)
        if ((unsigned char)*cell < 0x20 || *cell == 0x7f)
            *cell = '?';
}

/* Room for one more row; its index, or false when there is no memory. */
static bool grow(struct table *t, size_t *row)
{
    if (t->rows == t->capacity) {
        size_t more = t->capacity ? t->capacity * 2 : 16;
        void *cell =
            t->has_failed ? NULL : realloc(t->cell, more * (size_t)t->columns * sizeof *t->cell);
        if (!cell) {
            t->has_failed = true;
            return false;
        }
        t->cell = cell;
        t->capacity = more;
    }
    *row = t->rows++;
    return true;
}

void table_open(struct table *t, const char *headings)
{
    *t = (struct table){.columns = 1};
    for (const char *c = headings; *c; c++)
        t->columns += *c == '|' && t->columns < TABLE_COLUMNS_MAX;
    size_t row;
    if (!grow(t, &row))
        return;
    for (int i = 0; i < t->columns; i++) {
        size_t chars = strcspn(headings, "|");
        t->is_right[i] = headings[0] == '>';
        put(t, (size_t)i, headings + t->is_right[i], chars - t->is_right[i]);
        headings += chars + (headings[chars] == '|');
    }
}

void table_row(struct table *t, const char *const *cells)
{
    size_t row;
    if (!grow(t, &row))
        return;
    for (int i = 0; i < t->columns; i++) {
        const char *text = cells[i] ? cells[i] : "";
        put(t, row * (size_t)t->columns + (size_t)i, text, strlen(text));
    }
}

static void print_row(const struct table *t, size_t row, const size_t *widest)
{
    for (int i = 0; i < t->columns; i++) {
        const char *text = t->cell[row * (size_t)t->columns + (size_t)i];
        int gap = (int)(widest[i] - width(text));
        bool is_last = i + 1 == t->columns;
        if (t->is_right[i])
            printf("%*s%s%s", gap, "", text, is_last ? "" : "  ");
        else
            printf("%s%*s", text, is_last ? 0 : gap + 2, "");
    }
    putchar('\n');
}

void table_close(struct table *t, const struct cli_call *call)
{
    size_t widest[TABLE_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < t->rows * (size_t)t->columns; i++) {
        size_t w = width(t->cell[i]);
        if (w > widest[i % (size_t)t->columns])
            widest[i % (size_t)t->columns] = w;
    }
    for (size_t row = 0; row < t->rows && !call->common.json; row++)
        print_row(t, row, widest);
    free(t->cell);
    *t = (struct table){0};
}
