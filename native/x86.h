/* What an x86 CPU has. __builtin_cpu_supports compiles with zig, and always says no there. */
#ifndef PARITAS_X86_H
#define PARITAS_X86_H

#include <cpuid.h>

/* Of a target with AVX-512: clang takes the widest vectors without being told, and does not know the word. */
#if defined(__clang__)
#define WIDEST ""
#else
#define WIDEST ",prefer-vector-width=512"
#endif

/* Parts of registers that the system keeps when threads take turns. */
enum { KEEPS_256_BITS = 0x06, KEEPS_512_BITS = 0xe6 };

/* Of a leaf of cpuid: the bits of each register. */
typedef struct {
    unsigned a, b, c, d;
} Features;

static inline Features features(unsigned leaf, unsigned part) {
    Features found = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, part, &found.a, &found.b, &found.c, &found.d)) return (Features){0, 0, 0, 0};
    return found;
}

static inline int system_keeps(unsigned parts) {
    unsigned kept, high;
    if (!(features(1, 0).c & bit_OSXSAVE)) return 0;
    __asm__("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
    return (kept & parts) == parts;
}

static inline int has_avx2(void) {
    return system_keeps(KEEPS_256_BITS) && (features(1, 0).c & bit_FMA) && (features(7, 0).b & bit_AVX2);
}

#endif
