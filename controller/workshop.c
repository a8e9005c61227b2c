/* workshop.c: starting and judging the process that prepares. */
#include "controller/workshop.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "controller/controller_log.h"
#include "controller/doc.h"
#include "controller/jobrecord.h"
#include "controller/release.h"

enum { WORK_PATH = 768, CRASHES_MAX = 2 };

struct workshop {
    struct controller *c;
    char program[WORK_PATH];
    pid_t child; /* 0: none */
    char rollout[32];
    uint32_t crashes; /* of this rollout's process */
};

static void folder_of(const struct workshop *w, const char *rollout, char out[WORK_PATH])
{
    snprintf(out, WORK_PATH, "%s/work/%.24s", w->c->settings.state, rollout);
}

static enum err make_folder(const char *state, const char *name)
{
    char path[WORK_PATH];
    snprintf(path, sizeof path, "%s/%s", state, name);
    return mkdir(path, 0700) == 0 || errno == EEXIST ? ERR_NONE : ERR_IO;
}

enum err workshop_open(struct controller *c, const char *program, struct workshop **out)
{
    struct workshop *w = calloc(1, sizeof *w);
    if (!w)
        return ERR_MEMORY;
    w->c = c;
    ssize_t n = 0;
    if (program)
        snprintf(w->program, sizeof w->program, "%s", program);
    else
        n = readlink("/proc/self/exe", w->program, sizeof w->program - 1);
    enum err e = n < 0 ? ERR_IO : ERR_NONE;
    if (!e)
        e = make_folder(c->settings.state, "work");
    if (!e)
        e = make_folder(c->settings.state, "predictions");
    if (!e)
        e = make_folder(c->settings.state, "artifacts");
    if (e) {
        free(w);
        return e;
    }
    *out = w;
    return ERR_NONE;
}

static void stop(struct workshop *w)
{
    if (w->child <= 0)
        return;
    kill(w->child, SIGKILL);
    while (waitpid(w->child, NULL, 0) < 0 && errno == EINTR)
        ;
    w->child = 0;
}

void workshop_close(struct workshop *w)
{
    if (!w)
        return;
    stop(w);
    free(w);
}

static void remove_files(const char *folder)
{
    static const char *const names[] = {"job.json",    "recipe.yaml",       "progress",
                                        "result.json", "variant.gguf.part", "variant.gguf.state",
                                        "variant.gguf.lock", "variant.gguf"};
    char path[WORK_PATH + 40];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    for (unsigned i = 0;; i++) {
        snprintf(path, sizeof path, "%s/plan-%u.cbor", folder, i);
        if (unlink(path) != 0)
            break;
    }
    (void)rmdir(folder);
}

static enum err write_text(const char *folder, const char *name, const char *text)
{
    char path[WORK_PATH + 40], part[WORK_PATH + 48];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "we");
    if (!f)
        return ERR_IO;
    bool is_ok = fputs(text, f) >= 0 && fflush(f) == 0 && fsync(fileno(f)) == 0;
    is_ok = fclose(f) == 0 && is_ok;
    return is_ok && rename(part, path) == 0 ? ERR_NONE : ERR_IO;
}

/* Where a registered file lies. */
static enum err put_path(struct registry_txn *t, const char *digest, json_t *doc, const char *key)
{
    json_t *file = NULL;
    if (!digest[0]) {
        doc_set_text(doc, key, "");
        return ERR_NONE;
    }
    enum err e = registry_get_doc(t, REGISTRY_FILES, digest, &file);
    if (!e) {
        doc_set_text(doc, key, doc_text(file, "path"));
        if (strcmp(key, "base_path") == 0)
            doc_set_int(doc, "base_bytes", doc_int(file, "bytes"));
    }
    json_decref(file);
    return e;
}

/* One class per amount of memory among the cohort: the only fact of a device that plans depend on. */
static enum err put_classes(struct registry_txn *t, const json_t *rollout, json_t *job)
{
    json_t *classes = json_array(), *id;
    size_t i, k;
    enum err e = ERR_NONE;
    json_array_foreach(json_object_get(rollout, "cohort"), i, id)
    {
        json_t *device = NULL, *known;
        bool is_known = false;
        e = registry_get_doc(t, REGISTRY_DEVICES, json_string_value(id), &device);
        if (e)
            break;
        int64_t memory = doc_int(device, "memory_bytes");
        json_decref(device);
        json_array_foreach(classes, k, known)
            is_known = is_known || doc_int(known, "memory_bytes") == memory;
        if (!is_known)
            doc_append(classes, json_pack("{s:I}", "memory_bytes", (json_int_t)memory));
    }
    doc_set(job, "classes", classes);
    return e;
}

static enum err put_texts(struct registry_txn *t, const json_t *rollout, json_t *job)
{
    json_t *texts = json_array(), *text;
    size_t i;
    enum err e = ERR_NONE;
    json_array_foreach(json_object_get(rollout, "texts"), i, text)
    {
        json_t *entry = json_object();
        if (!e)
            e = put_path(t, doc_text(text, "digest"), entry, "path");
        doc_set_text(entry, "language", doc_text(text, "language"));
        doc_append(texts, entry);
    }
    doc_set(job, "texts", texts);
    return e;
}

static enum err write_job(struct workshop *w, const json_t *rollout, const char *folder)
{
    struct registry_txn *t = NULL;
    json_t *job = json_object(), *recipe = NULL;
    enum err e = job ? registry_begin(w->c->registry, false, &t) : ERR_MEMORY;
    if (e) {
        json_decref(job);
        return e;
    }
    doc_set_text(job, "state", w->c->settings.state);
    doc_set_text(job, "base", doc_text(rollout, "base"));
    doc_set_text(job, "profile", doc_text(rollout, "profile"));
    doc_set_int(job, "threads", w->c->settings.threads);
    if (json_is_array(json_object_get(rollout, "raise")))
        doc_set(job, "raise", json_deep_copy(json_object_get(rollout, "raise")));
    e = put_path(t, doc_text(rollout, "base"), job, "base_path");
    if (!e)
        e = put_path(t, doc_text(rollout, "profile"), job, "profile_path");
    if (!e)
        e = put_texts(t, rollout, job);
    if (!e)
        e = put_classes(t, rollout, job);
    if (!e)
        e = registry_get_doc(t, REGISTRY_RECIPES, doc_text(rollout, "recipe"), &recipe);
    registry_abort(t);
    char *text = e ? NULL : json_dumps(job, JSON_INDENT(1));
    if (!e && (!text || doc_has_failed()))
        e = ERR_MEMORY;
    if (!e)
        e = write_text(folder, "recipe.yaml", doc_text(recipe, "text"));
    if (!e)
        e = write_text(folder, "job.json", text);
    free(text);
    json_decref(recipe);
    json_decref(job);
    return e;
}

static enum err start(struct workshop *w, const json_t *rollout)
{
    char folder[WORK_PATH], log[WORK_PATH + 16];
    const char *id = doc_text(rollout, "id");
    folder_of(w, id, folder);
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        return ERR_IO;
    enum err e = write_job(w, rollout, folder);
    if (e)
        return e;
    snprintf(log, sizeof log, "%s/log", folder);
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        return ERR_MEMORY;
    if (child == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (fd >= 0)
            dup2(fd, STDERR_FILENO);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
            _exit(126);
        execl(w->program, "tare-controller", "prepare", folder, (char *)NULL);
        _exit(127);
    }
    w->child = child;
    if (strcmp(w->rollout, id) != 0)
        w->crashes = 0;
    snprintf(w->rollout, sizeof w->rollout, "%.24s", id);
    controller_log(CONTROLLER_LOG_INFO, "workshop: preparing rollout %s", id);
    return ERR_NONE;
}

/* A calibrated profile becomes a registered artifact before a plan names it. */
static enum err register_profile(struct workshop *w, struct registry_txn *t, const json_t *result,
                                 int64_t now_s)
{
    const char *digest = doc_text(result, "profile");
    json_t *file = NULL;
    if (!digest[0] || registry_get_doc(t, REGISTRY_FILES, digest, &file) == ERR_NONE) {
        json_decref(file);
        return ERR_NONE;
    }
    char path[WORK_PATH];
    struct stat st;
    snprintf(path, sizeof path, "%s/artifacts/%.64s", w->c->settings.state, digest);
    if (stat(path, &st) != 0)
        return ERR_IO;
    file = json_pack("{s:s,s:s,s:s,s:s,s:I,s:I}", "digest", digest, "kind", "profile", "name",
                     doc_text(result, "profile_name"), "path", path, "bytes", (json_int_t)st.st_size,
                     "registered", (json_int_t)now_s);
    enum err e = registry_put_doc(t, REGISTRY_FILES, digest, file);
    json_decref(file);
    return e;
}

static enum err take_result(struct workshop *w, int64_t now_s, const char *folder,
                            const json_t *result)
{
    struct registry_txn *t = NULL;
    enum err e = registry_begin(w->c->registry, true, &t);
    if (e)
        return e;
    e = register_profile(w, t, result, now_s);
    if (!e)
        e = release_prepared(w->c, t, w->rollout, result, folder, now_s);
    if (e) {
        registry_abort(t);
        return e;
    }
    e = registry_commit(t);
    if (!e)
        remove_files(folder);
    return e;
}

static enum err fail(struct workshop *w, int64_t now_s, const char *folder, const char *why)
{
    json_t *result = json_pack("{s:s}", "error", why);
    enum err e = result ? take_result(w, now_s, folder, result) : ERR_MEMORY;
    json_decref(result);
    return e;
}

static enum err on_exit_of(struct workshop *w, int status, int64_t now_s)
{
    char folder[WORK_PATH], path[WORK_PATH + 16], why[96];
    folder_of(w, w->rollout, folder);
    snprintf(path, sizeof path, "%s/result.json", folder);
    json_t *result = json_load_file(path, 0, NULL);
    enum err e = ERR_NONE;
    if (result && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        e = take_result(w, now_s, folder, result);
    } else if (++w->crashes < CRASHES_MAX) {
        controller_log(CONTROLLER_LOG_WARNING, "workshop: rollout %s: the process died, again",
                       w->rollout); /* the tick starts it anew, from its checkpoints */
    } else {
        snprintf(why, sizeof why, "the process that prepares plans %s %d",
                 WIFSIGNALED(status) ? "was killed by signal" : "ended with status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        e = fail(w, now_s, folder, why);
    }
    json_decref(result);
    return e;
}

/* The first rollout that waits for its plans, or NULL. */
static enum err next_rollout(struct workshop *w, json_t **out, bool *is_current_wanted)
{
    struct registry_txn *t = NULL;
    json_t *all = NULL, *doc;
    size_t i;
    *out = NULL;
    *is_current_wanted = false;
    enum err e = registry_begin(w->c->registry, false, &t);
    if (e)
        return e;
    e = registry_list(t, REGISTRY_ROLLOUTS, NULL, false, 0, &all);
    registry_abort(t);
    json_array_foreach(all, i, doc)
    {
        if (doc_int(doc, "state_number") != ROLLOUT_PREPARING || doc_bool(doc, "prepared"))
            continue;
        if (!*out)
            *out = json_incref(doc);
        *is_current_wanted = *is_current_wanted || strcmp(doc_text(doc, "id"), w->rollout) == 0;
    }
    json_decref(all);
    return e;
}

enum err workshop_tick(struct workshop *w, int64_t now_s, bool *is_busy)
{
    enum err e = ERR_NONE;
    bool is_wanted = false;
    json_t *next = NULL;
    int status = 0;
    if (w->child > 0 && waitpid(w->child, &status, WNOHANG) == w->child) {
        w->child = 0;
        e = on_exit_of(w, status, now_s);
    }
    if (!e)
        e = next_rollout(w, &next, &is_wanted);
    if (!e && w->child > 0 && !is_wanted)
        stop(w); /* aborted by an operator */
    if (!e && w->child == 0 && next) {
        e = start(w, next);
        if (e == ERR_NOT_FOUND) {
            char folder[WORK_PATH];
            snprintf(w->rollout, sizeof w->rollout, "%.24s", doc_text(next, "id"));
            folder_of(w, w->rollout, folder);
            e = fail(w, now_s, folder, "a file that the rollout needs is no longer registered");
        }
    }
    json_decref(next);
    *is_busy = w->child > 0;
    return e;
}
