/* minisign_test.c tests protocol/minisign.c and minisign_file.c, against stock minisign where it
 * is. */
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/minisign.h"

static char folder[64];
static int has_stock;

static const char *in(const char *name)
{
    static char path[4][128];
    static unsigned turn;
    char *to = path[turn++ % 4];
    snprintf(to, sizeof path[0], "%s/%s", folder, name);
    return to;
}

static int shell(const char *script)
{
    char line[1024];
    snprintf(line, sizeof line, "cd '%s' && { %s; } >/dev/null 2>&1 </dev/null", folder, script);
    return system(line);
}

static void write_file(const char *name, const void *bytes, size_t size)
{
    FILE *f = fopen(in(name), "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(fwrite(bytes, 1, size, f), size);
    CU_ASSERT_EQUAL(fclose(f), 0);
}

static void write_pattern(const char *name, size_t size)
{
    uint8_t *bytes = malloc(size);
    CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 31 >> 3);
    write_file(name, bytes, size);
    free(bytes);
}

static void own_files(void)
{
    struct minisign_secret secret, loaded;
    struct minisign_public public, read;
    struct minisign_signature signature;
    struct stat st;
    CU_ASSERT_EQUAL(minisign_generate(&secret), ERR_NONE);
    minisign_public_of(&secret, &public);
    CU_ASSERT_EQUAL(minisign_secret_save(in("own.key"), &secret, "tare plugin key"), ERR_NONE);
    CU_ASSERT_EQUAL(minisign_secret_save(in("own.key"), &secret, "tare plugin key"), ERR_FULL);
    CU_ASSERT_EQUAL(minisign_public_save(in("own.pub"), &public, "tare plugin key"), ERR_NONE);
    CU_ASSERT_EQUAL(stat(in("own.key"), &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 0777, 0600);
    CU_ASSERT_EQUAL(minisign_secret_load(in("own.key"), &loaded), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&loaded, &secret, sizeof secret), 0);
    CU_ASSERT_EQUAL(minisign_public_load(in("own.pub"), &read), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(&read, &public, sizeof public), 0);
    CU_ASSERT_EQUAL(minisign_secret_load(in("none"), &loaded), ERR_NOT_FOUND);
    CU_ASSERT_EQUAL(minisign_secret_load(in("own.pub"), &loaded), ERR_ARGUMENT); /* mode 0644 */
    write_pattern("data", 300 * 1000);
    CU_ASSERT_EQUAL(
        minisign_file_sign(&secret, in("data"), "role=targets version=3", in("data.minisig")),
        ERR_NONE);
    CU_ASSERT_EQUAL(minisign_file_verify(&public, in("data"), in("data.minisig"), &signature),
                    ERR_NONE);
    CU_ASSERT_STRING_EQUAL(signature.trusted_comment, "role=targets version=3");
    CU_ASSERT_EQUAL(minisign_file_sign(&secret, in("data"), "two\nlines", in("data.minisig")),
                    ERR_ARGUMENT);
    CU_ASSERT_EQUAL(minisign_file_sign(&secret, in("none"), NULL, in("x")), ERR_NOT_FOUND);
    write_pattern("data", 299 * 1000);
    CU_ASSERT_EQUAL(minisign_file_verify(&public, in("data"), in("data.minisig"), NULL),
                    ERR_SIGNATURE);
    public.key_id[0] ^= 1;
    CU_ASSERT_EQUAL(minisign_file_verify(&public, in("data"), in("data.minisig"), NULL),
                    ERR_NOT_FOUND);
}

/* every byte of a signature file changed: the content, the key id, the comments that are signed */
static void refuses_altered(void)
{
    struct minisign_secret secret;
    struct minisign_public public;
    struct minisign_signature s;
    struct minisign_hash hash;
    uint8_t digest[MINISIGN_HASH_BYTES];
    char text[MINISIGN_FILE_MAX], changed[MINISIGN_FILE_MAX];
    CU_ASSERT_EQUAL(minisign_generate(&secret), ERR_NONE);
    minisign_public_of(&secret, &public);
    minisign_hash_start(&hash);
    minisign_hash_add(&hash, "con", 3);
    minisign_hash_add(&hash, "tent", 4);
    minisign_hash_end(&hash, digest);
    CU_ASSERT_EQUAL(minisign_sign_hash(&secret, digest, "version=1", &s), ERR_NONE);
    CU_ASSERT_EQUAL(minisign_signature_encode(&s, "c", text, sizeof text), ERR_NONE);
    size_t n = strlen(text);
    CU_ASSERT_EQUAL(minisign_verify(&public, "content", 7, text, n), ERR_NONE);
    CU_ASSERT_EQUAL(minisign_verify(&public, "contenT", 7, text, n), ERR_SIGNATURE);
    const char *end_of_free_text = strchr(text, '\n');
    for (size_t i = 0; i < n * 8; i++) {
        memcpy(changed, text, n);
        changed[i / 8] = (char)(changed[i / 8] ^ 1 << i % 8);
        int is_free = text + i / 8 < end_of_free_text && i / 8 >= strlen("untrusted comment:");
        /* the last line end may be missing or be another kind of blank */
        if (!is_free && i / 8 != n - 1)
            CU_ASSERT_NOT_EQUAL(minisign_verify(&public, "content", 7, changed, n), ERR_NONE);
    }
    for (size_t k = 0; k + 1 < n; k++)
        CU_ASSERT_NOT_EQUAL(minisign_verify(&public, "content", 7, text, k), ERR_NONE);
}

static void key_text_is_strict(void)
{
    struct minisign_secret secret, out;
    struct minisign_public public, read;
    char text[MINISIGN_FILE_MAX];
    CU_ASSERT_EQUAL(minisign_generate(&secret), ERR_NONE);
    minisign_public_of(&secret, &public);
    CU_ASSERT_EQUAL(minisign_secret_encode(&secret, "c", text, sizeof text), ERR_NONE);
    size_t n = strlen(text);
    CU_ASSERT_EQUAL(minisign_secret_decode(text, n, &out), ERR_NONE);
    size_t start = strlen("untrusted comment: c\n");
    for (size_t i = start; i + 1 < n; i++) {
        /* salt and limits of an encryption that is not used: bytes 6 .. 53, base64 digits 8 .. 71
         */
        if (i - start >= 8 && i - start < 72)
            continue;
        char before = text[i];
        text[i] = before == 'A' ? 'B' : 'A';
        CU_ASSERT_NOT_EQUAL(minisign_secret_decode(text, n, &out), ERR_NONE);
        text[i] = before;
    }
    CU_ASSERT_EQUAL(minisign_secret_encode(&secret, "c", text, 100), ERR_FULL);
    CU_ASSERT_EQUAL(minisign_public_encode(&public, "a\nb", text, sizeof text), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(minisign_public_encode(&public, "c", text, sizeof text), ERR_NONE);
    const char *line = strchr(text, '\n') + 1;
    CU_ASSERT_EQUAL(minisign_public_decode(line, strlen(line), &read), ERR_NONE); /* base64 alone */
    CU_ASSERT_EQUAL(memcmp(&read, &public, sizeof read), 0);
    CU_ASSERT_EQUAL(minisign_public_decode(line, strlen(line) - 4, &read), ERR_FORMAT);
}

static void stock_accepts_ours(void)
{
    struct minisign_secret secret;
    struct minisign_public public;
    if (!has_stock)
        return;
    CU_ASSERT_EQUAL(minisign_generate(&secret), ERR_NONE);
    minisign_public_of(&secret, &public);
    CU_ASSERT_EQUAL(minisign_secret_save(in("ours.key"), &secret, "tare director key"), ERR_NONE);
    CU_ASSERT_EQUAL(minisign_public_save(in("ours.pub"), &public, "tare director key"), ERR_NONE);
    write_pattern("payload", 100 * 1000);
    CU_ASSERT_EQUAL(minisign_file_sign(&secret, in("payload"), NULL, in("payload.minisig")),
                    ERR_NONE);
    CU_ASSERT_EQUAL(shell("minisign -V -H -p ours.pub -m payload"), 0);
    CU_ASSERT_NOT_EQUAL(shell("echo x >>payload; minisign -V -H -p ours.pub -m payload"), 0);
    /* and stock minisign signs with our key file */
    CU_ASSERT_EQUAL(shell("minisign -S -W -s ours.key -m payload -t 'version=9'"), 0);
    struct minisign_signature s;
    CU_ASSERT_EQUAL(minisign_file_verify(&public, in("payload"), in("payload.minisig"), &s),
                    ERR_NONE);
    CU_ASSERT_STRING_EQUAL(s.trusted_comment, "version=9");
}

static void we_accept_stock(void)
{
    struct minisign_secret secret;
    struct minisign_public public;
    if (!has_stock)
        return;
    CU_ASSERT_EQUAL(shell("minisign -G -W -p stock.pub -s stock.key"), 0);
    CU_ASSERT_EQUAL(chmod(in("stock.key"), 0600), 0);
    CU_ASSERT_EQUAL(minisign_secret_load(in("stock.key"), &secret), ERR_NONE);
    CU_ASSERT_EQUAL(minisign_public_load(in("stock.pub"), &public), ERR_NONE);
    CU_ASSERT_EQUAL(memcmp(public.public_key, secret.secret_key + 32, 32), 0);
    write_pattern("file", 5000);
    CU_ASSERT_EQUAL(shell("minisign -S -W -s stock.key -m file"), 0);
    CU_ASSERT_EQUAL(minisign_file_verify(&public, in("file"), in("file.minisig"), NULL), ERR_NONE);
    CU_ASSERT_EQUAL(minisign_file_sign(&secret, in("file"), NULL, in("file.minisig")), ERR_NONE);
    CU_ASSERT_EQUAL(shell("minisign -V -H -p stock.pub -m file"), 0);
    /* the legacy kind signs the file itself: refused */
    CU_ASSERT_EQUAL(shell("minisign -S -l -W -s stock.key -m file"), 0);
    CU_ASSERT_EQUAL(minisign_file_verify(&public, in("file"), in("file.minisig"), NULL),
                    ERR_UNSUPPORTED);
}

static int run(void);

int main(void)
{
    char line[128];
    strcpy(folder, "/tmp/tare-minisign-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    has_stock = system("command -v minisign >/dev/null 2>&1") == 0;
    if (!has_stock)
        printf("minisign_test: minisign is absent, its two tests do nothing\n");
    int bad = run();
    snprintf(line, sizeof line, "rm -rf '%s'", folder);
    return system(line) != 0 || bad;
}

#define main run
static RUN_SUITE("minisign", {"own_files", own_files}, {"refuses_altered", refuses_altered},
                 {"key_text_is_strict", key_text_is_strict},
                 {"stock_accepts_ours", stock_accepts_ours}, {"we_accept_stock", we_accept_stock})
