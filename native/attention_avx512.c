/* Attention with AVX-512 VNNI: sixteen lanes a register. */
#include "kernels.h"

#if defined(__x86_64__)
#include "x86.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni" WIDEST)))
#define WIDE(EACH, rows) EACH(rows, 1) EACH(rows, 2) EACH(rows, 3) EACH(rows, 4)
/* 24 accumulators, four registers of values and one of factors, of 32. */
enum { WIDTH = 16, COLUMNS = 4 };
#include "attention_x86.h"

TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(*sum) : "v"(_mm512_set1_epi32(factor)), "v"(value));
}

TARGET INLINED Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

TARGET INLINED Floats larger(Floats a, Floats b) { return _mm512_max_ps(b, a); }

TARGET INLINED Integers larger_bits(Integers a, Integers b) { return (Integers)_mm512_max_epi32((__m512i)a, (__m512i)b); }

TARGET INLINED float sum_of(Floats values) {
    return sum_of_8(_mm256_add_ps(_mm512_castps512_ps256(values), _mm512_extractf32x8_ps(values, 1)));
}

TARGET INLINED float largest_of(Floats values) {
    return largest_of_8(_mm256_max_ps(_mm512_castps512_ps256(values), _mm512_extractf32x8_ps(values, 1)));
}

TARGET INLINED int32_t largest_bits_of(Integers values) {
    const __m512i bits = (__m512i)values;
    return largest_integer_of_8(_mm256_max_epi32(_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64(bits, 1)));
}

TARGET INLINED Floats load_first(const float *from, size_t count) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
}

TARGET INLINED void interleave(Floats a, Floats b, Floats *first, Floats *second) {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    *first = _mm512_permutex2var_ps(a, low, b);
    *second = _mm512_permutex2var_ps(a, high, b);
}

const AttentionKernels avx512_attention = {attention_bytes, attend};
#endif
