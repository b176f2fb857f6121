/* AVX-VNNI: as AVX-512 VNNI, with eight outputs a register. For CPUs that have no AVX-512. */
#include "kernels.h"

/* Older compilers' assemblers do not know it; the library goes without these kernels then. */
#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 11)
#include "x86.h"

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define HEIGHTS(EACH) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6)
/* Twelve accumulators, two registers of weights and one of inputs, of 16. */
enum { WIDTH = 8, ROWS = 6, COLUMNS = 2, TOGETHER = 1, BLOCK_BYTES = 128 * 1024, AT_ONCE = 1, MOVED = 0, EXCESS = 128 };
#include "lanes_x86.h"
#include "linear_tiles.h"

TARGET INLINED void add_products(Integers *sum, Integers weights, Integers inputs, size_t group) {
    (void)group;
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*sum) : "x"(inputs), "x"(weights));
}

TARGET INLINED void add_digits(Integers *sum, Integers weights, Integers digits) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*sum) : "x"(weights ^ (int32_t)0x80808080), "x"(digits));
}

TARGET INLINED Integers larger_of(Integers a, Integers b) { return (Integers)_mm256_max_epi32((__m256i)a, (__m256i)b); }
TARGET INLINED int32_t largest_lane(Integers values) { return largest_integer_of_8((__m256i)values); }
TARGET INLINED uint64_t reaching(Integers values, Integers limit) { return (unsigned)_mm256_movemask_ps((__m256)(values >= limit)); }

static int fits(void) { return has_avx2() && (features(7, 1).a & bit_AVXVNNI); }

const Kernels avx_vnni_kernels = {.name = "avx_vnni", OF_BYTES, .attention = &avx2_attention};
#else
const Kernels avx_vnni_kernels = {.name = "avx_vnni"};
#endif
