/* keys_test.c tests protocol/keys.c and keys_root.c. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/hex.h"
#include "protocol/keys.h"

enum { KEYS = 6 };

static struct keys_secret key[KEYS];

/* Roots k[first] .. k[first + 2], two of three; a director. */
static struct keys_root make_root(uint64_t version, unsigned first)
{
    struct keys_root root = {.fleet = "demo", .version = version, .not_after_s = 1000, .roles = 2};
    root.role[0] = (struct keys_role){.role = ENVELOPE_ROOT, .threshold = 2, .keys = 3};
    root.role[1] = (struct keys_role){.role = ENVELOPE_DIRECTOR, .threshold = 1, .keys = 1};
    for (unsigned i = 0; i < KEYS; i++) {
        uint8_t seed[32] = {(uint8_t)(i + 1)};
        keys_from_seed(seed, &key[i]);
    }
    for (unsigned i = 0; i < 3; i++)
        memcpy(root.role[0].key[i], key[first + i].public_key, 32);
    memcpy(root.role[1].key[0], key[first == 0 ? 5 : 0].public_key, 32);
    return root;
}

static size_t sign(const struct keys_root *root, uint8_t *bytes, const unsigned *signer,
                   unsigned signers)
{
    size_t size = 0;
    CU_ASSERT_EQUAL(keys_root_encode(root, bytes, KEYS_ROOT_MAX, &size), ERR_NONE);
    for (unsigned i = 0; i < signers; i++)
        CU_ASSERT_EQUAL(keys_root_sign(bytes, KEYS_ROOT_MAX, &size, &key[signer[i]]), ERR_NONE);
    return size;
}

static void device_id_is_pinned(void)
{
    uint8_t public_key[32];
    char id[KEYS_ID_HEX];
    for (uint8_t i = 0; i < 32; i++)
        public_key[i] = i;
    keys_id_hex(public_key, id);
    /* hashlib.blake2b(bytes(range(32)), digest_size=16).hexdigest() */
    CU_ASSERT_STRING_EQUAL(id, "f39a2cad58411cd49f577e5086b8031f");
    CU_ASSERT_TRUE(keys_is_id(id, 32));
    CU_ASSERT_FALSE(keys_is_id(id, 31));
    CU_ASSERT_FALSE(keys_is_id("0123456789ABCDEF0123456789abcdef", 32));
    CU_ASSERT_STRING_EQUAL(keys_role_name(ENVELOPE_DIRECTOR), "director");
    CU_ASSERT_STRING_EQUAL(keys_role_name(77), "?");
    uint8_t zero[32] = {0};
    CU_ASSERT_FALSE(keys_is_public(zero));
}

static void first_root(void)
{
    struct keys_root root = make_root(1, 0), out;
    uint8_t bytes[KEYS_ROOT_MAX];
    const uint8_t *found;
    size_t size = sign(&root, bytes, (unsigned[]){0, 2}, 2);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, NULL, 500, &out), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&out, &root, sizeof root), 0);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, NULL, 1001, &out), ERR_EXPIRED);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, NULL, 0, &out), ERR_NONE);
    CU_ASSERT_EQUAL(keys_root_find(&out, ENVELOPE_DIRECTOR, key[5].id, 500, &found), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(found, key[5].public_key, 32), 0);
    CU_ASSERT_EQUAL(keys_root_find(&out, ENVELOPE_DIRECTOR, key[0].id, 500, &found), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(keys_root_find(&out, ENVELOPE_ROOT, key[5].id, 500, &found), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(keys_root_find(&out, ENVELOPE_DIRECTOR, key[5].id, 1001, &found), ERR_EXPIRED);
}

static void thresholds(void)
{
    struct keys_root root = make_root(1, 0), out;
    uint8_t bytes[KEYS_ROOT_MAX];
    size_t size = sign(&root, bytes, (unsigned[]){1}, 1);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, NULL, 0, &out), ERR_SIGNATURE);
    CU_ASSERT_EQUAL(keys_root_sign(bytes, KEYS_ROOT_MAX, &size, &key[1]), ERR_STALE);
    /* a key of another role, and a stranger's, do not count */
    CU_ASSERT_EQUAL(keys_root_sign(bytes, KEYS_ROOT_MAX, &size, &key[5]), ERR_NONE);
    CU_ASSERT_EQUAL(keys_root_sign(bytes, KEYS_ROOT_MAX, &size, &key[4]), ERR_NONE);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, NULL, 0, &out), ERR_SIGNATURE);
    CU_ASSERT_EQUAL(keys_root_sign(bytes, size + 10, &size, &key[0]), ERR_FULL);
    CU_ASSERT_EQUAL(keys_root_sign(bytes, KEYS_ROOT_MAX, &size, &key[0]), ERR_NONE);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, NULL, 0, &out), ERR_NONE);
}

/* the same signature twice by one key, written by hand: counts once */
static void one_key_counts_once(void)
{
    struct keys_root root = make_root(1, 0), out;
    uint8_t bytes[KEYS_ROOT_MAX];
    size_t size = sign(&root, bytes, (unsigned[]){1}, 1);
    size_t one = 1 + 1 + 16 + 2 + 64;
    size_t count_at = size - one - 1;
    CU_ASSERT_EQUAL(bytes[count_at], 0x81);
    bytes[count_at] = 0x82;
    memcpy(bytes + size, bytes + size - one, one);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size + one, NULL, 0, &out), ERR_SIGNATURE);
}

static void walks_the_chain(void)
{
    struct keys_root now, out;
    uint8_t bytes[KEYS_ROOT_MAX];
    struct keys_root root = make_root(1, 0);
    size_t size = sign(&root, bytes, (unsigned[]){0, 1}, 2);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, NULL, 0, &now), ERR_NONE);
    for (uint64_t version = 2; version <= 50; version++) {
        /* the keys move on by one each time, so two of the old ones are among the new */
        unsigned before = (unsigned)(version - 2) % 3, after = (unsigned)(version - 1) % 3;
        if (after == 0)
            break;
        root = make_root(version, after);
        size = sign(&root, bytes, (unsigned[]){before, after}, 2);
        CU_ASSERT_EQUAL(keys_root_verify(bytes, size, &now, 0, &out), ERR_SIGNATURE);
        CU_ASSERT_EQUAL(keys_root_sign(bytes, KEYS_ROOT_MAX, &size, &key[after + 1]), ERR_NONE);
        CU_ASSERT_EQUAL(keys_root_verify(bytes, size, &now, 0, &out), ERR_NONE);
        CU_ASSERT_EQUAL(keys_root_verify(bytes, size, &out, 0, &out), ERR_STALE); /* a replay */
        now = out;
    }
    CU_ASSERT_EQUAL(now.version, 3);
    for (uint64_t version = 4; version <= 50; version++) {
        root = make_root(version, 2);
        size = sign(&root, bytes, (unsigned[]){2, 4}, 2);
        CU_ASSERT_EQUAL(keys_root_verify(bytes, size, &now, 0, &now), ERR_NONE);
    }
    CU_ASSERT_EQUAL(now.version, 50);
    root = make_root(52, 2);
    size = sign(&root, bytes, (unsigned[]){2, 4}, 2);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, &now, 0, &out), ERR_STALE); /* one is missing */
    root = make_root(51, 2);
    strcpy(root.fleet, "other");
    size = sign(&root, bytes, (unsigned[]){2, 4}, 2);
    CU_ASSERT_EQUAL(keys_root_verify(bytes, size, &now, 0, &out), ERR_AUDIENCE);
}

static void refuses_altered(void)
{
    struct keys_root root = make_root(1, 0), out;
    uint8_t bytes[KEYS_ROOT_MAX];
    size_t size = sign(&root, bytes, (unsigned[]){0, 2}, 2);
    for (size_t i = 0; i < size * 8; i++) {
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        CU_ASSERT_NOT_EQUAL(keys_root_verify(bytes, size, NULL, 0, &out), ERR_NONE);
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t n = 0; n < size; n++)
        CU_ASSERT_EQUAL(keys_root_verify(bytes, n, NULL, 0, &out), ERR_FORMAT);
}

static void refuses_unsound(void)
{
    uint8_t bytes[KEYS_ROOT_MAX];
    size_t size;
    struct keys_root root = make_root(1, 0);
    root.role[0].threshold = 4;
    CU_ASSERT_EQUAL(keys_root_encode(&root, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    root = make_root(1, 0);
    root.role[0].threshold = 0;
    CU_ASSERT_EQUAL(keys_root_encode(&root, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    root = make_root(1, 0);
    memcpy(root.role[1].key[0], root.role[0].key[1], 32); /* one key in two roles */
    CU_ASSERT_EQUAL(keys_root_encode(&root, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    root = make_root(1, 0);
    memcpy(root.role[0].key[2], root.role[0].key[1], 32);
    CU_ASSERT_EQUAL(keys_root_encode(&root, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    root = make_root(0, 0);
    CU_ASSERT_EQUAL(keys_root_encode(&root, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    root = make_root(1, 0);
    root.role[0].role = ENVELOPE_TARGETS;
    CU_ASSERT_EQUAL(keys_root_encode(&root, bytes, sizeof bytes, &size), ERR_ARGUMENT);
    root = make_root(1, 0);
    CU_ASSERT_EQUAL(keys_root_encode(&root, bytes, 100, &size), ERR_FULL);
}

static void files(void)
{
    char folder[] = "/tmp/tare-keys-XXXXXX", path[64], public_path[80];
    struct keys_secret a = {0}, b = {0};
    struct stat st;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/device.key", folder);
    snprintf(public_path, sizeof public_path, "%s.pub", path);
    CU_ASSERT_EQUAL(keys_load(path, false, "tare device key", &a), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(keys_load(path, true, "tare device key", &a), ERR_NONE);
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 0777, 0600);
    CU_ASSERT_EQUAL(stat(public_path, &st), 0);
    CU_ASSERT_EQUAL(keys_load(path, true, "tare device key", &b), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof a), 0);
    CU_ASSERT_EQUAL(chmod(path, 0640), 0);
    CU_ASSERT_EQUAL(keys_load(path, true, "tare device key", &b), ERR_ARGUMENT);
    keys_wipe(&a);
    uint8_t zero[sizeof a] = {0};
    CU_ASSERT_EQUAL(memcmp(&a, zero, sizeof a), 0);
    keys_wipe(&b);
    unlink(path);
    unlink(public_path);
    CU_ASSERT_EQUAL(rmdir(folder), 0); /* nothing else was left behind */
}

RUN_SUITE("keys", {"device_id_is_pinned", device_id_is_pinned}, {"first_root", first_root},
          {"thresholds", thresholds}, {"one_key_counts_once", one_key_counts_once},
          {"walks_the_chain", walks_the_chain}, {"refuses_altered", refuses_altered},
          {"refuses_unsound", refuses_unsound}, {"files", files})
