/* envelope_test.c tests protocol/envelope.c: other people's vectors, and every way to alter one. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/cbor.h"
#include "protocol/envelope.h"
#include "protocol/hex.h"
#include "protocol/keys.h"
#include "tests/protocol/envelope_vectors.h"

enum { DIRECTOR = ENVELOPE_DIRECTOR, PLAN = 8 };

static size_t from_hex(const char *hex, uint8_t *out, size_t capacity)
{
    size_t size = strlen(hex) / 2;
    CU_ASSERT_TRUE_FATAL(size <= capacity && hex_decode(hex, strlen(hex), out, size) == ERR_NONE);
    return size;
}

static void vector_key(struct keys_secret *key)
{
    uint8_t seed[32];
    for (uint8_t i = 0; i < 32; i++)
        seed[i] = i;
    keys_from_seed(seed, key);
}

/* cose-wg/Examples eddsa-sig-01, the example of RFC 8152 section 4.2 with EdDSA; key of RFC
 * 8032 7.1 */
static void verifies_cose_example(void)
{
    static const char sign1[] = "d28445a201270300a10442313154546869732069732074686520636f6e74656e74"
                                "2e58407142fd2ff96d56db85bee905"
                                "a76ba1d0b7321a95c8c4d3607c5781932b7afb8711497dfa751bf40b58b3bcc323"
                                "00b1487f3db34085eef013bf08f4a4"
                                "4d6fef0d";
    uint8_t bytes[256], key[32];
    const uint8_t *payload;
    size_t n = 0, size = from_hex(sign1, bytes, sizeof bytes);
    from_hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", key, sizeof key);
    CU_ASSERT_EQUAL_FATAL(envelope_verify_sign1(bytes, size, key, NULL, 0, &payload, &n), ERR_NONE);
    CU_ASSERT_EQUAL(n, 20);
    CU_ASSERT_EQUAL(memcmp(payload, "This is the content.", 20), 0);
    for (size_t i = 0; i < size * 8; i++) {
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        /* the unprotected kid, its value and the simple value of its label, is outside the
         * signature */
        enum err e = envelope_verify_sign1(bytes, size, key, NULL, 0, &payload, &n);
        CU_ASSERT_TRUE(e != ERR_NONE || (i / 8 >= 9 && i / 8 <= 12));
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
}

static void verifies_external_aad(void)
{
    uint8_t bytes[256], key[32], aad[12];
    const uint8_t *payload;
    size_t n = 0, size = from_hex(sign1_vector, bytes, sizeof bytes);
    from_hex(vector_public, key, sizeof key);
    from_hex("11aa22bb33cc44dd55006699", aad, sizeof aad);
    CU_ASSERT_EQUAL(envelope_verify_sign1(bytes, size, key, aad, sizeof aad, &payload, &n),
                    ERR_NONE);
    CU_ASSERT_EQUAL(envelope_verify_sign1(bytes, size, key, aad, sizeof aad - 1, &payload, &n),
                    ERR_SIGNATURE);
    CU_ASSERT_EQUAL(envelope_verify_sign1(bytes, size, key, NULL, 0, &payload, &n), ERR_SIGNATURE);
}

static void agrees_with_other_code(void)
{
    struct keys_secret key;
    uint8_t bytes[512], made[512];
    const uint8_t payload[] = {0x83, 1, 2, 3};
    char hex[KEYS_ID_HEX];
    size_t n = 0, size = from_hex(envelope_vector, bytes, sizeof bytes);
    vector_key(&key);
    keys_id_hex(key.public_key, hex);
    CU_ASSERT_STRING_EQUAL(hex, vector_device);
    CU_ASSERT_EQUAL_FATAL(envelope_sign(key.secret_key, "demo", DIRECTOR, PLAN, payload,
                                        sizeof payload, made, sizeof made, &n),
                          ERR_NONE);
    CU_ASSERT_EQUAL(n, size);
    CU_ASSERT_EQUAL(memcmp(made, bytes, size), 0);
    size = from_hex(envelope_vector_empty, bytes, sizeof bytes);
    CU_ASSERT_EQUAL_FATAL(envelope_sign(key.secret_key, "a-longer-fleet-name-0123456789",
                                        ENVELOPE_DEVICE, 300, NULL, 0, made, sizeof made, &n),
                          ERR_NONE);
    CU_ASSERT_EQUAL(n, size);
    CU_ASSERT_EQUAL(memcmp(made, bytes, size), 0);
}

static void opens_what_it_signed(void)
{
    struct keys_secret key;
    struct envelope opened;
    struct envelope_claim claim;
    uint8_t bytes[512];
    size_t size = from_hex(envelope_vector, bytes, sizeof bytes);
    vector_key(&key);
    CU_ASSERT_EQUAL_FATAL(
        envelope_open(bytes, size, key.public_key, "demo", DIRECTOR, PLAN, &opened), ERR_NONE);
    CU_ASSERT_EQUAL(opened.payload_bytes, 4);
    CU_ASSERT_EQUAL(memcmp(opened.kid, key.id, 16), 0);
    CU_ASSERT_EQUAL(envelope_peek(bytes, size, &claim), ERR_NONE);
    CU_ASSERT_STRING_EQUAL(claim.fleet, "demo");
    CU_ASSERT_EQUAL(claim.role, DIRECTOR);
    CU_ASSERT_EQUAL(claim.type, PLAN);
    CU_ASSERT_EQUAL(memcmp(claim.kid, key.id, 16), 0);
}

static void names_the_wrong_audience(void)
{
    struct keys_secret key;
    struct envelope opened;
    uint8_t bytes[512];
    size_t size = from_hex(envelope_vector, bytes, sizeof bytes);
    vector_key(&key);
    const uint8_t *pk = key.public_key;
    CU_ASSERT_EQUAL(envelope_open(bytes, size, pk, "other", DIRECTOR, PLAN, &opened), ERR_AUDIENCE);
    CU_ASSERT_EQUAL(envelope_open(bytes, size, pk, "demo", ENVELOPE_DEVICE, PLAN, &opened),
                    ERR_AUDIENCE);
    CU_ASSERT_EQUAL(envelope_open(bytes, size, pk, "demo", DIRECTOR, PLAN + 1, &opened),
                    ERR_AUDIENCE);
    struct keys_secret other;
    const uint8_t seed[32] = {1};
    keys_from_seed(seed, &other);
    CU_ASSERT_EQUAL(envelope_open(bytes, size, other.public_key, "demo", DIRECTOR, PLAN, &opened),
                    ERR_SIGNATURE);
}

static void refuses_every_flipped_bit(void)
{
    struct keys_secret key;
    struct envelope opened = {.role = 99};
    uint8_t bytes[512];
    size_t size = from_hex(envelope_vector, bytes, sizeof bytes);
    vector_key(&key);
    for (size_t i = 0; i < size * 8; i++) {
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        enum err e = envelope_open(bytes, size, key.public_key, "demo", DIRECTOR, PLAN, &opened);
        CU_ASSERT_TRUE(e == ERR_FORMAT || e == ERR_SIGNATURE);
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    CU_ASSERT_EQUAL(opened.role, 99);
}

static void refuses_every_other_length(void)
{
    struct keys_secret key;
    struct envelope opened;
    uint8_t bytes[512];
    size_t size = from_hex(envelope_vector, bytes, sizeof bytes);
    vector_key(&key);
    for (size_t n = 0; n < size; n++) {
        uint8_t *exact = malloc(n ? n : 1); /* so that the sanitizer sees a read past the end */
        CU_ASSERT_PTR_NOT_NULL_FATAL(exact);
        memcpy(exact, bytes, n);
        CU_ASSERT_EQUAL(envelope_open(exact, n, key.public_key, "demo", DIRECTOR, PLAN, &opened),
                        ERR_FORMAT);
        free(exact);
    }
    bytes[size] = 0;
    CU_ASSERT_EQUAL(envelope_open(bytes, size + 1, key.public_key, "demo", DIRECTOR, PLAN, &opened),
                    ERR_FORMAT);
}

static void keeps_its_bounds(void)
{
    struct keys_secret key;
    struct envelope opened;
    size_t n = 0;
    uint8_t *payload = calloc(1, ENVELOPE_PAYLOAD_MAX + 1), *out = malloc(ENVELOPE_MAX);
    CU_ASSERT_TRUE_FATAL(payload && out);
    vector_key(&key);
    CU_ASSERT_EQUAL(envelope_sign(key.secret_key, "a-fleet-name-of-the-longest-kind",
                                  ENVELOPE_DEVICE, UINT32_MAX, payload, ENVELOPE_PAYLOAD_MAX, out,
                                  ENVELOPE_MAX, &n),
                    ERR_NONE);
    CU_ASSERT_TRUE(n <= ENVELOPE_MAX);
    CU_ASSERT_EQUAL(envelope_open(out, n, key.public_key, "a-fleet-name-of-the-longest-kind",
                                  ENVELOPE_DEVICE, UINT32_MAX, &opened),
                    ERR_NONE);
    CU_ASSERT_EQUAL(envelope_sign(key.secret_key, "demo", DIRECTOR, PLAN, payload,
                                  ENVELOPE_PAYLOAD_MAX + 1, out, ENVELOPE_MAX, &n),
                    ERR_ARGUMENT);
    CU_ASSERT_EQUAL(
        envelope_sign(key.secret_key, "demo", DIRECTOR, PLAN, payload, 100, out, 150, &n),
        ERR_FULL);
    CU_ASSERT_EQUAL(envelope_sign(key.secret_key, "Demo", DIRECTOR, PLAN, payload, 1, out, 999, &n),
                    ERR_ARGUMENT);
    CU_ASSERT_EQUAL(envelope_sign(key.secret_key, "demo", 0, PLAN, payload, 1, out, 999, &n),
                    ERR_ARGUMENT);
    free(payload);
    free(out);
}

RUN_SUITE("envelope", {"verifies_cose_example", verifies_cose_example},
          {"verifies_external_aad", verifies_external_aad},
          {"agrees_with_other_code", agrees_with_other_code},
          {"opens_what_it_signed", opens_what_it_signed},
          {"names_the_wrong_audience", names_the_wrong_audience},
          {"refuses_every_flipped_bit", refuses_every_flipped_bit},
          {"refuses_every_other_length", refuses_every_other_length},
          {"keeps_its_bounds", keeps_its_bounds})
