/* envelope.c: COSE_Sign1 with Ed25519. No I/O, no allocation, no globals. */
#include "protocol/envelope.h"

#include <sodium.h>
#include <stdbool.h>
#include <string.h>

#include "protocol/cbor.h"
#include "protocol/keys.h"
#include "protocol/topic.h"

enum {
    LABEL_ALG = 1,
    LABEL_KID = 4,
    LABEL_ROLE = -65537,
    LABEL_TYPE = -65538,
    LABEL_FLEET = -65539,
    ALG_EDDSA = -8,
    HEADER_MAX = 96,
    AAD_MAX = 64
};

static const char version[] = "tare/1";

/* libsodium signs one run of bytes, so Sig_structure is laid out whole. It lives on the stack: the
 * room allocates nothing, and only the pages that a message fills are touched. */
struct to_be_signed {
    size_t size;
    uint8_t bytes[ENVELOPE_MAX + 512];
};

/* The four parts of a COSE_Sign1, as views. */
struct sign1 {
    const uint8_t *header;
    size_t header_bytes;
    const uint8_t *payload;
    size_t payload_bytes;
    const uint8_t *signature;
};

static enum err lay_out(struct to_be_signed *to, const uint8_t *header, size_t header_bytes,
                        const uint8_t *aad, size_t aad_bytes, const uint8_t *payload,
                        size_t payload_bytes)
{
    struct cbor_writer w;
    cbor_writer_init(&w, to->bytes, sizeof to->bytes);
    cbor_write_array(&w, 4);
    cbor_write_string(&w, "Signature1");
    cbor_write_bytes(&w, header, header_bytes);
    cbor_write_bytes(&w, aad, aad_bytes);
    cbor_write_bytes(&w, payload, payload_bytes);
    return cbor_written(&w, &to->size);
}

static enum err write_header(uint8_t out[HEADER_MAX], size_t *size, const uint8_t kid[16],
                             uint32_t role, uint32_t type, const char *fleet)
{
    struct cbor_writer w;
    cbor_writer_init(&w, out, HEADER_MAX);
    cbor_write_map(&w, 5);
    cbor_write_key(&w, LABEL_ALG);
    cbor_write_i64(&w, ALG_EDDSA);
    cbor_write_key(&w, LABEL_KID);
    cbor_write_bytes(&w, kid, ENVELOPE_KID_BYTES);
    cbor_write_key(&w, LABEL_ROLE);
    cbor_write_u64(&w, role);
    cbor_write_key(&w, LABEL_TYPE);
    cbor_write_u64(&w, type);
    cbor_write_key(&w, LABEL_FLEET);
    cbor_write_string(&w, fleet);
    return cbor_written(&w, size);
}

static enum err write_aad(uint8_t out[AAD_MAX], size_t *size, const char *fleet, uint32_t role,
                          uint32_t type)
{
    struct cbor_writer w;
    cbor_writer_init(&w, out, AAD_MAX);
    cbor_write_array(&w, 4);
    cbor_write_string(&w, version);
    cbor_write_string(&w, fleet);
    cbor_write_u64(&w, role);
    cbor_write_u64(&w, type);
    return cbor_written(&w, size);
}

static bool is_role(uint32_t role)
{
    return role >= ENVELOPE_ROOT && role <= ENVELOPE_DEVICE;
}

static enum err lay_out_ours(struct to_be_signed *to, uint8_t header[HEADER_MAX],
                             size_t *header_bytes, const uint8_t public_key[32], const char *fleet,
                             uint32_t role, uint32_t type, const uint8_t *payload,
                             size_t payload_bytes)
{
    uint8_t aad[AAD_MAX], kid[ENVELOPE_KID_BYTES];
    size_t aad_bytes = 0;
    if (!fleet || !topic_is_fleet(fleet, strlen(fleet)) || !is_role(role) || type == 0 ||
        payload_bytes > ENVELOPE_PAYLOAD_MAX || (!payload && payload_bytes))
        return ERR_ARGUMENT;
    keys_id(public_key, kid);
    enum err e = write_header(header, header_bytes, kid, role, type, fleet);
    if (e == ERR_NONE)
        e = write_aad(aad, &aad_bytes, fleet, role, type);
    if (e == ERR_NONE)
        e = lay_out(to, header, *header_bytes, aad, aad_bytes, payload, payload_bytes);
    return e;
}

enum err envelope_sign_detached(const uint8_t secret_key[64], const char *fleet, uint32_t role,
                                uint32_t type, const uint8_t *payload, size_t payload_bytes,
                                uint8_t signature[64])
{
    struct to_be_signed to;
    uint8_t header[HEADER_MAX];
    size_t header_bytes = 0;
    enum err e = lay_out_ours(&to, header, &header_bytes, secret_key + 32, fleet, role, type,
                              payload, payload_bytes);
    if (e)
        return e;
    crypto_sign_detached(signature, NULL, to.bytes, to.size, secret_key);
    return ERR_NONE;
}

enum err envelope_verify_detached(const uint8_t public_key[32], const char *fleet, uint32_t role,
                                  uint32_t type, const uint8_t *payload, size_t payload_bytes,
                                  const uint8_t signature[64])
{
    struct to_be_signed to;
    uint8_t header[HEADER_MAX];
    size_t header_bytes = 0;
    enum err e = lay_out_ours(&to, header, &header_bytes, public_key, fleet, role, type, payload,
                              payload_bytes);
    if (e)
        return e;
    return crypto_sign_verify_detached(signature, to.bytes, to.size, public_key) ? ERR_SIGNATURE
                                                                                 : ERR_NONE;
}

enum err envelope_sign(const uint8_t secret_key[64], const char *fleet, uint32_t role,
                       uint32_t type, const uint8_t *payload, size_t payload_bytes, uint8_t *out,
                       size_t capacity, size_t *size)
{
    struct to_be_signed to;
    uint8_t header[HEADER_MAX], signature[ENVELOPE_SIGNATURE_BYTES];
    size_t header_bytes = 0;
    enum err e = lay_out_ours(&to, header, &header_bytes, secret_key + 32, fleet, role, type,
                              payload, payload_bytes);
    if (e)
        return e;
    crypto_sign_detached(signature, NULL, to.bytes, to.size, secret_key);
    struct cbor_writer w;
    cbor_writer_init(&w, out, capacity);
    cbor_write_tag(&w, CBOR_TAG_SIGN1);
    cbor_write_array(&w, 4);
    cbor_write_bytes(&w, header, header_bytes);
    cbor_write_map(&w, 0);
    cbor_write_bytes(&w, payload, payload_bytes);
    cbor_write_bytes(&w, signature, sizeof signature);
    return cbor_written(&w, size);
}

/* is_strict: the unprotected map must be empty, as ours is; else any is skipped. */
static enum err read_sign1(const uint8_t *bytes, size_t size, bool is_strict, struct sign1 *out)
{
    struct cbor_reader r;
    uint64_t items, pairs;
    size_t signature_bytes = 0;
    if (size > ENVELOPE_MAX)
        return ERR_FORMAT;
    cbor_reader_init(&r, bytes, size);
    enum err e = cbor_read_tag(&r, CBOR_TAG_SIGN1);
    if (e || (e = cbor_enter_array(&r, &items)) ||
        (e = cbor_read_bytes(&r, &out->header, &out->header_bytes)))
        return e;
    if (is_strict) {
        int64_t key;
        if ((e = cbor_enter_map(&r, &pairs)))
            return e;
        if (cbor_next_key(&r, &key) != ERR_NOT_FOUND)
            return ERR_FORMAT;
    } else if (cbor_peek(&r) != CBOR_KIND_MAP || cbor_skip(&r) != ERR_NONE) {
        return ERR_FORMAT;
    }
    if ((e = cbor_read_bytes(&r, &out->payload, &out->payload_bytes)) ||
        (e = cbor_read_bytes(&r, &out->signature, &signature_bytes)) || (e = cbor_leave(&r)) ||
        (e = cbor_finish(&r)))
        return e;
    return items == 4 && signature_bytes == ENVELOPE_SIGNATURE_BYTES ? ERR_NONE : ERR_FORMAT;
}

/* One labelled value of our header, in the one order that the writer uses. */
static enum err expect_label(struct cbor_reader *r, int64_t label)
{
    int64_t key;
    return cbor_next_key(r, &key) == ERR_NONE && key == label ? ERR_NONE : ERR_FORMAT;
}

static enum err read_header(const uint8_t *bytes, size_t size, struct envelope_claim *out)
{
    struct cbor_reader r;
    uint64_t pairs, role, type;
    int64_t alg, key;
    enum err e;
    cbor_reader_init(&r, bytes, size);
    if ((e = cbor_enter_map(&r, &pairs)) || (e = expect_label(&r, LABEL_ALG)) ||
        (e = cbor_read_i64(&r, &alg)) || (e = expect_label(&r, LABEL_KID)) ||
        (e = cbor_read_bytes_into(&r, out->kid, sizeof out->kid)) ||
        (e = expect_label(&r, LABEL_ROLE)) || (e = cbor_read_u64(&r, &role)) ||
        (e = expect_label(&r, LABEL_TYPE)) || (e = cbor_read_u64(&r, &type)) ||
        (e = expect_label(&r, LABEL_FLEET)) ||
        (e = cbor_read_text_into(&r, out->fleet, sizeof out->fleet)))
        return e;
    if (cbor_next_key(&r, &key) != ERR_NOT_FOUND || cbor_finish(&r) != ERR_NONE ||
        alg != ALG_EDDSA || role > UINT32_MAX || !is_role((uint32_t)role) || type == 0 ||
        type > UINT32_MAX || !topic_is_fleet(out->fleet, strlen(out->fleet)))
        return ERR_FORMAT;
    out->role = (uint32_t)role;
    out->type = (uint32_t)type;
    return ERR_NONE;
}

enum err envelope_peek(const uint8_t *bytes, size_t size, struct envelope_claim *out)
{
    struct sign1 parts;
    struct envelope_claim claim = {0};
    enum err e = read_sign1(bytes, size, true, &parts);
    if (e == ERR_NONE)
        e = read_header(parts.header, parts.header_bytes, &claim);
    if (e == ERR_NONE)
        *out = claim;
    return e;
}

enum err envelope_open(const uint8_t *bytes, size_t size, const uint8_t public_key[32],
                       const char *fleet, uint32_t role, uint32_t type, struct envelope *out)
{
    struct to_be_signed to;
    struct sign1 parts;
    struct envelope_claim claim = {0};
    uint8_t aad[AAD_MAX], kid[ENVELOPE_KID_BYTES];
    size_t aad_bytes = 0;
    enum err e;
    if ((e = read_sign1(bytes, size, true, &parts)) ||
        (e = read_header(parts.header, parts.header_bytes, &claim)) ||
        (e = write_aad(aad, &aad_bytes, claim.fleet, claim.role, claim.type)) ||
        (e = lay_out(&to, parts.header, parts.header_bytes, aad, aad_bytes, parts.payload,
                     parts.payload_bytes)))
        return e;
    keys_id(public_key, kid);
    if (memcmp(kid, claim.kid, sizeof kid) != 0 ||
        crypto_sign_verify_detached(parts.signature, to.bytes, to.size, public_key) != 0)
        return ERR_SIGNATURE;
    /* Above this line any byte may be a stranger's; below it, none is. The signature is checked
     * under the claimed audience, so that a message for somebody else is told from an altered one.
     */
    if (strcmp(claim.fleet, fleet) != 0 || claim.role != role || claim.type != type)
        return ERR_AUDIENCE;
    *out = (struct envelope){
        .role = role, .type = type, .payload = parts.payload, .payload_bytes = parts.payload_bytes};
    memcpy(out->kid, kid, sizeof kid);
    return ERR_NONE;
}

enum err envelope_verify_sign1(const uint8_t *bytes, size_t size, const uint8_t public_key[32],
                               const uint8_t *external_aad, size_t external_aad_bytes,
                               const uint8_t **payload, size_t *payload_bytes)
{
    struct to_be_signed to;
    struct sign1 parts;
    struct cbor_reader r;
    uint64_t pairs;
    int64_t key, alg = 0;
    enum err e = read_sign1(bytes, size, false, &parts);
    if (e)
        return e;
    cbor_reader_init(&r, parts.header, parts.header_bytes);
    if ((e = cbor_enter_map(&r, &pairs)))
        return e;
    while ((e = cbor_next_key(&r, &key)) == ERR_NONE)
        if ((e = key == LABEL_ALG ? cbor_read_i64(&r, &alg) : cbor_skip(&r)))
            return e;
    if (e != ERR_NOT_FOUND || cbor_finish(&r) != ERR_NONE)
        return ERR_FORMAT;
    if (alg != ALG_EDDSA)
        return ERR_UNSUPPORTED;
    if ((e = lay_out(&to, parts.header, parts.header_bytes, external_aad, external_aad_bytes,
                     parts.payload, parts.payload_bytes)))
        return e == ERR_FULL ? ERR_FORMAT : e;
    if (crypto_sign_verify_detached(parts.signature, to.bytes, to.size, public_key) != 0)
        return ERR_SIGNATURE;
    *payload = parts.payload;
    *payload_bytes = parts.payload_bytes;
    return ERR_NONE;
}
