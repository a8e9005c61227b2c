/* replay.c: runs a fuzz target over its corpus, where there is no libFuzzer. Arguments are files or
 * folders; one that cannot be read, or a run without a single input, fails. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static unsigned inputs;

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    if (!file || fstat(fileno(file), &st) != 0) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        if (file)
            fclose(file);
        return 1;
    }
    /* exactly as large as the input, so that the sanitizers see a read past its end */
    size_t size = (size_t)st.st_size;
    uint8_t *bytes = malloc(size ? size : 1);
    int bad = !bytes || fread(bytes, 1, size, file) != size;
    fclose(file);
    if (bad) {
        fprintf(stderr, "replay: %s: cannot be read whole\n", path);
    } else {
        (void)LLVMFuzzerTestOneInput(bytes, size);
        inputs++;
    }
    free(bytes);
    return bad;
}

static int replay(const char *path)
{
    struct dirent **entry;
    struct stat st;
    if (stat(path, &st) != 0) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        return 1;
    }
    if (!S_ISDIR(st.st_mode))
        return replay_file(path);
    int n = scandir(path, &entry, NULL, alphasort);
    if (n < 0) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        return 1;
    }
    int bad = 0;
    for (int i = 0; i < n; i++) {
        char file[4096];
        if (entry[i]->d_name[0] != '.') {
            if (snprintf(file, sizeof file, "%s/%s", path, entry[i]->d_name) >= (int)sizeof file)
                bad = 1;
            else
                bad |= replay_file(file);
        }
        free(entry[i]);
    }
    free(entry);
    return bad;
}

int main(int argc, char **argv)
{
    int bad = 0;
    for (int i = 1; i < argc; i++)
        bad |= replay(argv[i]);
    if (inputs == 0) {
        fprintf(stderr, "replay: no input was found\n");
        return 1;
    }
    printf("replay: %u inputs\n", inputs);
    return bad;
}
