/* neon_dot_dotprod.c: dot products by sdot. Built with +dotprod; called only where probe found it. */
#include <arm_neon.h>

#define NEON_DOT16 vdotq_s32
#define NEON_DOT neon_dot_dotprod
#include "plugins/neon/neon_dot.h"
