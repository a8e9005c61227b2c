/* ceilings.c: what a run of a model could reach at most on this machine at this moment, one line of JSON:
 * the arithmetic of a prefilled token, the bytes of a decoded one, and the ceilings for both.
 *
 *   ceilings MODEL.gguf [THREADS [MS]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hal/ceiling.h"
#include "model/gguf.h"

int main(int argc, char **argv)
{
    struct gguf *g = NULL;
    struct ceiling c;
    char reason[GGUF_REASON_BYTES] = "";
    const int threads = argc > 2 ? atoi(argv[2]) : 2, ms = argc > 3 ? atoi(argv[3]) : 150;
    if (argc < 2 || threads < 1 || ms < 1) {
        fprintf(stderr, "usage: ceilings MODEL.gguf [THREADS [MS]]\n");
        return 2;
    }
    enum err e = gguf_open(argv[1], &g, reason);
    double products = 0, bytes = 0, table = 0;
    int has_head = 0;
    for (uint32_t i = 0; !e && i < gguf_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        const int is_table = strcmp(t->name, "token_embd.weight") == 0;
        const int is_head = strcmp(t->name, "output.weight") == 0;
        has_head |= is_head;
        if (is_table)
            table = (double)t->bytes;
        else
            bytes += (double)t->bytes;
        if (!is_table && !is_head && t->dims > 1)
            products += (double)t->shape[0] * (double)t->shape[1];
    }
    if (!has_head)
        bytes += table; /* the table is the head too */
    if (!e)
        e = ceiling_measure((uint32_t)threads, (size_t)bytes, (uint32_t)ms, &c);
    if (e)
        fprintf(stderr, "ceilings: %s: %s\n", argv[1], *reason ? reason : err_name(e));
    else
        printf("{\"threads\":%d,\"ops_token\":%.0f,\"bytes_token\":%.0f,\"read_gbs\":%.2f,\"int8_gops\":%.1f,"
               "\"tile_gops\":%.1f}\n",
               threads, 2 * products, bytes, c.read_gbs, c.int8_gops, c.tile_gops);
    gguf_close(g);
    return e ? 4 : 0;
}
