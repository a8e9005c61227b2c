/* table.h: rows of text with columns as wide as what they hold. */
#ifndef TABLE_H
#define TABLE_H

#include "cli/cli.h"

enum { TABLE_COLUMNS_MAX = 16, TABLE_CELL_MAX = 96 };

struct table {
    int columns;
    size_t rows, capacity;
    bool is_right[TABLE_COLUMNS_MAX]; /* numbers: the heading begins with '>' */
    char (*cell)[TABLE_CELL_MAX];     /* rows x columns; the first row is the heading */
    bool has_failed;                  /* no memory: later calls do nothing */
};

/* headings: "device|plugin|>bpw", split at '|'; a leading '>' aligns the column to the right. */
void table_open(struct table *t, const char *headings);

/* Add one row: one text per column; a longer text is cut. Control characters become '?'. */
void table_row(struct table *t, const char *const *cells);

/* Print to standard output, nothing with --json, and release. */
void table_close(struct table *t, const struct cli_call *call);

#endif
