/* wide.h: one source, compiled for each width of vector; lanes are independent sums, so results are equal. Not for
 * sanitizers, which know no clones. */
#ifndef WIDE_H
#define WIDE_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&  \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define WIDE
#endif

#endif
