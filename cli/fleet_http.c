/* fleet_http.c: libcurl with a bearer token, bounded answers, and the controller's own words. */
#include "cli/fleet_http.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ANSWER_BYTES_MAX = 64 << 20, URL_MAX = 2048, TOKEN_MAX = 256 };

struct answer {
    char *bytes;
    size_t size;
};

static size_t receive(char *bytes, size_t one, size_t count, void *context)
{
    struct answer *a = context;
    size_t size = one * count;
    if (size > ANSWER_BYTES_MAX - a->size)
        return 0;
    char *grown = realloc(a->bytes, a->size + size + 1);
    if (!grown)
        return 0;
    a->bytes = grown;
    memcpy(a->bytes + a->size, bytes, size);
    a->size += size;
    a->bytes[a->size] = 0;
    return size;
}

static const char *setting(const char *given, const char *variable, const char *preset)
{
    if (given)
        return given;
    const char *value = getenv(variable);
    return value && value[0] ? value : preset;
}

static int read_token(struct cli_call *call, const struct fleet_settings *s, char token[TOKEN_MAX])
{
    const char *path =
        setting(s->token_file, "TARE_TOKEN_FILE", "/var/lib/tare-controller/api.token");
    FILE *file = fopen(path, "r");
    if (!file)
        return cli_fail(call, CLI_INPUT, path, NULL, "the bearer token cannot be read: %s",
                        strerror(errno));
    if (!fgets(token, TOKEN_MAX, file))
        token[0] = 0;
    fclose(file);
    token[strcspn(token, " \r\n")] = 0;
    if (!token[0])
        return cli_fail(call, CLI_INPUT, path, NULL, "holds no bearer token on its first line");
    return CLI_DONE;
}

/* The controller's answer as a document, or its refusal as an error. */
static int understand(struct cli_call *call, const char *url, long code, const struct answer *a,
                      json_t **out)
{
    json_error_t e;
    json_t *document = a->size ? json_loadb(a->bytes, a->size, 0, &e) : NULL;
    if (code >= 200 && code < 300 && document) {
        *out = document;
        return CLI_DONE;
    }
    const char *words = json_string_value(json_object_get(document, "error"));
    int status = code >= 400 && code < 500 ? CLI_INPUT : CLI_ENVIRONMENT;
    if (words)
        cli_fail(call, (enum cli_status)status, "controller", NULL, "%s", words);
    else
        cli_fail(call, (enum cli_status)status, url, NULL, "HTTP %ld, expected a JSON document",
                 code);
    json_decref(document);
    return status;
}

/* Everything that the request needs; curl keeps pointers into it until it is done. */
struct request {
    CURL *curl;
    struct curl_slist *headers;
    char *body;
    FILE *upload;
    char url[URL_MAX];
};

static void request_close(struct request *r)
{
    if (r->upload)
        fclose(r->upload);
    curl_slist_free_all(r->headers);
    curl_easy_cleanup(r->curl);
    free(r->body);
}

static int request_open(struct cli_call *call, struct request *r, const char *method,
                        const json_t *body, const char *upload)
{
    char token[TOKEN_MAX], header[TOKEN_MAX + 32];
    int status = read_token(call, call->settings, token);
    if (status)
        return status;
    snprintf(header, sizeof header, "Authorization: Bearer %s", token);
    r->curl = curl_easy_init();
    r->headers = curl_slist_append(NULL, header);
    if (!r->curl || !r->headers)
        return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory for an HTTP request");
    curl_easy_setopt(r->curl, CURLOPT_URL, r->url);
    curl_easy_setopt(r->curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(r->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(r->curl, CURLOPT_CONNECTTIMEOUT, 5L);
    curl_easy_setopt(r->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(r->curl, CURLOPT_TIMEOUT, upload ? 0L : 120L);
    if (upload) {
        struct stat about;
        r->upload = fopen(upload, "rb");
        if (!r->upload || fstat(fileno(r->upload), &about))
            return cli_fail(call, CLI_INPUT, upload, NULL, "cannot be read: %s", strerror(errno));
        r->headers = curl_slist_append(r->headers, "Content-Type: application/octet-stream");
        curl_easy_setopt(r->curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(r->curl, CURLOPT_READDATA, r->upload);
        curl_easy_setopt(r->curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)about.st_size);
    } else if (body || !strcmp(method, "POST")) {
        r->body = body ? json_dumps(body, JSON_COMPACT) : strdup("{}");
        if (!r->body)
            return cli_fail(call, CLI_ENVIRONMENT, NULL, NULL, "no memory for an HTTP request");
        r->headers = curl_slist_append(r->headers, "Content-Type: application/json");
        curl_easy_setopt(r->curl, CURLOPT_POSTFIELDS, r->body);
    }
    curl_easy_setopt(r->curl, CURLOPT_HTTPHEADER, r->headers);
    return CLI_DONE;
}

int fleet_ask(struct cli_call *call, const char *method, const char *path, const json_t *body,
              const char *upload, json_t **out)
{
    const struct fleet_settings *s = call->settings;
    const char *base = setting(s->controller, "TARE_CONTROLLER", "http://127.0.0.1:8780");
    char trouble[CURL_ERROR_SIZE] = "";
    struct answer a = {0};
    struct request r = {0};
    int at = (int)strlen(base);
    while (at > 0 && base[at - 1] == '/')
        at--;
    if (snprintf(r.url, sizeof r.url, "%.*s%s", at, base, path) >= (int)sizeof r.url)
        return cli_fail(call, CLI_USAGE, NULL, NULL, "the request is longer than %d bytes",
                        URL_MAX);
    int status = request_open(call, &r, method, body, upload);
    if (status)
        goto out;
    curl_easy_setopt(r.curl, CURLOPT_ERRORBUFFER, trouble);
    curl_easy_setopt(r.curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(r.curl, CURLOPT_WRITEDATA, &a);
    CURLcode code = curl_easy_perform(r.curl);
    if (code != CURLE_OK) {
        status = cli_fail(call, CLI_ENVIRONMENT, base, NULL, "the controller does not answer: %s",
                          trouble[0] ? trouble : curl_easy_strerror(code));
        goto out;
    }
    long http = 0;
    curl_easy_getinfo(r.curl, CURLINFO_RESPONSE_CODE, &http);
    status = understand(call, r.url, http, &a, out);
out:
    request_close(&r);
    free(a.bytes);
    return status;
}

char *fleet_encode(const char *text, char *out, size_t bytes)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t used = 0;
    for (; *text && used + 4 <= bytes; text++) {
        unsigned char c = (unsigned char)*text;
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                        (c >= '0' && c <= '9') || strchr("-._~", c) != NULL;
        if (is_plain) {
            out[used++] = (char)c;
        } else {
            out[used++] = '%';
            out[used++] = hex[c >> 4];
            out[used++] = hex[c & 15];
        }
    }
    out[used] = 0;
    return out;
}
