/* Attention with AVX2 and FMA: eight floats a register. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define WIDE(EACH, rows) EACH(rows, 1) EACH(rows, 2)
/* Twelve accumulators, two registers of values and one of factors, of 16. */
enum { WIDTH = 8, COLUMNS = 2 };
#include "attention_fp32.h"

TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(*sum) : "x"(_mm256_set1_ps(factor)), "x"(value));
}

TARGET INLINED Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

TARGET INLINED Floats larger(Floats a, Floats b) { return _mm256_max_ps(b, a); }

TARGET INLINED Floats load_first(const float *from, size_t count) {
    static const int32_t edge[2 * WIDTH] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_maskload_ps(from, _mm256_loadu_si256((const __m256i *)(edge + WIDTH - count)));
}

TARGET INLINED void interleave(Floats a, Floats b, Floats *first, Floats *second) {
    const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    *first = _mm256_permute2f128_ps(low, high, 0x20);
    *second = _mm256_permute2f128_ps(low, high, 0x31);
}

const AttentionKernels avx2_attention = {attention_bytes, attend};
#endif
