/* ARM64's dot products of bytes (asimddp): four outputs a register. Bytes are signed on both sides, so inputs are stored 128
   lower. */
#include "kernels.h"

#if defined(__AARCH64EL__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define HEIGHTS(EACH) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5)
/* 20 accumulators, four registers of weights and five of inputs, of 32. */
enum { WIDTH = 4, ROWS = 5, COLUMNS = 4, TOGETHER = 1, BLOCK_BYTES = 128 * 1024, AT_ONCE = 4, MOVED = 128, EXCESS = 0 };
#include "neon.h"

/* Volatile keeps them in order: compilers that mix the groups hold the weights of all, in memory. */
TARGET INLINED void add_products(Integers *sum, Integers weights, Integers inputs, size_t group) {
#define ADD(place) __asm__ volatile("sdot %0.4s, %1.16b, %2.4b[" #place "]" : "+w"(*sum) : "w"(weights), "w"(inputs))
    if (group == 0) ADD(0);
    else if (group == 1) ADD(1);
    else if (group == 2) ADD(2);
    else ADD(3);
}

static int fits(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return 1; /* as all of Apple's */
#endif
}

const Kernels asimddp_kernels = {.name = "asimddp", OF_BYTES, .attention = &neon_attention};
#else
const Kernels asimddp_kernels = {.name = "asimddp"};
#endif
