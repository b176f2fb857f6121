/* The eight lanes of a register as one, halves of it with each other again and again. TARGET is the includer's, with AVX2. */
#ifndef PARITAS_LANES_X86_H
#define PARITAS_LANES_X86_H

#include "rows.h"

#include <immintrin.h>

TARGET INLINED float sum_of_8(__m256 values) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

TARGET INLINED float largest_of_8(__m256 values) {
    __m128 largest = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    largest = _mm_max_ps(largest, _mm_movehl_ps(largest, largest));
    return _mm_cvtss_f32(_mm_max_ss(largest, _mm_movehdup_ps(largest)));
}

TARGET INLINED int32_t largest_integer_of_8(__m256i values) {
    __m128i largest = _mm_max_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0xb1)));
}

#endif
