/* harness.h: a CUnit suite as a table. RUN_SUITE is the whole main().
 *
 * CU_basic_run_tests() is 0 even when an assertion failed, so the failures are counted here; a
 * suite without one assertion proves nothing and fails too. A test whose data or machine is absent
 * has a main of its own that prints one line and returns HARNESS_SKIPPED, which CTest reads as skipped,
 * or else harness_run().
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <CUnit/Basic.h>
#include <stdio.h>

enum { HARNESS_SKIPPED = 77 };

/* Runs the tests, ended by CU_TEST_INFO_NULL; returns the exit status. */
static inline int harness_run(const char *name, CU_TestInfo *tests)
{
    CU_SuiteInfo suites[] = {{name, NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int bad = 1;
    if (CU_initialize_registry() == CUE_SUCCESS && CU_register_suites(suites) == CUE_SUCCESS) {
        CU_basic_set_mode(CU_BRM_VERBOSE);
        bad = CU_basic_run_tests() != CUE_SUCCESS || CU_get_number_of_failures() != 0 ||
              CU_get_number_of_asserts() == 0;
    }
    CU_cleanup_registry();
    return bad;
}

#define RUN_SUITE(name, ...)                                                                       \
    int main(void)                                                                                 \
    {                                                                                              \
        CU_TestInfo tests[] = {__VA_ARGS__, CU_TEST_INFO_NULL};                                    \
        return harness_run(name, tests);                                                           \
    }

#endif
