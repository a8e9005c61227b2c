#!/usr/bin/env python3
"""Writes envelope_vectors.h: envelopes and plain COSE_Sign1 made by other people's code.

Needs the PyPI packages cwt, cbor2 and cryptography (none of which the project depends on):
    python3 tests/protocol/envelope_vectors.py >tests/protocol/envelope_vectors.h
"""
import hashlib

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cwt import COSE, COSEKey

SEED = bytes(range(32))
PRIVATE = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def envelope(fleet, role, kind, payload):
    """The layout of protocol/envelope.h, from its text."""
    kid = hashlib.blake2b(PUBLIC, digest_size=16).digest()
    header = cbor2.dumps({1: -8, 4: kid, -65537: role, -65538: kind, -65539: fleet}, canonical=True)
    aad = cbor2.dumps(["tare/1", fleet, role, kind], canonical=True)
    to_be_signed = cbor2.dumps(["Signature1", header, aad, payload], canonical=True)
    signature = PRIVATE.sign(to_be_signed)
    return cbor2.dumps(cbor2.CBORTag(18, [header, {}, payload, signature]), canonical=True)


def sign1(payload, external_aad):
    key = COSEKey.new({1: 1, 3: -8, -1: 6, -2: PUBLIC, -4: SEED, 4: [1, 2]})
    return COSE.new().encode_and_sign(payload, key, protected={1: -8}, unprotected={4: b"11"},
                                      external_aad=external_aad)


print("/* envelope_vectors.h: written by envelope_vectors.py with the packages cbor2, cryptography, cwt. */")
print("#ifndef ENVELOPE_VECTORS_H\n#define ENVELOPE_VECTORS_H\n")
print("/* seed 00 01 .. 1f; fleet \"demo\", role 3, type 8; payload 83010203 */")
print("static const char envelope_vector[] =")
print('    "%s";' % envelope("demo", 3, 8, bytes.fromhex("83010203")).hex())
print("/* fleet \"a-longer-fleet-name-0123456789\", role 4, type 300; payload empty */")
print("static const char envelope_vector_empty[] =")
print('    "%s";' % envelope("a-longer-fleet-name-0123456789", 4, 300, b"").hex())
print("/* COSE_Sign1 with external_aad 11aa22bb33cc44dd55006699 */")
print("static const char sign1_vector[] =")
print('    "%s";' % sign1(b"This is the content.", bytes.fromhex("11aa22bb33cc44dd55006699")).hex())
print("static const char vector_public[] =")
print('    "%s";' % PUBLIC.hex())
print("/* BLAKE2b-128 of it */")
print("static const char vector_device[] = \"%s\";" % hashlib.blake2b(PUBLIC, digest_size=16).hexdigest())
print("\n#endif")
