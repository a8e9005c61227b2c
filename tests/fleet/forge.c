/* forge.c: signs plans that no controller would: forge KEY IN OUT CHANGE..., for tests/fleet/refusals.sh.
 *
 * IN is a plan as it was sent (dn/plan). KEY is the minisign secret key that signs OUT. Changes:
 *   again               nothing but the signature
 *   version=N           plan version; plan_id=N: its id is 16 bytes of N
 *   device=ID fleet=ID  whom the payload names; for=FLEET: whom the envelope names
 *   role=N type=N       of the envelope
 *   not_after=MS        expiry
 *   critical=N          the key that the reader must know
 *   plugin=NAME
 *   base=other          another digest than what stands at its URL; base=absent: one that nobody has
 *   flip=N              one bit of the whole, after signing
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/keys.h"
#include "protocol/message.h"

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "forge: %s: %s\n", what, why);
    return 3;
}

struct changes {
    char fleet[33];
    uint32_t role, type;
    long flip;
};

static int change(struct message_plan *p, struct changes *c, const char *word)
{
    const char *value = strchr(word, '=');
    size_t n = value ? (size_t)(value - word) : strlen(word);
    value = value ? value + 1 : "";
    unsigned long long number = strtoull(value, NULL, 10);
    const struct {
        const char *name;
        char *text;
        size_t bytes;
    } texts[] = {{"device", p->device, sizeof p->device},
                 {"fleet", p->fleet, sizeof p->fleet},
                 {"for", c->fleet, sizeof c->fleet},
                 {"plugin", p->plugin.name, sizeof p->plugin.name}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strlen(texts[i].name) == n && strncmp(word, texts[i].name, n) == 0) {
            snprintf(texts[i].text, texts[i].bytes, "%s", value);
            return 0;
        }
    if (strncmp(word, "version=", 8) == 0)
        p->version = number;
    else if (strncmp(word, "plan_id=", 8) == 0)
        memset(p->plan_id, (int)number, sizeof p->plan_id);
    else if (strncmp(word, "role=", 5) == 0)
        c->role = (uint32_t)number;
    else if (strncmp(word, "type=", 5) == 0)
        c->type = (uint32_t)number;
    else if (strncmp(word, "not_after=", 10) == 0)
        p->not_after_ms = number;
    else if (strncmp(word, "critical=", 9) == 0)
        p->critical[p->criticals++] = number;
    else if (strcmp(word, "base=other") == 0 || strcmp(word, "base=absent") == 0) {
        memset(p->base.digest, 0xab, sizeof p->base.digest);
        if (strcmp(word, "base=absent") == 0)
            p->base.url[0] = 0; /* then it is asked for by its digest */
    } else if (strncmp(word, "flip=", 5) == 0)
        c->flip = (long)number;
    else if (strcmp(word, "again") != 0)
        return fail(word, "not a change");
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t in[ENVELOPE_MAX], payload[ENVELOPE_PAYLOAD_MAX], out[ENVELOPE_MAX];
    static struct message_tensor tensors[MESSAGE_TENSORS_MAX];
    struct message_plan plan = {.tensor = tensors, .tensors_max = MESSAGE_TENSORS_MAX};
    struct changes c = {.role = ENVELOPE_DIRECTOR, .type = MESSAGE_PLAN, .flip = -1};
    struct envelope_claim claim;
    struct envelope envelope;
    struct keys_secret key;
    size_t size;
    if (argc < 5)
        return fail("usage", "forge KEY IN OUT CHANGE...");
    if (keys_load(argv[1], false, "", &key))
        return fail(argv[1], "expected a minisign secret key");
    FILE *f = fopen(argv[2], "rb");
    size_t bytes = f ? fread(in, 1, sizeof in, f) : 0;
    if (f)
        fclose(f);
    /* Whoever signed it: the key is in the file beside it, so only the form is looked at. */
    if (envelope_peek(in, bytes, &claim))
        return fail(argv[2], "expected an envelope");
    const char *signer = getenv("FORGE_SIGNER"); /* the key that IN is signed with, when it is not KEY */
    struct keys_secret first = key;
    if (signer && keys_load(signer, false, "", &first))
        return fail(signer, "expected a minisign secret key");
    if (envelope_open(in, bytes, first.public_key, claim.fleet, claim.role, claim.type, &envelope) ||
        message_plan_decode(envelope.payload, envelope.payload_bytes, &plan))
        return fail(argv[2], "expected a signed plan");
    snprintf(c.fleet, sizeof c.fleet, "%s", claim.fleet);
    for (int i = 4; i < argc; i++)
        if (change(&plan, &c, argv[i]))
            return 2;
    if (message_plan_encode(&plan, payload, sizeof payload, &size) ||
        envelope_sign(key.secret_key, c.fleet, c.role, c.type, payload, size, out, sizeof out, &bytes))
        return fail(argv[3], "cannot be signed");
    if (c.flip >= 0)
        out[(size_t)c.flip / 8 % bytes] ^= (uint8_t)(1 << c.flip % 8);
    f = fopen(argv[3], "wb");
    if (!f || fwrite(out, 1, bytes, f) != bytes || fclose(f))
        return fail(argv[3], "cannot be written");
    printf("%llu %zu\n", (unsigned long long)plan.version, bytes);
    return 0;
}
