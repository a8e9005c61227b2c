#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compress/profile.h"

static char folder[] = "/tmp/tare-profile-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Two linears; the rows' values are multiples of `factor`. */
static struct profile *sample(float factor)
{
    struct profile *p = NULL;
    struct profile_entry *e;
    float x[8 * 32];
    CU_ASSERT_EQUAL_FATAL(profile_open(&p), ERR_NONE);
    for (int i = 0; i < 8 * 32; i++)
        x[i] = factor * (float)(i % 32 + 1);
    CU_ASSERT_EQUAL_FATAL(profile_entry_get(p, "blk.0.ffn_up.weight", 32, 1, &e), ERR_NONE);
    profile_add_rows(e, 0, x, 8);
    CU_ASSERT_EQUAL_FATAL(profile_entry_get(p, "blk.0.attn_q.weight", 32, 1, &e), ERR_NONE);
    profile_add_rows(e, 0, x, 4);
    CU_ASSERT_EQUAL_FATAL(profile_add_dataset(p, "a.txt"), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_add_language(p, "en", 4096), ERR_NONE);
    p->chunks = 2;
    p->chunk_size = 4;
    return p;
}

static void counts_and_order(void)
{
    struct profile *p = sample(1);
    struct profile_entry *e;
    CU_ASSERT_EQUAL(p->entries, 2);
    CU_ASSERT_STRING_EQUAL(p->entry[0].name, "blk.0.attn_q.weight");
    CU_ASSERT_EQUAL(p->entry[0].count[0], 4);
    CU_ASSERT_EQUAL(p->entry[1].sum2[31], 8 * 32 * 32);
    CU_ASSERT_EQUAL(profile_entry_get(p, "blk.0.ffn_up.weight", 64, 1, &e), ERR_ARGUMENT);
    CU_ASSERT_PTR_NULL(profile_find(p, "blk.1.ffn_up.weight"));
    profile_close(p);
    profile_close(NULL);
}

static void both_forms_return(void)
{
    struct profile *p = sample(1), *q = NULL;
    struct fault f = {""};
    char sha[65], again[65];
    strcpy(p->base_sha256, "ab");
    CU_ASSERT_EQUAL_FATAL(profile_save(p, path_of("p.gguf"), sha, &f), ERR_NONE);
    CU_ASSERT_EQUAL(strlen(sha), 64);
    CU_ASSERT_EQUAL_FATAL(profile_load(path_of("p.gguf"), &q, &f), ERR_NONE);
    CU_ASSERT_EQUAL(q->entries, 2);
    CU_ASSERT_EQUAL(q->chunks, 2);
    CU_ASSERT_STRING_EQUAL(q->base_sha256, "ab");
    CU_ASSERT_STRING_EQUAL(q->language[0], "en=4096");
    CU_ASSERT_EQUAL(memcmp(p->entry[1].sum2, q->entry[1].sum2, 32 * sizeof(double)), 0);
    CU_ASSERT_EQUAL_FATAL(profile_save(q, path_of("q.gguf"), again, &f), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(sha, again);
    profile_close(q);
    q = NULL;
    CU_ASSERT_EQUAL_FATAL(profile_save_dat(p, path_of("p.dat"), &f), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_load(path_of("p.dat"), &q, &f), ERR_NONE);
    float a[32], b[32];
    profile_importance(&p->entry[1], 0, a);
    profile_importance(&q->entry[1], 0, b);
    for (int i = 0; i < 32; i++)
        CU_ASSERT_DOUBLE_EQUAL(a[i], b[i], 1e-4 * (double)a[i]);
    profile_close(q);
    profile_close(p);
}

/* Every prefix of both forms is refused or, where only provenance is cut, read. */
static void truncated(void)
{
    static const char *const names[] = {"p.gguf", "p.dat"};
    for (int form = 0; form < 2; form++) {
        static char bytes[65536];
        FILE *in = fopen(path_of(names[form]), "rb");
        CU_ASSERT_PTR_NOT_NULL_FATAL(in);
        const size_t size = fread(bytes, 1, sizeof bytes, in);
        fclose(in);
        uint32_t refused = 0;
        for (size_t n = 0; n < size; n += form ? 1 : 7) {
            struct profile *p = NULL;
            struct fault f = {""};
            FILE *to = fopen(path_of("cut"), "wb");
            CU_ASSERT_PTR_NOT_NULL_FATAL(to);
            CU_ASSERT_EQUAL(fwrite(bytes, 1, n, to), n);
            fclose(to);
            if (profile_load(path_of("cut"), &p, &f)) {
                CU_ASSERT_PTR_NULL(p);
                CU_ASSERT_NOT_EQUAL(f.text[0], 0);
                refused++;
            }
            profile_close(p);
        }
        CU_ASSERT_TRUE(refused > 100);
    }
}

static void merge_adds(void)
{
    struct profile *a = sample(1), *b = sample(2);
    struct profile_entry *e;
    struct fault f = {""};
    CU_ASSERT_EQUAL_FATAL(profile_merge(a, b, 0.5, &f), ERR_NONE);
    CU_ASSERT_EQUAL(a->entry[0].sum2[0], 4 + 0.5 * 16);
    CU_ASSERT_EQUAL(a->entry[0].count[0], 6);
    CU_ASSERT_EQUAL(profile_merge(a, b, 0, &f), ERR_ARGUMENT);
    CU_ASSERT_EQUAL_FATAL(profile_entry_get(b, "blk.9.x.weight", 5, 1, &e), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_entry_get(a, "blk.9.x.weight", 6, 1, &e), ERR_NONE);
    const double before = a->entry[0].sum2[0];
    CU_ASSERT_EQUAL(profile_merge(a, b, 1, &f), ERR_MISMATCH);
    CU_ASSERT_EQUAL(a->entry[0].sum2[0], before);
    profile_close(a);
    profile_close(b);
}

static void blend_balances(void)
{
    struct profile *a = sample(1), *b = sample(1), *into = NULL;
    struct profile_entry *e;
    float x[32];
    const double share[] = {1, 1};
    struct fault f = {""};
    for (int i = 0; i < 32; i++)
        x[i] = 3;
    CU_ASSERT_EQUAL_FATAL(profile_entry_get(b, "blk.0.ffn_up.weight", 32, 1, &e), ERR_NONE);
    for (int i = 0; i < 92; i++)
        profile_add_rows(e, 0, x, 1); /* 100 rows against 8 */
    const struct profile *sources[] = {a, b};
    CU_ASSERT_EQUAL_FATAL(profile_open(&into), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_blend(into, sources, share, 2, &f), ERR_NONE);
    const struct profile_entry *both = profile_find(into, "blk.0.ffn_up.weight");
    CU_ASSERT_PTR_NOT_NULL_FATAL(both);
    CU_ASSERT_DOUBLE_EQUAL(both->count[0], 108, 1e-9);
    /* column 0: 1 from a; (8 * 1 + 92 * 9) / 100 from b; equal shares */
    CU_ASSERT_DOUBLE_EQUAL(both->sum2[0] / both->count[0], (1 + 8.36) / 2, 1e-9);
    profile_close(a);
    profile_close(b);
    profile_close(into);
}

static void importance_has_floor(void)
{
    struct profile *p = NULL;
    struct profile_entry *e;
    float x[4] = {0, 1, 2, 3}, h[4];
    CU_ASSERT_EQUAL_FATAL(profile_open(&p), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_entry_get(p, "w", 4, 1, &e), ERR_NONE);
    profile_importance(e, 0, h);
    CU_ASSERT_EQUAL(h[0], 1);
    profile_add_rows(e, 0, x, 1);
    profile_importance(e, 0, h);
    CU_ASSERT_TRUE(h[0] > 0 && h[0] < 1e-6f);
    CU_ASSERT_EQUAL(h[3], 9);
    profile_close(p);
}

/* Columns' energies from a fixed generator: two samples of one source hardly drift, another source does. */
static void fill(struct profile_entry *e, uint32_t rows, uint64_t seed, bool is_tilted)
{
    float x[64];
    for (uint32_t r = 0; r < rows; r++) {
        for (int c = 0; c < 64; c++) {
            double sum = 0;
            for (int k = 0; k < 12; k++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                sum += (double)(seed >> 40) / 16777216.0 - 0.5;
            }
            x[c] = (float)(sum * (is_tilted ? (double)(c + 1) / 16 : 1));
        }
        profile_add_rows(e, 0, x, 1);
    }
}

static void drift_sees_change(void)
{
    struct profile *p[3] = {NULL};
    struct profile_entry *e;
    struct profile_drift same, other, self;
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL_FATAL(profile_open(&p[i]), ERR_NONE);
        CU_ASSERT_EQUAL_FATAL(profile_entry_get(p[i], "w", 64, 1, &e), ERR_NONE);
        fill(e, 2000, (uint64_t)i + 1, i == 2);
    }
    CU_ASSERT_EQUAL_FATAL(profile_compare(p[0], p[0], &self), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_compare(p[0], p[1], &same), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(profile_compare(p[0], p[2], &other), ERR_NONE);
    CU_ASSERT_EQUAL(self.score, 0);
    CU_ASSERT_TRUE(same.score < 0.003);
    CU_ASSERT_TRUE(other.score > 0.05);
    CU_ASSERT_STRING_EQUAL(other.worst_name, "w");
    CU_ASSERT_EQUAL(other.compared, 1);
    for (int i = 0; i < 3; i++)
        profile_close(p[i]);
    for (int i = 0; i < 4; i++) {
        static const char *const left[] = {"p.gguf", "q.gguf", "p.dat", "cut"};
        unlink(path_of(left[i]));
    }
    rmdir(folder);
}

static void folder_made(void)
{
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
}

RUN_SUITE("profile", {"folder_made", folder_made}, {"counts_and_order", counts_and_order},
          {"both_forms_return", both_forms_return}, {"truncated", truncated}, {"merge_adds", merge_adds},
          {"blend_balances", blend_balances}, {"importance_has_floor", importance_has_floor},
          {"drift_sees_change", drift_sees_change})
