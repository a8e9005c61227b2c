/* slots.c: see slots.h. */
#include "agent/slots.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent/log.h"
#include "compress/plan.h"
#include "protocol/cbor.h"
#include "protocol/hex.h"

enum { HEAD_BYTES = 40, KEEP_MAX = 16 };

static const char *const slot_keys[2] = {"slot.0", "slot.1"};

enum err slots_prepare(const char *folder)
{
    static const char *const names[] = {"blobs", "variants", "work"};
    char path[SLOTS_PATH];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return ERR_IO;
    }
    return ERR_NONE;
}

static void name_path(const char *folder, const char *kind, const uint8_t *bytes, size_t size, const char *suffix,
                      char out[SLOTS_PATH])
{
    char hex[65];
    hex_encode(bytes, size, hex);
    snprintf(out, SLOTS_PATH, "%s/%s/%s%s", folder, kind, hex, suffix);
}

void slots_blob_path(const char *folder, const uint8_t digest[32], char out[SLOTS_PATH])
{
    name_path(folder, "blobs", digest, 32, "", out);
}

void slots_variant_path(const char *folder, const uint8_t digest[32], char out[SLOTS_PATH])
{
    name_path(folder, "variants", digest, 32, ".gguf", out);
}

void slots_work_path(const char *folder, const uint8_t plan_id[16], char out[SLOTS_PATH])
{
    name_path(folder, "work", plan_id, 16, ".gguf", out);
}

bool slots_has_file(const char *path, uint64_t bytes)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes;
}

uint64_t slots_disk_free(const char *folder)
{
    struct statvfs fs;
    return statvfs(folder, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : UINT64_MAX;
}

uint64_t slots_disk_used(const char *folder)
{
    static const char *const names[] = {"blobs", "variants", "work"};
    char path[SLOTS_PATH + 300];
    uint64_t used = 0;
    for (int i = 0; i < 3; i++) {
        struct dirent *f;
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        DIR *d = opendir(path);
        while (d && (f = readdir(d))) {
            snprintf(path, sizeof path, "%s/%s/%s", folder, names[i], f->d_name);
            if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
                used += (uint64_t)st.st_size;
        }
        if (d)
            closedir(d);
    }
    return used;
}

static enum err decode_plan(const uint8_t *payload, size_t payload_bytes, struct message_plan *out)
{
    struct message_tensor *tensors = calloc(MESSAGE_TENSORS_MAX, sizeof *tensors);
    if (!tensors)
        return ERR_MEMORY;
    memset(out, 0, sizeof *out);
    out->tensor = tensors;
    out->tensors_max = MESSAGE_TENSORS_MAX;
    enum err e = message_plan_decode(payload, payload_bytes, out);
    free(tensors);
    out->tensor = NULL;
    out->tensors = out->tensors_max = 0;
    return e;
}

enum err slots_decode_plan(const uint8_t *payload, size_t payload_bytes, struct message_plan *out)
{
    enum err e = decode_plan(payload, payload_bytes, out);
    out->derivation = (struct message_blob){NULL, 0}; /* it would point into the caller's bytes */
    return e;
}

void slots_setting(const uint8_t *payload, size_t payload_bytes, struct slots_setting *out)
{
    struct message_plan *plan = calloc(1, sizeof *plan);
    struct cbor_reader r;
    uint64_t pairs, value;
    int64_t key;
    *out = (struct slots_setting){0};
    enum err e = plan ? decode_plan(payload, payload_bytes, plan) : ERR_MEMORY;
    if (!e && plan->derivation.size) {
        cbor_reader_init(&r, plan->derivation.at, plan->derivation.size);
        e = cbor_enter_map(&r, &pairs);
        while (!e && (e = cbor_next_key(&r, &key)) == ERR_NONE) {
            uint32_t *field = key == PLAN_KEY_SCHEMA        ? &out->schema
                              : key == PLAN_KEY_CACHE       ? &out->cache_type
                              : key == PLAN_KEY_ACTIVATIONS ? &out->activation_bits
                                                            : NULL;
            if (!field)
                e = cbor_skip(&r);
            else if (!(e = cbor_read_u64(&r, &value)))
                *field = (uint32_t)value;
        }
    }
    free(plan);
}

enum err slots_get(struct store_txn *t, uint32_t i, struct slot *out)
{
    const void *value;
    size_t bytes;
    memset(out, 0, sizeof *out);
    enum err e = store_get(t, slot_keys[i], &value, &bytes);
    if (e == ERR_NOT_FOUND)
        return ERR_NONE;
    if (e)
        return e;
    const uint8_t *at = value;
    if (bytes < HEAD_BYTES || slots_decode_plan(at + HEAD_BYTES, bytes - HEAD_BYTES, &out->plan)) {
        log_error("slots: a slot cannot be read and counts as free: slot=%u", i);
        memset(out, 0, sizeof *out);
        return ERR_NONE;
    }
    slots_setting(at + HEAD_BYTES, bytes - HEAD_BYTES, &out->setting);
    memcpy(out->variant, at, 32);
    memcpy(&out->variant_bytes, at + 32, 8);
    out->is_used = true;
    return ERR_NONE;
}

enum err slots_put(struct store_txn *t, uint32_t i, const uint8_t variant[32], uint64_t variant_bytes,
                   const uint8_t *payload, size_t payload_bytes)
{
    uint8_t *value = malloc(HEAD_BYTES + payload_bytes);
    if (!value)
        return ERR_MEMORY;
    memcpy(value, variant, 32);
    memcpy(value + 32, &variant_bytes, 8);
    memcpy(value + HEAD_BYTES, payload, payload_bytes);
    enum err e = store_put(t, slot_keys[i], value, HEAD_BYTES + payload_bytes);
    free(value);
    return e;
}

enum err slots_clear(struct store_txn *t, uint32_t i)
{
    return store_delete(t, slot_keys[i]);
}

enum err slots_active(struct store_txn *t, uint32_t *i)
{
    uint64_t active;
    enum err e = store_get_u64(t, "active", &active);
    if (!e)
        *i = active == 1 || active == 2 ? (uint32_t)active - 1 : SLOTS_NONE;
    return e;
}

enum err slots_activate(struct store_txn *t, uint32_t i)
{
    return store_put_u64(t, "active", i >= SLOTS_NONE ? 0 : i + 1);
}

enum err slots_spare(struct store_txn *t, uint32_t *i)
{
    uint32_t active;
    enum err e = slots_active(t, &active);
    if (!e)
        *i = active == 0 ? 1 : 0;
    return e;
}

struct keep {
    char name[KEEP_MAX][80];
    uint32_t count;
};

static void keep_name(struct keep *k, const uint8_t *bytes, size_t size)
{
    if (k->count < KEEP_MAX)
        hex_encode(bytes, size, k->name[k->count++]);
}

static void keep_plan(struct keep *k, const struct message_plan *p)
{
    keep_name(k, p->base.digest, 32);
    keep_name(k, p->profile.digest, 32);
    keep_name(k, p->text.digest, 32);
}

/* Deletes every file of the folder whose name begins with no name that is kept; of the largest blobs, the
 * bases, some more may stay: deriving again from one that is here costs no transfer. */
static void sweep_folder(const char *folder, const char *kind, const struct keep *k, uint64_t keep_bytes)
{
    char path[SLOTS_PATH + 300];
    snprintf(path, sizeof path, "%s/%s", folder, kind);
    DIR *d = opendir(path);
    struct dirent *f;
    while (d && (f = readdir(d))) {
        struct stat st;
        bool kept = f->d_name[0] == '.';
        for (uint32_t i = 0; i < k->count && !kept; i++)
            kept = strncmp(f->d_name, k->name[i], strlen(k->name[i])) == 0;
        if (kept)
            continue;
        snprintf(path, sizeof path, "%s/%s/%s", folder, kind, f->d_name);
        if (stat(path, &st) == 0 && (uint64_t)st.st_size <= keep_bytes) {
            keep_bytes -= (uint64_t)st.st_size;
            continue;
        }
        if (unlink(path) == 0)
            log_info("slots: deleted, nothing needs it: file=%s/%s", kind, f->d_name);
    }
    if (d)
        closedir(d);
}

void slots_sweep(const char *folder, struct store_txn *t, const struct message_plan *job, uint64_t keep_bytes)
{
    struct keep blobs = {0}, variants = {0}, work = {0};
    for (uint32_t i = 0; i < 2; i++) {
        struct slot s;
        if (slots_get(t, i, &s))
            return;
        if (!s.is_used)
            continue;
        keep_plan(&blobs, &s.plan);
        keep_name(&variants, s.variant, 32);
    }
    if (job) {
        keep_plan(&blobs, job);
        keep_name(&variants, job->variant, 32);
        keep_name(&work, job->plan_id, 16);
    }
    sweep_folder(folder, "blobs", &blobs, keep_bytes);
    sweep_folder(folder, "variants", &variants, 0);
    sweep_folder(folder, "work", &work, 0);
}
