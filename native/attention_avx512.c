/* Attention with AVX-512: sixteen floats a register. */
#include "kernels.h"

#if defined(__x86_64__)
#include "x86.h"

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512dq" WIDEST)))
#define WIDE(EACH, rows) EACH(rows, 1) EACH(rows, 2) EACH(rows, 3) EACH(rows, 4)
/* 24 accumulators, four registers of values and one of factors, of 32. */
enum { WIDTH = 16, COLUMNS = 4 };
#include "attention_fp32.h"

TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(_mm512_set1_ps(factor)), "v"(value));
}

TARGET INLINED Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

TARGET INLINED Floats larger(Floats a, Floats b) { return _mm512_max_ps(b, a); }

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
