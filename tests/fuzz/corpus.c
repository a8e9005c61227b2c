/* corpus.c: writes the seed inputs of protocol's fuzz targets: fuzz_corpus FOLDER. Deterministic,
 * so a second run changes nothing; inputs that a fuzzer found are kept beside them under other
 * names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "protocol/cbor.h"
#include "protocol/envelope.h"
#include "protocol/hex.h"
#include "protocol/keys.h"
#include "protocol/topic.h"
#include "protocol/minisign.h"
#include "tests/fuzz/corpus.h"
#include "tests/protocol/message_samples.h"

static const char *folder;
static int bad;

void corpus_put(const char *target, const char *name, const void *bytes, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, target);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/%s/%s", folder, target, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size)
        bad = 1;
    if (file && fclose(file) != 0)
        bad = 1;
}

/* Examples of RFC 8949 appendix A and inputs that break one rule each. */
static void put_cbor(void)
{
    static const char *const hex[] = {
        "00", "1818", "1903e8", "1bffffffffffffffff", "20", "3903e7", "3bffffffffffffffff",
        "f90000", "f98000", "f93c00", "fb3ff199999999999a", "f97bff", "fa47c35000",
        "fb7e37e43c8800759c", "f90001", "f4", "f5", "f6", "40", "4401020304", "60", "6449455446",
        "62c3bc", "64f0908591", "80", "83010203", "8301820203820405", "a0", "a201020304",
        "a2016161026162", "a1200a", "a301022003", "8181818181818180",
        "a101a101a101a101a101a101a10100",
        /* refused: lengths, order, duplicates, indefinite, tags, depth, floats, text */
        "1800", "190001", "1b0000000000000001", "a203040102", "a201020103", "5f4101ff", "9fff",
        "bfff", "c11a514b67b0", "818181818181818180", "fa3f800000", "fb3ff0000000000000", "f97e00",
        "f97c00", "61ff", "63eda080", "5affffffff00", "9bffffffffffffffff", "bb8000000000000000",
        "a1616101", "f7", "ff", "f800", "62c0af", "0000", "8201", "1c", "3c", "a10102ff"};
    for (size_t i = 0; i < sizeof hex / sizeof hex[0]; i++) {
        uint8_t bytes[64];
        size_t size = strlen(hex[i]) / 2;
        if (hex_decode(hex[i], strlen(hex[i]), bytes, size) != ERR_NONE)
            bad = 1;
        corpus_put("cbor", hex[i], bytes, size);
    }
}

static void put_topics(void)
{
    static const char device[] = "0123456789abcdef0123456789abcdef";
    for (uint32_t kind = 1; kind < TOPIC_KINDS; kind++) {
        char text[TOPIC_MAX], name[32];
        if (topic_encode("demo-1", device, kind, text) != ERR_NONE)
            bad = 1;
        snprintf(name, sizeof name, "kind-%u", kind);
        corpus_put("topic", name, text, strlen(text));
    }
    static const char *const wrong[] = {"tare/1/demo/0123456789ABCDEF0123456789abcdef/up/job",
                                        "tare/2/demo/x/up/job",
                                        "tare/1/+/0123456789abcdef0123456789abcdef/up/job",
                                        "tare/1/-a/x/up/job",
                                        "",
                                        "tare/1/demo/0123456789abcdef0123456789abcdef/up/job/x"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "wrong-%zu", i);
        corpus_put("topic", name, wrong[i], strlen(wrong[i]));
    }
}

static void put_envelopes(void)
{
    static const uint8_t seed[32] = "the fuzz targets' own test key", other[32] = "another key";
    struct keys_secret key, stranger;
    uint8_t out[512];
    size_t size = 0;
    keys_from_seed(seed, &key);
    keys_from_seed(other, &stranger);
    struct {
        const char *name;
        const uint8_t *secret;
        const char *fleet;
        uint32_t role, type;
        const char *payload;
    } made[] = {{"right", key.secret_key, "demo", ENVELOPE_DIRECTOR, 8, "payload"},
                {"empty", key.secret_key, "demo", ENVELOPE_DIRECTOR, 8, ""},
                {"fleet", key.secret_key, "other", ENVELOPE_DIRECTOR, 8, "payload"},
                {"role", key.secret_key, "demo", ENVELOPE_DEVICE, 8, "payload"},
                {"type", key.secret_key, "demo", ENVELOPE_DIRECTOR, 300, "payload"},
                {"key", stranger.secret_key, "demo", ENVELOPE_DIRECTOR, 8, "payload"}};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        if (envelope_sign(made[i].secret, made[i].fleet, made[i].role, made[i].type,
                          (const uint8_t *)made[i].payload, strlen(made[i].payload), out,
                          sizeof out, &size) != ERR_NONE)
            bad = 1;
        corpus_put("envelope", made[i].name, out, size);
    }
    corpus_put("envelope", "short", out, size - 1);
    out[size - 1] ^= 1;
    corpus_put("envelope", "flipped", out, size);
}

static void put_message(int which, unsigned variant)
{
    static struct message_sample sample;
    static uint8_t bytes[1 + 8192];
    char name[32];
    size_t size = 0;
    sample_make(which, variant, &sample);
    if (sample_encode(which, &sample, bytes + 1, sizeof bytes - 1, &size) != ERR_NONE)
        bad = 1;
    bytes[0] = (uint8_t)which;
    snprintf(name, sizeof name, "%s-%u", sample_name[which], variant);
    corpus_put("message", name, bytes, 1 + size);
}

static void put_messages(void)
{
    for (int which = 0; which < SAMPLES; which++)
        put_message(which, 0);
    for (unsigned variant = 0; variant < 9; variant++)
        put_message(SAMPLES, variant);
}

static void put_roots(void)
{
    uint8_t bytes[KEYS_ROOT_MAX];
    size_t size = 0;
    struct keys_secret key[3];
    struct keys_root root = {.fleet = "demo", .version = 2, .not_after_s = 1000, .roles = 2};
    for (uint8_t i = 0; i < 3; i++) {
        const uint8_t seed[32] = {(uint8_t)(i + 1)};
        keys_from_seed(seed, &key[i]);
    }
    root.role[0] = (struct keys_role){.role = ENVELOPE_ROOT, .threshold = 2, .keys = 2};
    root.role[1] = (struct keys_role){.role = ENVELOPE_DIRECTOR, .threshold = 1, .keys = 1};
    memcpy(root.role[0].key[0], key[0].public_key, 32);
    memcpy(root.role[0].key[1], key[1].public_key, 32);
    memcpy(root.role[1].key[0], key[2].public_key, 32);
    bad |= keys_root_encode(&root, bytes, sizeof bytes, &size) != ERR_NONE;
    corpus_put("root", "unsigned", bytes, size);
    bad |= keys_root_sign(bytes, sizeof bytes, &size, &key[0]) != ERR_NONE;
    corpus_put("root", "too-few", bytes, size);
    bad |= keys_root_sign(bytes, sizeof bytes, &size, &key[1]) != ERR_NONE;
    corpus_put("root", "right", bytes, size);
    corpus_put("root", "short", bytes, size - 1);
}

static void put_minisign(void)
{
    static const uint8_t seed[32] = "the fuzz targets' own test key";
    struct keys_secret key;
    struct minisign_secret secret;
    struct minisign_public public;
    struct minisign_signature signature;
    struct minisign_hash hash;
    uint8_t digest[MINISIGN_HASH_BYTES];
    char text[MINISIGN_FILE_MAX];
    keys_from_seed(seed, &key);
    memcpy(secret.key_id, key.minisign_id, sizeof secret.key_id);
    memcpy(secret.secret_key, key.secret_key, sizeof secret.secret_key);
    minisign_public_of(&secret, &public);
    minisign_hash_start(&hash);
    minisign_hash_add(&hash, "content", 7);
    minisign_hash_end(&hash, digest);
    bad |= minisign_sign_hash(&secret, digest, "version=1", &signature) != ERR_NONE;
    bad |= minisign_signature_encode(&signature, "comment", text, sizeof text) != ERR_NONE;
    corpus_put("minisign", "signature", text, strlen(text));
    text[strlen("untrusted comment: comment\nRU")] ^= 1;
    corpus_put("minisign", "altered", text, strlen(text));
    bad |= minisign_secret_encode(&secret, "comment", text, sizeof text) != ERR_NONE;
    corpus_put("minisign", "secret", text, strlen(text));
    bad |= minisign_public_encode(&public, "comment", text, sizeof text) != ERR_NONE;
    corpus_put("minisign", "public", text, strlen(text));
    corpus_put("minisign", "public-line", strchr(text, '\n') + 1, strlen(strchr(text, '\n') + 1));
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_corpus FOLDER\n");
        return 2;
    }
    folder = argv[1];
    mkdir(folder, 0755);
    put_cbor();
    put_topics();
    put_envelopes();
    put_messages();
    put_roots();
    put_minisign();
    return bad;
}
