/* fetch.c: a file by its digest over HTTP: resumed where it stopped, verified, and only then in its place.
 *
 * Bytes go to PATH.part. A later run hashes what is there and asks for the rest with a range; a server that
 * does not know ranges sends all again. Nothing is believed but the digest: too many bytes, too few, or
 * another digest are errors, and a part that cannot become the file is deleted.
 */
#include "agent/worker_parts.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/log.h"
#include "compress/digest.h"
#include "protocol/hex.h"

enum { TRIES_MAX = 5, CONNECT_S = 15, SLOW_BYTES_S = 1, SLOW_S = 30, WAIT_MS = 500, BUFFER = 1 << 16 };

struct fetch {
    struct worker_self *w;
    const char *path;
    char part[1024];
    uint64_t bytes, have;
    uint8_t digest[32];
    struct digest hash;
    int fd;
    long status;       /* of the answer that is being read */
    bool is_too_long, is_disk_broken;
    char why[WORKER_WHY];
};

static bool hash_file(int fd, uint64_t limit, struct digest *hash, uint64_t *have, struct worker_self *w)
{
    uint8_t *buffer = malloc(BUFFER);
    ssize_t n = -1;
    if (!buffer || digest_start(hash)) {
        free(buffer);
        return false;
    }
    *have = 0;
    while ((n = pread(fd, buffer, BUFFER, (off_t)*have)) > 0) {
        digest_add(hash, buffer, (size_t)n);
        *have += (uint64_t)n;
        worker_beat(w, *have, limit);
    }
    free(buffer);
    return n == 0;
}

static bool start_over(struct fetch *f)
{
    f->have = 0;
    return !digest_start(&f->hash) && ftruncate(f->fd, 0) == 0 && lseek(f->fd, 0, SEEK_SET) == 0;
}

static size_t on_header(char *line, size_t size, size_t count, void *context)
{
    struct fetch *f = context;
    size_t bytes = size * count;
    if (bytes > 12 && strncmp(line, "HTTP/", 5) == 0) {
        char *space = memchr(line, ' ', bytes);
        f->status = space ? strtol(space, NULL, 10) : 0;
        /* The whole file comes although a range was asked for. */
        if (f->status == 200 && f->have && !start_over(f))
            f->is_disk_broken = true;
    }
    return bytes;
}

static size_t on_body(char *data, size_t size, size_t count, void *context)
{
    struct fetch *f = context;
    size_t bytes = size * count, done = 0;
    if (f->status != 200 && f->status != 206)
        return bytes; /* an error's text */
    if (f->is_disk_broken)
        return 0;
    if (bytes > f->bytes - f->have) {
        f->is_too_long = true;
        return 0;
    }
    while (done < bytes) {
        ssize_t n = write(f->fd, data + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            f->is_disk_broken = true;
            snprintf(f->why, sizeof f->why, "%.150s: %s", f->part, strerror(errno));
            return 0;
        }
        done += (size_t)n;
    }
    digest_add(&f->hash, data, bytes);
    f->have += bytes;
    worker_beat(f->w, f->have, f->bytes);
    return bytes;
}

/* Silence on the line is bounded by SLOW_S, so this may prove that we live. */
static int on_progress(void *context, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up)
{
    struct fetch *f = context;
    (void)total;
    (void)now;
    (void)up_total;
    (void)up;
    worker_beat(f->w, f->have, f->bytes);
    return 0;
}

static enum err one_try(struct fetch *f, CURL *curl, const char *url, const char *ca, bool *is_final)
{
    char range[32], text[CURL_ERROR_SIZE] = "";
    *is_final = false;
    f->status = 0;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SLOW_S);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, f);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, f);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, f);
    if (ca[0])
        curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
    if (f->have) {
        snprintf(range, sizeof range, "%llu-", (unsigned long long)f->have);
        curl_easy_setopt(curl, CURLOPT_RANGE, range);
    }
    CURLcode rc = curl_easy_perform(curl);
    if (f->is_disk_broken) {
        *is_final = true;
        return ERR_IO;
    }
    if (f->is_too_long) {
        snprintf(f->why, sizeof f->why, "%.150s: the server sends more than %llu bytes", url,
                 (unsigned long long)f->bytes);
        *is_final = true;
        return ERR_MISMATCH;
    }
    if (f->status >= 400 && f->status < 500 && f->status != 408 && f->status != 429) {
        snprintf(f->why, sizeof f->why, "%.150s: the server answers %ld", url, f->status);
        *is_final = true;
        return f->status == 404 || f->status == 410 ? ERR_NOT_FOUND : ERR_UNSUPPORTED;
    }
    if (rc == CURLE_OK && f->have == f->bytes)
        return ERR_NONE;
    snprintf(f->why, sizeof f->why, "%.120s: %.100s", url,
             rc != CURLE_OK     ? (text[0] ? text : curl_easy_strerror(rc))
             : f->status >= 500 ? "the server fails"
                                : "the answer ended early");
    return ERR_TIMEOUT;
}

static enum err download(struct fetch *f, const char *url, const char *ca)
{
    CURL *curl = curl_easy_init();
    enum err e = ERR_MEMORY;
    if (!curl)
        return e;
    for (int tries = 0; tries < TRIES_MAX; tries++) {
        bool is_final;
        uint64_t before = f->have;
        e = one_try(f, curl, url, ca, &is_final);
        if (!e || is_final)
            break;
        if (f->have > before)
            tries = 0; /* it moves: only tries in a row without a byte count */
        log_info("fetch: again after a pause: %s", f->why);
        uint32_t wait = (uint32_t)WAIT_MS << tries;
        for (uint32_t left = wait / 2 + randombytes_uniform(wait); left; left -= left < 100 ? left : 100) {
            worker_beat(f->w, f->have, f->bytes);
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        }
    }
    curl_easy_cleanup(curl);
    return e;
}

/* Into its place: the bytes are durable before the name is. */
static enum err settle(struct fetch *f)
{
    uint8_t digest[32];
    char folder[1024];
    enum err e = digest_finish(&f->hash, digest);
    if (e)
        return e;
    if (memcmp(digest, f->digest, 32) != 0) {
        snprintf(f->why, sizeof f->why, "%.150s: another digest than the plan says", f->path);
        unlink(f->part);
        return ERR_MISMATCH;
    }
    snprintf(folder, sizeof folder, "%s", f->path);
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = 0;
    int dir = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fsync(f->fd) == 0 && rename(f->part, f->path) == 0 && dir >= 0 && fsync(dir) == 0;
    if (!ok)
        snprintf(f->why, sizeof f->why, "%.150s: %s", f->path, strerror(errno));
    if (dir >= 0)
        close(dir);
    return ok ? ERR_NONE : ERR_IO;
}

static enum err run(struct fetch *f, const char *url, const char *ca)
{
    struct stat st;
    f->fd = open(f->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (f->fd < 0 || fstat(f->fd, &st) != 0) {
        snprintf(f->why, sizeof f->why, "%.150s: %s", f->part, strerror(errno));
        return ERR_IO;
    }
    if (st.st_size < 0 || (uint64_t)st.st_size > f->bytes || !hash_file(f->fd, f->bytes, &f->hash, &f->have, f->w)) {
        if (!start_over(f))
            return ERR_IO;
    }
    if (lseek(f->fd, (off_t)f->have, SEEK_SET) < 0)
        return ERR_IO;
    enum err e = f->have == f->bytes ? ERR_NONE : download(f, url, ca);
    if (e == ERR_MISMATCH || (e && f->have == 0))
        unlink(f->part);
    return e ? e : settle(f);
}

static bool take_file(const struct wire *m, struct fetch *f, char path[900])
{
    const void *digest;
    size_t size;
    if (!wire_view(m, WIRE_K_DIGEST, &digest, &size) || size != 32 || !wire_text(m, WIRE_K_PATH, path, 900))
        return false;
    memcpy(f->digest, digest, 32);
    f->bytes = wire_u64(m, WIRE_K_BYTES, 0);
    f->path = path;
    return true;
}

void worker_fetch(struct worker_self *w, const struct wire *m)
{
    struct fetch f = {.w = w, .fd = -1};
    char path[900], url[1024], ca[WORKER_FOLDER];
    enum err e = ERR_ARGUMENT;
    if (take_file(m, &f, path) && wire_text(m, WIRE_K_URL, url, sizeof url) &&
        wire_text(m, WIRE_K_CA, ca, sizeof ca) && curl_global_init(CURL_GLOBAL_DEFAULT) == 0) {
        snprintf(f.part, sizeof f.part, "%s.part", path);
        e = run(&f, url, ca);
        digest_stop(&f.hash);
        if (f.fd >= 0)
            close(f.fd);
        curl_global_cleanup();
    }
    if (e) {
        worker_fail(w, e, f.why[0] ? f.why : err_name(e));
        return;
    }
    struct wire answer;
    wire_init(&answer, WIRE_DONE, w->id);
    worker_reply(w, &answer);
}

void worker_verify(struct worker_self *w, const struct wire *m)
{
    struct fetch f = {.w = w, .fd = -1};
    char path[900];
    uint8_t digest[32];
    enum err e = ERR_ARGUMENT;
    if (take_file(m, &f, path)) {
        f.fd = open(path, O_RDONLY | O_CLOEXEC);
        if (f.fd < 0) {
            e = errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
        } else if (!hash_file(f.fd, f.bytes, &f.hash, &f.have, w)) {
            e = ERR_IO;
        } else {
            e = digest_finish(&f.hash, digest);
            if (!e && (f.have != f.bytes || memcmp(digest, f.digest, 32) != 0))
                e = ERR_MISMATCH;
        }
        digest_stop(&f.hash);
        if (f.fd >= 0)
            close(f.fd);
    }
    if (e) {
        snprintf(f.why, sizeof f.why, "%.180s: %s", path, e == ERR_MISMATCH ? "damaged" : err_name(e));
        worker_fail(w, e, f.why);
        return;
    }
    struct wire answer;
    wire_init(&answer, WIRE_DONE, w->id);
    worker_reply(w, &answer);
}
