/* keys_root.c: the root document: which keys hold which role, n-of-m signed, version by version. */
#include "protocol/keys.h"

#include <string.h>

#include "protocol/cbor.h"
#include "protocol/message.h"
#include "protocol/topic.h"

enum {
    KEY_SCHEMA = 1,
    KEY_FLEET = 2,
    KEY_VERSION = 3,
    KEY_NOT_AFTER = 4,
    KEY_ROLES = 5,
    SCHEMA = 1
};

struct signature {
    const uint8_t *kid;
    const uint8_t *bytes;
};

struct document {
    const uint8_t *payload;
    size_t payload_bytes;
    uint32_t signatures;
    struct signature signature[KEYS_SIGNATURES_MAX];
};

static bool is_listed(const struct keys_root *root, const uint8_t key[32], uint32_t roles,
                      uint32_t keys_of_last)
{
    for (uint32_t i = 0; i <= roles; i++)
        for (uint32_t k = 0; k < (i == roles ? keys_of_last : root->role[i].keys); k++)
            if (memcmp(root->role[i].key[k], key, 32) == 0)
                return true;
    return false;
}

/* The rules that encode and verify share. */
static bool is_sound(const struct keys_root *root)
{
    if (!topic_is_fleet(root->fleet, strnlen(root->fleet, sizeof root->fleet)) ||
        root->version == 0 || root->roles == 0 || root->roles > KEYS_ROLES_MAX ||
        root->role[0].role != ENVELOPE_ROOT)
        return false;
    for (uint32_t i = 0; i < root->roles; i++) {
        const struct keys_role *role = &root->role[i];
        if (role->role > ENVELOPE_DEVICE || (i && role->role <= root->role[i - 1].role) ||
            role->keys == 0 || role->keys > KEYS_ROLE_KEYS_MAX || role->threshold == 0 ||
            role->threshold > role->keys)
            return false;
        for (uint32_t k = 0; k < role->keys; k++)
            if (is_listed(root, role->key[k], i, k) || !keys_is_public(role->key[k]))
                return false;
    }
    return true;
}

static void write_role(struct cbor_writer *w, const struct keys_role *role)
{
    cbor_write_map(w, 3);
    cbor_write_key(w, 1);
    cbor_write_u64(w, role->role);
    cbor_write_key(w, 2);
    cbor_write_u64(w, role->threshold);
    cbor_write_key(w, 3);
    cbor_write_array(w, role->keys);
    for (uint32_t k = 0; k < role->keys; k++)
        cbor_write_bytes(w, role->key[k], 32);
}

enum err keys_root_encode(const struct keys_root *root, uint8_t *out, size_t capacity, size_t *size)
{
    uint8_t payload[KEYS_ROOT_MAX];
    size_t payload_bytes = 0;
    struct cbor_writer w;
    if (!is_sound(root))
        return ERR_ARGUMENT;
    cbor_writer_init(&w, payload, sizeof payload);
    cbor_write_map(&w, 5);
    cbor_write_key(&w, KEY_SCHEMA);
    cbor_write_u64(&w, SCHEMA);
    cbor_write_key(&w, KEY_FLEET);
    cbor_write_string(&w, root->fleet);
    cbor_write_key(&w, KEY_VERSION);
    cbor_write_u64(&w, root->version);
    cbor_write_key(&w, KEY_NOT_AFTER);
    cbor_write_u64(&w, root->not_after_s);
    cbor_write_key(&w, KEY_ROLES);
    cbor_write_array(&w, root->roles);
    for (uint32_t i = 0; i < root->roles; i++)
        write_role(&w, &root->role[i]);
    enum err e = cbor_written(&w, &payload_bytes);
    if (e)
        return e;
    cbor_writer_init(&w, out, capacity);
    cbor_write_array(&w, 2);
    cbor_write_bytes(&w, payload, payload_bytes);
    cbor_write_array(&w, 0);
    return cbor_written(&w, size);
}

static enum err expect_key(struct cbor_reader *r, int64_t wanted)
{
    int64_t key;
    return cbor_next_key(r, &key) == ERR_NONE && key == wanted ? ERR_NONE : ERR_FORMAT;
}

static enum err read_count(struct cbor_reader *r, uint64_t most, uint32_t *out)
{
    uint64_t items;
    if (cbor_enter_array(r, &items) != ERR_NONE || items > most)
        return ERR_FORMAT;
    *out = (uint32_t)items;
    return ERR_NONE;
}

static enum err read_small(struct cbor_reader *r, uint32_t *out)
{
    uint64_t value;
    if (cbor_read_u64(r, &value) != ERR_NONE || value > UINT32_MAX)
        return ERR_FORMAT;
    *out = (uint32_t)value;
    return ERR_NONE;
}

static enum err read_end(struct cbor_reader *r)
{
    int64_t key;
    return cbor_next_key(r, &key) == ERR_NOT_FOUND ? ERR_NONE : ERR_FORMAT;
}

static enum err read_role(struct cbor_reader *r, struct keys_role *out)
{
    uint64_t pairs;
    enum err e;
    if ((e = cbor_enter_map(r, &pairs)) || (e = expect_key(r, 1)) ||
        (e = read_small(r, &out->role)) || (e = expect_key(r, 2)) ||
        (e = read_small(r, &out->threshold)) || (e = expect_key(r, 3)) ||
        (e = read_count(r, KEYS_ROLE_KEYS_MAX, &out->keys)))
        return e;
    for (uint32_t k = 0; k < out->keys; k++)
        if ((e = cbor_read_bytes_into(r, out->key[k], 32)))
            return e;
    e = cbor_leave(r);
    return e ? e : read_end(r);
}

static enum err read_payload(const uint8_t *bytes, size_t size, struct keys_root *out)
{
    struct cbor_reader r;
    uint64_t pairs, schema;
    enum err e;
    cbor_reader_init(&r, bytes, size);
    if ((e = cbor_enter_map(&r, &pairs)) || (e = expect_key(&r, KEY_SCHEMA)) ||
        (e = cbor_read_u64(&r, &schema)))
        return e;
    if (schema != SCHEMA)
        return ERR_VERSION;
    if ((e = expect_key(&r, KEY_FLEET)) ||
        (e = cbor_read_text_into(&r, out->fleet, sizeof out->fleet)) ||
        (e = expect_key(&r, KEY_VERSION)) || (e = cbor_read_u64(&r, &out->version)) ||
        (e = expect_key(&r, KEY_NOT_AFTER)) || (e = cbor_read_u64(&r, &out->not_after_s)) ||
        (e = expect_key(&r, KEY_ROLES)) || (e = read_count(&r, KEYS_ROLES_MAX, &out->roles)))
        return e;
    for (uint32_t i = 0; i < out->roles; i++)
        if ((e = read_role(&r, &out->role[i])))
            return e;
    if ((e = cbor_leave(&r)) || (e = read_end(&r)) || (e = cbor_finish(&r)))
        return e;
    return is_sound(out) ? ERR_NONE : ERR_FORMAT;
}

static enum err read_document(const uint8_t *bytes, size_t size, struct document *out)
{
    struct cbor_reader r;
    uint64_t items;
    enum err e;
    if (size > KEYS_ROOT_MAX)
        return ERR_FORMAT;
    cbor_reader_init(&r, bytes, size);
    if ((e = cbor_enter_array(&r, &items)) ||
        (e = cbor_read_bytes(&r, &out->payload, &out->payload_bytes)) ||
        (e = read_count(&r, KEYS_SIGNATURES_MAX, &out->signatures)))
        return e;
    for (uint32_t i = 0; i < out->signatures; i++) {
        size_t kid_bytes, signature_bytes;
        struct signature *s = &out->signature[i];
        if ((e = cbor_enter_array(&r, &items)) || (e = cbor_read_bytes(&r, &s->kid, &kid_bytes)) ||
            (e = cbor_read_bytes(&r, &s->bytes, &signature_bytes)) || (e = cbor_leave(&r)))
            return e;
        if (kid_bytes != KEYS_ID_BYTES || signature_bytes != ENVELOPE_SIGNATURE_BYTES)
            return ERR_FORMAT;
    }
    if ((e = cbor_leave(&r)) || (e = cbor_leave(&r)))
        return e;
    return cbor_finish(&r);
}

enum err keys_root_sign(uint8_t *bytes, size_t capacity, size_t *size,
                        const struct keys_secret *key)
{
    struct document document;
    struct keys_root root = {0};
    uint8_t made[KEYS_ROOT_MAX], signature[ENVELOPE_SIGNATURE_BYTES];
    struct cbor_writer w;
    size_t made_bytes = 0;
    enum err e;
    if ((e = read_document(bytes, *size, &document)) ||
        (e = read_payload(document.payload, document.payload_bytes, &root)))
        return e;
    for (uint32_t i = 0; i < document.signatures; i++)
        if (memcmp(document.signature[i].kid, key->id, KEYS_ID_BYTES) == 0)
            return ERR_STALE;
    if (document.signatures == KEYS_SIGNATURES_MAX)
        return ERR_FULL;
    if ((e = envelope_sign_detached(key->secret_key, root.fleet, ENVELOPE_ROOT, MESSAGE_ROOT,
                                    document.payload, document.payload_bytes, signature)))
        return e;
    cbor_writer_init(&w, made, sizeof made);
    cbor_write_array(&w, 2);
    cbor_write_bytes(&w, document.payload, document.payload_bytes);
    cbor_write_array(&w, document.signatures + 1);
    for (uint32_t i = 0; i <= document.signatures; i++) {
        bool is_new = i == document.signatures;
        cbor_write_array(&w, 2);
        cbor_write_bytes(&w, is_new ? key->id : document.signature[i].kid, KEYS_ID_BYTES);
        cbor_write_bytes(&w, is_new ? signature : document.signature[i].bytes, sizeof signature);
    }
    e = cbor_written(&w, &made_bytes);
    if (e == ERR_NONE && made_bytes > capacity)
        e = ERR_FULL;
    if (e)
        return e;
    memcpy(bytes, made, made_bytes);
    *size = made_bytes;
    return ERR_NONE;
}

/* How many different root keys of `root` have signed. */
static uint32_t count_signers(const struct document *document, const struct keys_root *root)
{
    uint32_t signers = 0;
    for (uint32_t k = 0; k < root->role[0].keys; k++) {
        const uint8_t *key = root->role[0].key[k];
        uint8_t id[KEYS_ID_BYTES];
        keys_id(key, id);
        for (uint32_t i = 0; i < document->signatures; i++) {
            if (memcmp(document->signature[i].kid, id, sizeof id) != 0 ||
                envelope_verify_detached(key, root->fleet, ENVELOPE_ROOT, MESSAGE_ROOT,
                                         document->payload, document->payload_bytes,
                                         document->signature[i].bytes) != ERR_NONE)
                continue;
            signers++;
            break;
        }
    }
    return signers;
}

enum err keys_root_verify(const uint8_t *bytes, size_t size, const struct keys_root *now,
                          uint64_t now_s, struct keys_root *out)
{
    struct document document;
    struct keys_root root = {0};
    enum err e;
    if ((e = read_document(bytes, size, &document)) ||
        (e = read_payload(document.payload, document.payload_bytes, &root)))
        return e;
    if (now && strcmp(now->fleet, root.fleet) != 0)
        return ERR_AUDIENCE;
    if (count_signers(&document, &root) < root.role[0].threshold ||
        (now && count_signers(&document, now) < now->role[0].threshold))
        return ERR_SIGNATURE;
    if (now && root.version != now->version + 1)
        return ERR_STALE;
    if (now_s && root.not_after_s && now_s > root.not_after_s)
        return ERR_EXPIRED;
    *out = root;
    return ERR_NONE;
}

enum err keys_root_find(const struct keys_root *root, uint32_t role,
                        const uint8_t id[KEYS_ID_BYTES], uint64_t now_s, const uint8_t **public_key)
{
    if (now_s && root->not_after_s && now_s > root->not_after_s)
        return ERR_EXPIRED;
    for (uint32_t i = 0; i < root->roles; i++) {
        if (root->role[i].role != role)
            continue;
        for (uint32_t k = 0; k < root->role[i].keys; k++) {
            uint8_t have[KEYS_ID_BYTES];
            keys_id(root->role[i].key[k], have);
            if (memcmp(have, id, sizeof have) == 0) {
                *public_key = root->role[i].key[k];
                return ERR_NONE;
            }
        }
    }
    return ERR_NOT_FOUND;
}
