/* cbor_test.c tests protocol/cbor.c and cbor_write.c: examples of RFC 8949 appendix A and what is
 * refused. */
#include "tests/harness.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/cbor.h"
#include "protocol/cbor_float.h"
#include "protocol/hex.h"
#include "protocol/text.h"

static size_t from_hex(const char *hex, uint8_t *out, size_t capacity)
{
    size_t size = strlen(hex) / 2;
    CU_ASSERT_TRUE_FATAL(size <= capacity && hex_decode(hex, strlen(hex), out, size) == ERR_NONE);
    return size;
}

static void expect_written(const struct cbor_writer *w, const char *hex)
{
    char text[256];
    size_t size = 0;
    CU_ASSERT_EQUAL(cbor_written(w, &size), ERR_NONE);
    hex_encode(w->at, size, text);
    CU_ASSERT_STRING_EQUAL(text, hex);
}

static void integers(void)
{
    static const struct {
        int64_t value;
        const char *hex;
    } vectors[] = {{0, "00"},
                   {23, "17"},
                   {24, "1818"},
                   {255, "18ff"},
                   {256, "190100"},
                   {65535, "19ffff"},
                   {65536, "1a00010000"},
                   {4294967295, "1affffffff"},
                   {4294967296, "1b0000000100000000"},
                   {INT64_MAX, "1b7fffffffffffffff"},
                   {-1, "20"},
                   {-24, "37"},
                   {-25, "3818"},
                   {-1000, "3903e7"},
                   {INT64_MIN, "3b7fffffffffffffff"}};
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        uint8_t bytes[16];
        struct cbor_writer w;
        struct cbor_reader r;
        int64_t value = 0;
        cbor_writer_init(&w, bytes, sizeof bytes);
        cbor_write_i64(&w, vectors[i].value);
        expect_written(&w, vectors[i].hex);
        cbor_reader_init(&r, bytes, w.size);
        CU_ASSERT_EQUAL(cbor_read_i64(&r, &value), ERR_NONE);
        CU_ASSERT_EQUAL(value, vectors[i].value);
        CU_ASSERT_EQUAL(cbor_finish(&r), ERR_NONE);
    }
    uint8_t bytes[9] = {0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct cbor_reader r;
    uint64_t u = 0;
    int64_t i = 5;
    cbor_reader_init(&r, bytes, sizeof bytes);
    CU_ASSERT_EQUAL(cbor_read_i64(&r, &i), ERR_FORMAT);
    CU_ASSERT_EQUAL(i, 5);
    CU_ASSERT_EQUAL(cbor_read_u64(&r, &u), ERR_NONE); /* the reader had not moved */
    CU_ASSERT_EQUAL(u, UINT64_MAX);
}

static void floats(void)
{
    static const struct {
        double value;
        const char *hex;
    } vectors[] = {{0.0, "f90000"},
                   {-0.0, "f98000"},
                   {1.0, "f93c00"},
                   {1.5, "f93e00"},
                   {65504.0, "f97bff"},
                   {100000.0, "fa47c35000"},
                   {3.4028234663852886e+38, "fa7f7fffff"},
                   {1.0e+300, "fb7e37e43c8800759c"},
                   {5.960464477539063e-8, "f90001"},
                   {0.00006103515625, "f90400"},
                   {-4.0, "f9c400"},
                   {-4.1, "fbc010666666666666"},
                   {1.1, "fb3ff199999999999a"}};
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        uint8_t bytes[16];
        struct cbor_writer w;
        struct cbor_reader r;
        double value = 7;
        cbor_writer_init(&w, bytes, sizeof bytes);
        cbor_write_f64(&w, vectors[i].value);
        expect_written(&w, vectors[i].hex);
        cbor_reader_init(&r, bytes, w.size);
        CU_ASSERT_EQUAL(cbor_read_f64(&r, &value), ERR_NONE);
        CU_ASSERT_EQUAL(memcmp(&value, &vectors[i].value, sizeof value), 0);
    }
    struct cbor_writer w;
    uint8_t bytes[16];
    cbor_writer_init(&w, bytes, sizeof bytes);
    cbor_write_f64(&w, (double)NAN);
    size_t size;
    CU_ASSERT_EQUAL(cbor_written(&w, &size), ERR_ARGUMENT);
    cbor_writer_init(&w, bytes, sizeof bytes);
    cbor_write_f64(&w, (double)INFINITY);
    CU_ASSERT_EQUAL(cbor_written(&w, &size), ERR_ARGUMENT);
}

/* every binary16 value is found exactly, and its neighbours of binary32 are not */
static void every_half(void)
{
    unsigned exact = 0, wide = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        if ((h & 0x7c00) == 0x7c00)
            continue;
        float value = ldexpf((float)(h & 0x3ff) + ((h & 0x7c00) ? 1024.0f : 0.0f),
                             ((h & 0x7c00) ? (int)(h >> 10 & 31) : 1) - 25);
        value = h & 0x8000 ? -value : value;
        uint16_t bits = 0;
        exact += cbor_float_half(value, &bits) && bits == h;
        float next = nextafterf(value, value > 0 ? FLT_MAX : -FLT_MAX);
        wide += !cbor_float_half(next, &bits) && cbor_float_bytes((double)next) == 4;
    }
    CU_ASSERT_EQUAL(exact, 0x10000 - 0x800);
    CU_ASSERT_EQUAL(wide, 0x10000 - 0x800);
}

static void strings_and_containers(void)
{
    uint8_t bytes[128];
    struct cbor_writer w;
    struct cbor_reader r;
    cbor_writer_init(&w, bytes, sizeof bytes);
    cbor_write_map(&w, 4);
    cbor_write_key(&w, 1);
    cbor_write_string(&w, "aü");
    cbor_write_key(&w, 500);
    cbor_write_array(&w, 3);
    cbor_write_bool(&w, true);
    cbor_write_null(&w);
    cbor_write_bytes(&w, "\1\2", 2);
    cbor_write_key(&w, -1);
    cbor_write_array(&w, 0);
    cbor_write_key(&w, -500);
    cbor_write_map(&w, 0);
    expect_written(&w, "a4016361c3bc1901f483f5f64201022080"
                       "3901f3a0");
    cbor_reader_init(&r, bytes, w.size);
    CU_ASSERT_EQUAL(cbor_check(bytes, w.size), ERR_NONE);
    uint64_t n = 0;
    int64_t key = 0;
    char text[4], small[3];
    uint8_t two[2];
    bool flag = false;
    CU_ASSERT_EQUAL(cbor_peek(&r), CBOR_KIND_MAP);
    CU_ASSERT_EQUAL(cbor_enter_map(&r, &n), ERR_NONE);
    CU_ASSERT_EQUAL(n, 4);
    CU_ASSERT_EQUAL(cbor_next_key(&r, &key), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_next_key(&r, &key), ERR_FORMAT); /* its value comes first */
    CU_ASSERT_EQUAL(cbor_read_text_into(&r, small, sizeof small), ERR_FORMAT);
    CU_ASSERT_EQUAL(cbor_read_text_into(&r, text, sizeof text), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(text, "aü");
    CU_ASSERT_EQUAL(cbor_next_key(&r, &key), ERR_NONE);
    CU_ASSERT_EQUAL(key, 500);
    CU_ASSERT_EQUAL(cbor_enter_array(&r, &n), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_read_bool(&r, &flag), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_leave(&r), ERR_FORMAT); /* two items are left */
    CU_ASSERT_EQUAL(cbor_read_null(&r), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_read_bytes_into(&r, two, 2), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_peek(&r), CBOR_KIND_NONE);
    CU_ASSERT_EQUAL(cbor_read_null(&r), ERR_FORMAT);
    CU_ASSERT_EQUAL(cbor_leave(&r), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_next_key(&r, &key), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_skip(&r), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_next_key(&r, &key), ERR_NONE);
    CU_ASSERT_EQUAL(key, -500);
    CU_ASSERT_EQUAL(cbor_skip(&r), ERR_NONE);
    CU_ASSERT_EQUAL(cbor_next_key(&r, &key), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(cbor_finish(&r), ERR_NONE);
}

static void refuses(void)
{
    static const char *const wrong[] = {
        /* longer heads than needed */
        "1800", "1817", "1900ff", "1a0000ffff", "1b00000000ffffffff", "3800", "5800", "7800",
        "9800", "b800", "580100",
        /* order and duplicates */
        "a201000100", "a202000100", "a220000000", "a221002000",
        /* keys that are no integers */
        "a1616100", "a1400000", "a18000", "a1f400",
        /* indefinite lengths, tags, simple values */
        "5f4101ff", "7f6161ff", "9fff", "bfff", "c000", "d81200", "81d28440", "f7", "f0", "f818",
        "ff",
        /* floats that are too long or no numbers */
        "fa3f800000", "fb3ff0000000000000", "fb47efffffe0000000", "f97c00", "f97e00", "fa7fc00000",
        "fb7ff0000000000000",
        /* text that is no UTF-8 */
        "61ff", "62c080", "63eda080", "64f4908080", "61c3",
        /* lengths that lie */
        "41", "5affffffff00", "5bffffffffffffffff00", "9affffffff00", "9bffffffffffffffff",
        "bbffffffffffffffff", "8201", "a101", "bb80000000000000000000",
        /* depth 9 */
        "818181818181818180",
        /* leftovers, nothing */
        "0000", "8000", "", "1c", "1f", "3f", "d2"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        uint8_t bytes[32], *exact;
        size_t size = from_hex(wrong[i], bytes, sizeof bytes);
        exact = malloc(size ? size : 1);
        CU_ASSERT_PTR_NOT_NULL_FATAL(exact);
        memcpy(exact, bytes, size);
        if (cbor_check(exact, size) != ERR_FORMAT)
            printf("[accepted: %s] ", wrong[i]);
        CU_ASSERT_EQUAL(cbor_check(exact, size), ERR_FORMAT);
        free(exact);
    }
    uint8_t deep[] = {0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x80};
    CU_ASSERT_EQUAL(cbor_check(deep, sizeof deep), ERR_NONE);
}

static void writer_is_bounded(void)
{
    uint8_t bytes[8];
    for (size_t capacity = 0; capacity <= 6; capacity++) {
        struct cbor_writer w;
        size_t size = 99;
        memset(bytes, 0xee, sizeof bytes);
        cbor_writer_init(&w, bytes, capacity);
        cbor_write_array(&w, 2);
        cbor_write_u64(&w, 1000);
        cbor_write_bytes(&w, "x", 1);
        CU_ASSERT_EQUAL(cbor_written(&w, &size), capacity < 6 ? ERR_FULL : ERR_NONE);
        CU_ASSERT_EQUAL(size, capacity < 6 ? 99 : 6);
        for (size_t i = capacity; i < sizeof bytes; i++)
            CU_ASSERT_EQUAL(bytes[i], 0xee);
    }
}

static void utf8(void)
{
    CU_ASSERT_TRUE(text_is_utf8((const uint8_t *)"a\xc3\xbc\xe2\x82\xac\xf0\x90\x85\x91", 10));
    CU_ASSERT_EQUAL(text_prefix((const uint8_t *)"a\xe2\x82\xac", 3), 1);
    CU_ASSERT_EQUAL(text_prefix((const uint8_t *)"a\xe2\x28\xac", 4), 1);
    CU_ASSERT_TRUE(text_is_utf8(NULL, 0));
}

/* a refused item leaves the reader where it was, an accepted one within its bytes */
static void random_bytes_stay_in_bounds(void)
{
    uint64_t state = 1;
    unsigned accepted = 0;
    for (int round = 0; round < 200000; round++) {
        uint8_t bytes[12];
        size_t size = 1 + (size_t)round % sizeof bytes;
        for (size_t i = 0; i < size; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            bytes[i] = (uint8_t)(state >> 33);
        }
        bytes[0] = (uint8_t)(0x80 | (bytes[0] & 0x23)); /* a small array or map */
        struct cbor_reader r;
        cbor_reader_init(&r, bytes, size);
        enum err skipped = cbor_skip(&r);
        CU_ASSERT_TRUE(r.at >= bytes && r.at <= bytes + size);
        accepted += skipped == ERR_NONE;
        if (skipped)
            CU_ASSERT_PTR_EQUAL(r.at, bytes);
    }
    CU_ASSERT_TRUE(accepted > 1000);
}

RUN_SUITE("cbor", {"integers", integers}, {"floats", floats}, {"every_half", every_half},
          {"strings_and_containers", strings_and_containers}, {"refuses", refuses},
          {"writer_is_bounded", writer_is_bounded}, {"utf8", utf8},
          {"random_bytes_stay_in_bounds", random_bytes_stay_in_bounds})
