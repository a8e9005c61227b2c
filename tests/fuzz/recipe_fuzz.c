/* recipe_fuzz.c: an accepted recipe prints as text that parses to an equal recipe; a refused one
 * leaves the caller's struct alone and says why. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "compress/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct recipe r, again, before;
    static char printed[1 << 17];
    struct fault f = {""};
    if (size > 1 << 14)
        return 0;
    recipe_default(&before);
    r = before;
    if (recipe_parse("fuzz", (const char *)bytes, size, &r, &f)) {
        HOLDS(memcmp(&r, &before, sizeof r) == 0);
        HOLDS(strncmp(f.text, "fuzz:", 5) == 0);
        return 0;
    }
    HOLDS(recipe_print(&r, printed, sizeof printed) == ERR_NONE);
    HOLDS(recipe_parse("again", printed, strlen(printed), &again, &f) == ERR_NONE);
    HOLDS(memcmp(&r, &again, sizeof r) == 0);
    for (uint32_t i = 0; i < r.rules; i++)
        (void)recipe_rule_matches(&r.rule[i], "blk.0.attn_v.weight");
    return 0;
}
