/* registry.c: the LMDB environment. The one file that includes lmdb.h. */
#include "controller/registry.h"

#include "controller/doc.h"

#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { SCHEMA = 1, GROW_AT_PERCENT = 75 };

static const char *const table_names[REGISTRY_TABLES] = {
    "meta",        "devices",   "files", "recipes", "plans",     "envelopes", "rollouts", "jobs",
    "drift", "telemetry", "bench", "sums",    "decisions", "seen"};

struct registry {
    MDB_env *env;
    MDB_dbi tables[REGISTRY_TABLES];
    pthread_mutex_t lock;
    int lock_file;
};

struct registry_txn {
    struct registry *registry;
    MDB_txn *txn;
    bool is_write;
};

static enum err err_of(int rc)
{
    switch (rc) {
    case MDB_SUCCESS:
        return ERR_NONE;
    case MDB_NOTFOUND:
        return ERR_NOT_FOUND;
    case MDB_MAP_FULL:
    case ENOSPC:
        return ERR_FULL;
    case ENOMEM:
        return ERR_MEMORY;
    case MDB_BAD_VALSIZE:
        return ERR_ARGUMENT;
    default:
        return ERR_IO;
    }
}

/* LMDB's own locks let several processes write in turn, but two controllers must never both decide:
 * one holds this file, the other is told so at start. */
static enum err hold(struct registry *r, const char *folder)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/controller.lock", folder);
    if (n < 0 || (size_t)n >= sizeof path)
        return ERR_ARGUMENT;
    r->lock_file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (r->lock_file < 0)
        return ERR_IO;
    return flock(r->lock_file, LOCK_EX | LOCK_NB) == 0 ? ERR_NONE : ERR_IO;
}

static enum err open_tables(struct registry *r)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(r->env, NULL, 0, &txn);
    if (rc != 0)
        return err_of(rc);
    for (size_t i = 0; i < REGISTRY_TABLES && rc == 0; i++)
        rc = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &r->tables[i]);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return err_of(rc);
    }
    return err_of(mdb_txn_commit(txn));
}

static enum err check_schema(struct registry *r)
{
    struct registry_txn *t = NULL;
    json_t *doc = NULL;
    enum err e = registry_begin(r, true, &t);
    if (e)
        return e;
    e = registry_get_doc(t, REGISTRY_META, "schema", &doc);
    if (e == ERR_NOT_FOUND) {
        doc = json_pack("{s:i}", "version", SCHEMA);
        e = doc ? registry_put_doc(t, REGISTRY_META, "schema", doc) : ERR_MEMORY;
    } else if (!e && json_integer_value(json_object_get(doc, "version")) > SCHEMA) {
        e = ERR_VERSION;
    }
    json_decref(doc);
    if (e) {
        registry_abort(t);
        return e;
    }
    return registry_commit(t);
}

enum err registry_open(const char *folder, size_t map_bytes, struct registry **out)
{
    if (!folder || !out || map_bytes == 0)
        return ERR_ARGUMENT;
    struct registry *r = calloc(1, sizeof *r);
    if (!r)
        return ERR_MEMORY;
    r->lock_file = -1;
    pthread_mutex_init(&r->lock, NULL);
    enum err e = ERR_NONE;
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        e = ERR_IO;
    if (!e)
        e = hold(r, folder);
    int rc = 0;
    if (!e && (rc = mdb_env_create(&r->env)) == 0 &&
        (rc = mdb_env_set_maxdbs(r->env, REGISTRY_TABLES)) == 0)
        rc = mdb_env_set_mapsize(r->env, map_bytes);
    if (!e && rc == 0)
        rc = mdb_env_open(r->env, folder, MDB_NOTLS, 0600);
    if (!e)
        e = err_of(rc);
    if (!e) {
        int dead = 0;
        e = err_of(mdb_reader_check(r->env, &dead));
    }
    if (!e)
        e = open_tables(r);
    if (!e)
        e = check_schema(r);
    if (e) {
        registry_close(r);
        return e;
    }
    *out = r;
    return ERR_NONE;
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    if (r->env)
        mdb_env_close(r->env);
    if (r->lock_file >= 0)
        close(r->lock_file);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* Once LMDB says MAP_FULL even deletes fail, so the map grows while there is room left. Only called
 * with the lock held and no transaction open, as mdb_env_set_mapsize demands. */
static enum err grow(MDB_env *env)
{
    MDB_envinfo info;
    MDB_stat stat;
    if (mdb_env_info(env, &info) != 0 || mdb_env_stat(env, &stat) != 0)
        return ERR_IO;
    size_t used = (info.me_last_pgno + 1) * stat.ms_psize;
    if (used / 100 < info.me_mapsize / 10000 * GROW_AT_PERCENT)
        return ERR_NONE;
    return err_of(mdb_env_set_mapsize(env, info.me_mapsize * 2));
}

enum err registry_begin(struct registry *r, bool is_write, struct registry_txn **out)
{
    struct registry_txn *t = calloc(1, sizeof *t);
    if (!t)
        return ERR_MEMORY;
    pthread_mutex_lock(&r->lock);
    doc_forget_failure();
    t->registry = r;
    t->is_write = is_write;
    enum err e = is_write ? grow(r->env) : ERR_NONE;
    if (!e)
        e = err_of(mdb_txn_begin(r->env, NULL, is_write ? 0 : MDB_RDONLY, &t->txn));
    if (e) {
        pthread_mutex_unlock(&r->lock);
        free(t);
        return e;
    }
    *out = t;
    return ERR_NONE;
}

enum err registry_commit(struct registry_txn *t)
{
    enum err e = ERR_NONE;
    if (doc_has_failed()) {
        mdb_txn_abort(t->txn);
        e = ERR_MEMORY;
    } else {
        e = err_of(mdb_txn_commit(t->txn));
    }
    pthread_mutex_unlock(&t->registry->lock);
    free(t);
    return e;
}

void registry_abort(struct registry_txn *t)
{
    if (!t)
        return;
    mdb_txn_abort(t->txn);
    pthread_mutex_unlock(&t->registry->lock);
    free(t);
}

static MDB_val val_of(const void *p, size_t bytes)
{
    MDB_val v = {bytes, NULL};
    memcpy(&v.mv_data, &p, sizeof p); /* LMDB takes void * but only reads */
    return v;
}

enum err registry_get(struct registry_txn *t, enum registry_table table, const void *key,
                      size_t key_bytes, const void **value, size_t *bytes)
{
    MDB_val k = val_of(key, key_bytes), v;
    enum err e = err_of(mdb_get(t->txn, t->registry->tables[table], &k, &v));
    if (e)
        return e;
    *value = v.mv_data;
    *bytes = v.mv_size;
    return ERR_NONE;
}

enum err registry_put(struct registry_txn *t, enum registry_table table, const void *key,
                      size_t key_bytes, const void *value, size_t bytes)
{
    MDB_val k = val_of(key, key_bytes), v = val_of(value, bytes);
    return err_of(mdb_put(t->txn, t->registry->tables[table], &k, &v, 0));
}

enum err registry_delete(struct registry_txn *t, enum registry_table table, const void *key,
                         size_t key_bytes)
{
    MDB_val k = val_of(key, key_bytes);
    enum err e = err_of(mdb_del(t->txn, t->registry->tables[table], &k, NULL));
    return e == ERR_NOT_FOUND ? ERR_NONE : e;
}

enum err registry_get_doc(struct registry_txn *t, enum registry_table table, const char *key,
                          json_t **out)
{
    const void *value;
    size_t bytes;
    enum err e = registry_get(t, table, key, strlen(key), &value, &bytes);
    if (e)
        return e;
    json_t *doc = json_loadb(value, bytes, 0, NULL);
    if (!doc)
        return ERR_FORMAT;
    *out = doc;
    return ERR_NONE;
}

static enum err put_json(struct registry_txn *t, enum registry_table table, const void *key,
                         size_t key_bytes, const json_t *doc)
{
    char *text = !doc ? NULL : json_dumps(doc, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return ERR_MEMORY;
    enum err e = registry_put(t, table, key, key_bytes, text, strlen(text));
    free(text);
    return e;
}

enum err registry_put_doc(struct registry_txn *t, enum registry_table table, const char *key,
                          const json_t *doc)
{
    return put_json(t, table, key, strlen(key), doc);
}

/* Place the cursor on the first record of the prefix, or on its last one. */
static int seek(MDB_cursor *cursor, const void *prefix, size_t prefix_bytes, bool is_backwards,
                MDB_val *k, MDB_val *v)
{
    if (!is_backwards) {
        if (prefix_bytes == 0)
            return mdb_cursor_get(cursor, k, v, MDB_FIRST);
        *k = val_of(prefix, prefix_bytes);
        return mdb_cursor_get(cursor, k, v, MDB_SET_RANGE);
    }
    uint8_t after[512];
    if (prefix_bytes > sizeof after)
        return MDB_BAD_VALSIZE;
    if (prefix_bytes > 0)
        memcpy(after, prefix, prefix_bytes);
    while (prefix_bytes > 0 && after[prefix_bytes - 1] == 0xff)
        prefix_bytes--;
    if (prefix_bytes == 0)
        return mdb_cursor_get(cursor, k, v, MDB_LAST);
    after[prefix_bytes - 1]++;
    *k = val_of(after, prefix_bytes);
    int rc = mdb_cursor_get(cursor, k, v, MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND)
        return mdb_cursor_get(cursor, k, v, MDB_LAST);
    return rc != 0 ? rc : mdb_cursor_get(cursor, k, v, MDB_PREV);
}

enum err registry_scan(struct registry_txn *t, enum registry_table table, const void *prefix,
                       size_t prefix_bytes, bool is_backwards, registry_visit *visit, void *context)
{
    MDB_cursor *cursor;
    enum err e = err_of(mdb_cursor_open(t->txn, t->registry->tables[table], &cursor));
    if (e)
        return e;
    MDB_val k, v;
    int rc = seek(cursor, prefix, prefix_bytes, is_backwards, &k, &v);
    while (rc == 0) {
        if (k.mv_size < prefix_bytes ||
            (prefix_bytes > 0 && memcmp(k.mv_data, prefix, prefix_bytes) != 0))
            break;
        e = visit(context, k.mv_data, k.mv_size, v.mv_data, v.mv_size);
        if (e)
            break;
        rc = mdb_cursor_get(cursor, &k, &v, is_backwards ? MDB_PREV : MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (e)
        return e == ERR_CANCELLED ? ERR_NONE : e;
    return rc == 0 || rc == MDB_NOTFOUND ? ERR_NONE : err_of(rc);
}

struct list {
    json_t *array;
    size_t limit;
};

static enum err list_visit(void *context, const void *key, size_t key_bytes, const void *value,
                           size_t bytes)
{
    struct list *list = context;
    (void)key;
    (void)key_bytes;
    json_t *doc = json_loadb(value, bytes, 0, NULL);
    if (!doc)
        return ERR_FORMAT;
    if (json_array_append_new(list->array, doc) != 0)
        return ERR_MEMORY;
    return list->limit && json_array_size(list->array) >= list->limit ? ERR_CANCELLED : ERR_NONE;
}

enum err registry_list(struct registry_txn *t, enum registry_table table, const char *prefix,
                       bool is_backwards, size_t limit, json_t **out)
{
    struct list list = {json_array(), limit};
    if (!list.array)
        return ERR_MEMORY;
    enum err e = registry_scan(t, table, prefix, prefix ? strlen(prefix) : 0, is_backwards,
                               list_visit, &list);
    if (e) {
        json_decref(list.array);
        return e;
    }
    *out = list.array;
    return ERR_NONE;
}

static enum err last_visit(void *context, const void *key, size_t key_bytes, const void *value,
                           size_t bytes)
{
    uint64_t *number = context;
    const uint8_t *p = key;
    (void)value;
    (void)bytes;
    *number = 0;
    for (size_t i = 0; i < key_bytes && i < 8; i++)
        *number = *number << 8 | p[i];
    return ERR_CANCELLED;
}

enum err registry_append(struct registry_txn *t, enum registry_table table, json_t *doc)
{
    uint64_t number = 0;
    enum err e = registry_scan(t, table, NULL, 0, true, last_visit, &number);
    if (e)
        return e;
    number++;
    uint8_t key[8];
    for (size_t i = 0; i < 8; i++)
        key[i] = (uint8_t)(number >> (56 - 8 * i));
    if (json_object_set_new(doc, "n", json_integer((json_int_t)number)) != 0)
        return ERR_MEMORY;
    return put_json(t, table, key, sizeof key, doc);
}

enum err registry_count(struct registry_txn *t, enum registry_table table, size_t *out)
{
    MDB_stat stat;
    enum err e = err_of(mdb_stat(t->txn, t->registry->tables[table], &stat));
    if (!e)
        *out = stat.ms_entries;
    return e;
}

void registry_sizes(struct registry *r, uint64_t *map_bytes, uint64_t *used_bytes)
{
    MDB_envinfo info = {0};
    MDB_stat stat = {0};
    pthread_mutex_lock(&r->lock);
    if (mdb_env_info(r->env, &info) == 0 && mdb_env_stat(r->env, &stat) == 0) {
        *map_bytes = info.me_mapsize;
        *used_bytes = (info.me_last_pgno + 1) * stat.ms_psize;
    }
    pthread_mutex_unlock(&r->lock);
}
