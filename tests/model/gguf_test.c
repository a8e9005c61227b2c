/* gguf_test.c: what the writer wrote the reader gives back; what is damaged is refused by name. */
#include "tests/harness.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hal/hal.h"
#include "model/gguf.h"

#define TINY SOURCE_DIR "/models/tare-tiny/tare-tiny-f16.gguf"

static char reason[GGUF_REASON_BYTES];
static char folder[] = "/tmp/gguf_test.XXXXXX";

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static uint8_t *read_all(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    CU_ASSERT_FATAL(f != NULL);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*size + 1);
    CU_ASSERT_EQUAL_FATAL(fread(bytes, 1, *size, f), *size);
    fclose(f);
    return bytes;
}

static enum err try_bytes(const uint8_t *bytes, size_t size)
{
    struct gguf *g = NULL;
    uint8_t *exact = malloc(size ? size : 1); /* its own block: a read beyond is seen by ASan */
    memcpy(exact, bytes, size);
    const enum err e = gguf_open_bytes(exact, size, "m.gguf", &g, reason);
    CU_ASSERT((e == ERR_NONE) == (g != NULL));
    CU_ASSERT((e == ERR_NONE) == (reason[0] == 0));
    gguf_close(g);
    free(exact);
    return e;
}

/* A file of two tensors and every kind of value. */
static struct gguf_writer *begin_sample(const char *path, uint32_t alignment)
{
    struct gguf_writer *w = NULL;
    static const struct gguf_text words[] = {{"one", 3}, {"", 0}, {"th\0ree", 6}};
    static const int32_t numbers[] = {-1, 0, 7};
    static const uint64_t flat[] = {40}, square[] = {32, 3, 2};
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(path, alignment, &w), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_string(w, "general.architecture", "llama", 5), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_u32(w, "a.u32", 1), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_u64(w, "a.u64", 1ull << 40), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_f32(w, "a.f32", 0.5f), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_bool(w, "a.bool", true), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_array(w, "a.numbers", GGUF_I32, numbers, 3), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_strings(w, "a.words", words, 3), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_u32(w, "a.u32", 4000000000u), ERR_NONE); /* replaces */
    CU_ASSERT_EQUAL(gguf_writer_u32(w, "a.gone", 1), ERR_NONE);
    gguf_writer_remove(w, "a.gone");
    CU_ASSERT_EQUAL(gguf_writer_tensor(w, "flat", HAL_F32, 1, flat), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_tensor(w, "square", HAL_Q8_0, 3, square), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_tensor(w, "flat", HAL_F32, 1, flat), ERR_ARGUMENT);
    return w;
}

static uint8_t data[160 + 204];

static void write_sample(const char *path, uint32_t alignment)
{
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    struct gguf_writer *w = begin_sample(path, alignment);
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_append(w, data, 100), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_append(w, data, 61), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(gguf_writer_append(w, data + 100, 60), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_commit(w), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(gguf_writer_append(w, data + 160, 204), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
}

static void check_sample(const struct gguf *g)
{
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    float f32 = 0;
    bool truth = false;
    struct gguf_text text = {NULL, 0};
    CU_ASSERT_EQUAL(gguf_u32(g, "a.u32", &u32), ERR_NONE);
    CU_ASSERT_EQUAL(u32, 4000000000u);
    CU_ASSERT_EQUAL(gguf_u64(g, "a.u64", &u64), ERR_NONE);
    CU_ASSERT_EQUAL(u64, 1ull << 40);
    CU_ASSERT_EQUAL(gguf_u32(g, "a.u64", &u32), ERR_FORMAT);
    CU_ASSERT_EQUAL(gguf_u32(g, "a.f32", &u32), ERR_FORMAT);
    CU_ASSERT_EQUAL(gguf_u32(g, "a.gone", &u32), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(gguf_f32(g, "a.f32", &f32), ERR_NONE);
    CU_ASSERT_EQUAL(f32, 0.5f);
    CU_ASSERT_EQUAL(gguf_bool(g, "a.bool", &truth), ERR_NONE);
    CU_ASSERT(truth);
    CU_ASSERT_EQUAL(gguf_string(g, "general.architecture", &text), ERR_NONE);
    CU_ASSERT(text.bytes == 5 && memcmp(text.text, "llama", 5) == 0);
    const struct gguf_value *numbers = gguf_find(g, "a.numbers"), *words = gguf_find(g, "a.words");
    CU_ASSERT_FATAL(numbers != NULL && words != NULL);
    CU_ASSERT_EQUAL(numbers->count, 3);
    CU_ASSERT_EQUAL(gguf_number(numbers, 0), -1);
    CU_ASSERT_EQUAL(gguf_number(numbers, 2), 7);
    CU_ASSERT_EQUAL(gguf_number(numbers, 3), 0);
    size_t at = 0;
    CU_ASSERT(gguf_next_string(words, &at, &text) && text.bytes == 3);
    CU_ASSERT(gguf_next_string(words, &at, &text) && text.bytes == 0);
    CU_ASSERT(gguf_next_string(words, &at, &text) && text.bytes == 6);
    CU_ASSERT(!gguf_next_string(words, &at, &text));
    const struct gguf_tensor *square = gguf_tensor_find(g, "square");
    CU_ASSERT_FATAL(square != NULL);
    CU_ASSERT_EQUAL(square, gguf_tensor(g, 1));
    CU_ASSERT(square->rows == 6 && square->row_bytes == 34 && square->bytes == 204);
    CU_ASSERT(square->shape[0] == 32 && square->shape[2] == 2 && square->shape[3] == 1);
    CU_ASSERT_EQUAL(memcmp(square->data, data + 160, 204), 0);
    CU_ASSERT_EQUAL(memcmp(gguf_tensor(g, 0)->data, data, 160), 0);
    CU_ASSERT_EQUAL(gguf_tensor_find(g, "squar"), NULL);
    CU_ASSERT_EQUAL(gguf_tensor(g, 2), NULL);
}

static void round_trip(void)
{
    static const uint32_t alignments[] = {32, 64, 8, 4096};
    for (size_t i = 0; i < 4; i++) {
        struct gguf *g = NULL;
        write_sample(path_of("a.gguf"), alignments[i]);
        CU_ASSERT_EQUAL_FATAL(gguf_open(path_of("a.gguf"), &g, reason), ERR_NONE);
        CU_ASSERT_EQUAL(gguf_alignment(g), alignments[i]);
        CU_ASSERT_EQUAL(access(path_of("a.gguf.part"), F_OK), -1);
        check_sample(g);
        gguf_drop(g, gguf_tensor(g, 0)->data, gguf_tensor(g, 0)->bytes);
        check_sample(g);
        gguf_close(g);
    }
    struct gguf_writer *w = NULL;
    CU_ASSERT_EQUAL(gguf_writer_open("x", 12, &w), ERR_ARGUMENT);
}

static void copies_another(void)
{
    struct gguf *g = NULL, *copy = NULL;
    struct gguf_writer *w = NULL;
    char name[128];
    snprintf(name, sizeof name, "%s/copy.gguf", folder);
    CU_ASSERT_EQUAL_FATAL(gguf_open(TINY, &g, reason), ERR_NONE);
    CU_ASSERT_EQUAL_FATAL(gguf_writer_open(name, 32, &w), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_copy_all(w, g), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        CU_ASSERT_EQUAL(gguf_writer_tensor(w, t->name, t->type, t->dims, t->shape), ERR_NONE);
    }
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_NONE);
    for (uint32_t i = 0; i < gguf_tensors(g); i++)
        CU_ASSERT_EQUAL(gguf_writer_append(w, gguf_tensor(g, i)->data, gguf_tensor(g, i)->bytes), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
    CU_ASSERT_EQUAL_FATAL(gguf_open(name, &copy, reason), ERR_NONE);
    size_t size = 0, copy_size = 0;
    uint8_t *a = read_all(TINY, &size), *b = read_all(name, &copy_size);
    CU_ASSERT_EQUAL(size, copy_size);
    CU_ASSERT_EQUAL(memcmp(a, b, size), 0);
    free(a);
    free(b);
    gguf_close(g);
    gguf_close(copy);
}

static void resumes(void)
{
    char wanted[128], part[128], name[128];
    snprintf(wanted, sizeof wanted, "%s/whole.gguf", folder);
    snprintf(name, sizeof name, "%s/r.gguf", folder);
    snprintf(part, sizeof part, "%s/r.gguf.part", folder);
    write_sample(wanted, 32);
    struct gguf_writer *w = begin_sample(name, 32);
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_append(w, data, 160), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_append(w, data, 33), ERR_NONE); /* of the second: wrong, and cut off */
    CU_ASSERT_EQUAL(gguf_writer_sync(w), ERR_NONE);
    gguf_writer_keep(w);
    gguf_writer_close(w);
    CU_ASSERT_EQUAL(access(part, F_OK), 0);

    w = begin_sample(name, 32);
    CU_ASSERT_EQUAL(gguf_writer_u32(w, "a.u32", 5), ERR_NONE); /* another plan */
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 1), ERR_MISMATCH);
    CU_ASSERT(strstr(gguf_writer_reason(w), "another plan") != NULL);
    gguf_writer_close(w);
    w = begin_sample(name, 32);
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 2), ERR_MISMATCH); /* shorter than two tensors */
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 3), ERR_ARGUMENT);
    gguf_writer_close(w);

    w = begin_sample(name, 32);
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 1), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_append(w, data + 160, 204), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_commit(w), ERR_NONE);
    gguf_writer_close(w);
    size_t size = 0, other = 0;
    uint8_t *a = read_all(wanted, &size), *b = read_all(name, &other);
    CU_ASSERT_EQUAL(size, other);
    CU_ASSERT_EQUAL(memcmp(a, b, size), 0);
    free(a);
    free(b);

    w = begin_sample(name, 32); /* given up: the file that is there stays, the part goes */
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_NONE);
    gguf_writer_close(w);
    CU_ASSERT_EQUAL(access(part, F_OK), -1);
    CU_ASSERT_EQUAL(access(name, F_OK), 0);
}

static void truncated(void)
{
    size_t size = 0;
    uint8_t *bytes = read_all(TINY, &size);
    for (size_t at = 0; at < size; at += 1024) {
        const enum err e = try_bytes(bytes, at);
        CU_ASSERT_EQUAL(e, ERR_FORMAT);
        CU_ASSERT(strncmp(reason, "m.gguf: byte ", 13) == 0);
        if (e != ERR_FORMAT)
            break;
    }
    CU_ASSERT_EQUAL(try_bytes(bytes, size - 1), ERR_FORMAT);
    CU_ASSERT_EQUAL(try_bytes(bytes, size), ERR_NONE);
    free(bytes);
    write_sample(path_of("t.gguf"), 32);
    bytes = read_all(path_of("t.gguf"), &size);
    for (size_t at = 0; at < size - 20; at++) /* the last 20 bytes are padding */
        CU_ASSERT_EQUAL(try_bytes(bytes, at), ERR_FORMAT);
    free(bytes);
}

static void put_u64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

static void hostile(void)
{
    static const uint64_t numbers[] = {0xffffffffffffffffu, 0x8000000000000000u, 0x7fffffffffffffffu,
                                       0x100000000u,        0xffffffffu,         1u << 26,
                                       0x1000000000000000u, 0xfffffffffffffff8u, 65537};
    size_t size = 0;
    write_sample(path_of("h.gguf"), 32);
    uint8_t *bytes = read_all(path_of("h.gguf"), &size), *bad = malloc(size);
    const uint8_t *square = memmem(bytes, size, "square", 6);
    const size_t at = (size_t)(square - bytes); /* then dims, 3 of them, type, offset */
    const size_t places[] = {8, 16, 24, at - 8, at + 10, at + 18, at + 26, at + 38};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++)
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
            memcpy(bad, bytes, size);
            put_u64(bad + places[p], numbers[n]);
            CU_ASSERT_NOT_EQUAL(try_bytes(bad, size), ERR_NONE);
        }
    memcpy(bad, bytes, size);
    bad[0] = 'g';
    CU_ASSERT_EQUAL(try_bytes(bad, size), ERR_FORMAT);
    CU_ASSERT_STRING_EQUAL(reason, "m.gguf: byte 0: expected the magic GGUF, found 67 47 55 46");
    memcpy(bad, bytes, size);
    bad[4] = 2;
    CU_ASSERT_EQUAL(try_bytes(bad, size), ERR_VERSION);
    memcpy(bad, bytes, size);
    bad[at + 34] = 99; /* element type */
    CU_ASSERT_EQUAL(try_bytes(bad, size), ERR_UNSUPPORTED);
    memcpy(bad, bytes, size);
    memcpy(memmem(bad, size, "a.u32", 5), "a.f32", 5);
    CU_ASSERT_EQUAL(try_bytes(bad, size), ERR_FORMAT);
    CU_ASSERT(strstr(reason, "twice") != NULL);
    /* Any single byte may be anything: no crash, and the reader's promise holds. */
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit += 7) {
            memcpy(bad, bytes, size);
            bad[i] ^= (uint8_t)(1 << bit);
            (void)try_bytes(bad, size);
        }
    free(bytes);
    free(bad);
}

static void bad_paths(void)
{
    struct gguf *g = NULL;
    CU_ASSERT_EQUAL(gguf_open("/nonexistent/x.gguf", &g, reason), ERR_NOT_FOUND);
    CU_ASSERT_STRING_EQUAL(reason, "/nonexistent/x.gguf: No such file or directory");
    CU_ASSERT_EQUAL(gguf_open("/tmp", &g, reason), ERR_FORMAT);
    struct gguf_writer *w = begin_sample("/nonexistent/x.gguf", 32);
    CU_ASSERT_EQUAL(gguf_writer_begin(w, 0), ERR_IO);
    CU_ASSERT_STRING_EQUAL(gguf_writer_reason(w), "/nonexistent/x.gguf.part: open: No such file or directory");
    gguf_writer_close(w);
    gguf_writer_close(NULL);
    gguf_close(NULL);
}

/* A second writer of one name is told so, and does nothing to what the first one makes. */
static void one_writer_has_it(void)
{
    char part[160];
    snprintf(part, sizeof part, "%s.part", path_of("t.gguf"));
    struct gguf_writer *first = begin_sample(path_of("t.gguf"), 32), *second = begin_sample(path_of("t.gguf"), 32);
    CU_ASSERT_EQUAL_FATAL(gguf_writer_begin(first, 0), ERR_NONE);
    CU_ASSERT_EQUAL(gguf_writer_begin(second, 0), ERR_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(gguf_writer_reason(second), "t.gguf.part: another run writes it"));
    CU_ASSERT_EQUAL(gguf_writer_begin(second, 1), ERR_IO);
    gguf_writer_close(second);
    CU_ASSERT_EQUAL(access(part, F_OK), 0);
    gguf_writer_close(first);
    CU_ASSERT_NOT_EQUAL(access(part, F_OK), 0);
    first = begin_sample(path_of("t.gguf"), 32);
    CU_ASSERT_EQUAL_FATAL(mkfifo(part, 0600), 0);
    CU_ASSERT_EQUAL(gguf_writer_begin(first, 0), ERR_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(gguf_writer_reason(first), "no regular file"));
    gguf_writer_close(first);
    CU_ASSERT_EQUAL(unlink(part), 0);
}

static void clean_up(void)
{
    static const char *const names[] = {"a", "copy", "whole", "r", "t", "h"};
    char path[128];
    for (size_t i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/%s.gguf", folder, names[i]);
        CU_ASSERT_EQUAL(unlink(path), 0);
    }
    CU_ASSERT_EQUAL(rmdir(folder), 0); /* nothing else was left */
}

static void make_folder(void)
{
    CU_ASSERT_FATAL(mkdtemp(folder) != NULL);
}

RUN_SUITE("model/gguf", {"folder", make_folder}, {"round trip", round_trip},
          {"copies another", copies_another}, {"resumes", resumes}, {"truncated", truncated},
          {"hostile", hostile}, {"bad paths", bad_paths}, {"one writer has it", one_writer_has_it},
          {"clean up", clean_up})
