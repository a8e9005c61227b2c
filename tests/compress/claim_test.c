/* claim_test.c: one at a time has a name, however the last one ended. */
#include "compress/claim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/harness.h"

static char out_path[] = "/tmp/tare-claim-XXXXXX", lock_path[sizeof out_path + 5];

static void one_has_it(void)
{
    struct fault f = {""};
    struct claim *first = NULL, *second = NULL;
    CU_ASSERT_EQUAL_FATAL(claim_take(out_path, 0, &first, &f), ERR_NONE);
    CU_ASSERT_EQUAL(claim_take(out_path, 0, &second, &f), ERR_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "another run writes it"));
    CU_ASSERT_EQUAL(strncmp(f.text, out_path, strlen(out_path)), 0);
    CU_ASSERT_STRING_EQUAL(claim_path(first), lock_path);
    claim_drop(first);
    CU_ASSERT_NOT_EQUAL(access(lock_path, F_OK), 0);
    CU_ASSERT_EQUAL_FATAL(claim_take(out_path, 0, &second, &f), ERR_NONE);
    claim_drop(second);
    claim_drop(NULL);
}

/* A child takes it, says so, and waits to be killed. */
static pid_t child_with_claim(void)
{
    int said[2];
    char byte = 0;
    CU_ASSERT_EQUAL_FATAL(pipe(said), 0);
    const pid_t pid = fork();
    CU_ASSERT_FATAL(pid >= 0);
    if (pid == 0) {
        struct claim *c = NULL;
        byte = claim_take(out_path, 0, &c, NULL) == ERR_NONE;
        if (write(said[1], &byte, 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    CU_ASSERT_EQUAL_FATAL(read(said[0], &byte, 1), 1);
    CU_ASSERT_EQUAL(byte, 1);
    close(said[0]);
    close(said[1]);
    return pid;
}

static void ends_with_the_process(void)
{
    struct claim *c = NULL;
    const pid_t pid = child_with_claim();
    CU_ASSERT_EQUAL(claim_take(out_path, 0, &c, NULL), ERR_IO);
    CU_ASSERT_EQUAL(kill(pid, SIGKILL), 0);
    CU_ASSERT_EQUAL(claim_take(out_path, 5000, &c, NULL), ERR_NONE); /* before or after it is gone */
    CU_ASSERT_EQUAL(waitpid(pid, NULL, 0), pid);
    claim_drop(c);
    CU_ASSERT_NOT_EQUAL(access(lock_path, F_OK), 0);
}

static void bad_names(void)
{
    char longest[5000];
    struct fault f = {""};
    struct claim *c = NULL;
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = 0;
    CU_ASSERT_EQUAL(claim_take(longest, 0, &c, &f), ERR_ARGUMENT);
    CU_ASSERT_EQUAL(claim_take("/nonexistent/x", 0, &c, &f), ERR_IO);
    CU_ASSERT_STRING_EQUAL(f.text, "/nonexistent/x.lock: No such file or directory");
    CU_ASSERT_EQUAL_FATAL(symlink("elsewhere", lock_path), 0);
    CU_ASSERT_EQUAL(claim_take(out_path, 0, &c, &f), ERR_IO);
    CU_ASSERT_EQUAL(unlink(lock_path), 0);
}

static int make_names(void)
{
    const int fd = mkstemp(out_path);
    snprintf(lock_path, sizeof lock_path, "%s.lock", out_path);
    return fd < 0 || close(fd) || unlink(out_path);
}

static void names(void)
{
    CU_ASSERT_EQUAL_FATAL(make_names(), 0);
}

RUN_SUITE("claim", {"names", names}, {"one_has_it", one_has_it}, {"ends_with_the_process", ends_with_the_process},
          {"bad_names", bad_names})
