/* envelope_vectors.h: written by envelope_vectors.py with the packages cbor2, cryptography, cwt. */
#ifndef ENVELOPE_VECTORS_H
#define ENVELOPE_VECTORS_H

/* seed 00 01 .. 1f; fleet "demo", role 3, type 8; payload 83010203 */
static const char envelope_vector[] =
    "d284582ba50127045040bca4eaf9d2b097ff8dbaa4d61767ed3a00010000033a00010001083a000100026464656d6f"
    "a0448301020358402d0ad1a6e3da86de40fc5a1247d4c468d09d30017f1d76680501997c4c92a914fc20e5c5a15488"
    "d38fcfa420d3297614207316d46b2f62dae7a509c75bfd560b";
/* fleet "a-longer-fleet-name-0123456789", role 4, type 300; payload empty */
static const char envelope_vector_empty[] =
    "d2845848a50127045040bca4eaf9d2b097ff8dbaa4d61767ed3a00010000043a0001000119012c3a00010002781e61"
    "2d6c6f6e6765722d666c6565742d6e616d652d30313233343536373839a040584058f1c5fb85982d543ae17a56abd0"
    "33432310dfa2bd06be18efe44ebd3ae5cb8dac297b96b557ad98ef58588052ab3552b9020e21a192494b1ddc8ed8a4"
    "5dba0c";
/* COSE_Sign1 with external_aad 11aa22bb33cc44dd55006699 */
static const char sign1_vector[] =
    "d28443a10127a10442313154546869732069732074686520636f6e74656e742e584019a617aece7c8c40d9894680b6"
    "19e8ead16ef2cd557942119e7d0f0d75ed93e415bc728d931b342455dd82c4cdd0ced15dcadee34a8440bef39c6c53"
    "bb5e640b";
static const char vector_public[] =
    "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";
/* BLAKE2b-128 of it */
static const char vector_device[] = "40bca4eaf9d2b097ff8dbaa4d61767ed";

#endif
