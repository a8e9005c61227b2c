/* device_text.c: see device_text.h. */
#include "hal/device_text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t device_text_read(const struct device_source *source, const char *path, char *text, size_t bytes)
{
    char full[DEVICE_PATH_BYTES];
    text[0] = '\0';
    const int length = snprintf(full, sizeof full, "%s%s", source->root, path);
    if (length < 0 || (size_t)length >= sizeof full)
        return 0;
    FILE *file = fopen(full, "re");
    if (file == NULL)
        return 0;
    const size_t n = fread(text, 1, bytes - 1, file);
    fclose(file);
    text[n] = '\0';
    return n;
}

int device_text_number(const struct device_source *source, const char *path, double *out)
{
    char text[64], *end;
    if (device_text_read(source, path, text, sizeof text) == 0)
        return 0;
    *out = strtod(text, &end);
    return end != text;
}

int device_text_field(const char *text, const char *key, char *out, size_t bytes)
{
    const size_t length = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n');
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, length) == 0 && colon != NULL && (end == NULL || colon < end) &&
            (isspace((unsigned char)line[length]) || line[length] == ':')) {
            const char *value = colon + 1;
            while (*value == ' ' || *value == '\t')
                value++;
            const size_t n = end != NULL ? (size_t)(end - value) : strlen(value);
            snprintf(out, bytes, "%.*s", (int)n, value);
            return 1;
        }
        line = end != NULL ? end + 1 : NULL;
    }
    return 0;
}

uint32_t device_text_count(const char *list)
{
    uint32_t count = 0;
    while (isdigit((unsigned char)*list)) {
        char *end;
        const unsigned long first = strtoul(list, &end, 10);
        unsigned long last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        count += last >= first && last - first < 65536 ? (uint32_t)(last - first + 1) : 0;
        list = *end == ',' ? end + 1 : end;
    }
    return count;
}
