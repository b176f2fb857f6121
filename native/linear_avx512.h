/* What kernels over bytes have in common with AVX-512. */
#ifndef PARITAS_LINEAR_AVX512_H
#define PARITAS_LINEAR_AVX512_H

#include "linear_bytes.h"

#include <immintrin.h>

TARGET INLINED void add_digits(Integers *sum, Integers weights, Integers digits) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights ^ (int32_t)0x80808080), "v"(digits));
}

TARGET INLINED Integers larger_of(Integers a, Integers b) { return (Integers)_mm512_max_epi32((__m512i)a, (__m512i)b); }
TARGET INLINED int32_t largest_lane(Integers values) { return _mm512_reduce_max_epi32((__m512i)values); }
/* In assembly the upper bits are zeros. gcc 12 forgets them where it keeps such a mask in memory: it stores 16 bits and loads 64. */
TARGET INLINED uint64_t reaching(Integers values, Integers limit) {
    uint32_t bits;
    __asm__("kmovw %1, %0" : "=r"(bits) : "k"(_mm512_cmpge_epi32_mask((__m512i)values, (__m512i)limit)));
    return bits;
}

#endif
