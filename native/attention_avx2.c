/* Attention with AVX2 and FMA: eight lanes a register. */
#include "kernels.h"

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,fma")))
#define WIDE(EACH, rows) EACH(rows, 1) EACH(rows, 2)
/* Twelve accumulators, two registers of values, one of factors and one of products, of 16. */
enum { WIDTH = 8, COLUMNS = 2 };
#include "attention_x86.h"

TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    Terms products;
    __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(*sum), "=&x"(products) : "x"(_mm256_set1_epi32(factor)), "x"(value));
}

TARGET INLINED Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

TARGET INLINED Floats larger(Floats a, Floats b) { return _mm256_max_ps(b, a); }

TARGET INLINED Integers larger_bits(Integers a, Integers b) { return (Integers)_mm256_max_epi32((__m256i)a, (__m256i)b); }

TARGET INLINED float sum_of(Floats values) { return sum_of_8(values); }
TARGET INLINED float largest_of(Floats values) { return largest_of_8(values); }
TARGET INLINED int32_t largest_bits_of(Integers values) { return largest_integer_of_8((__m256i)values); }

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
