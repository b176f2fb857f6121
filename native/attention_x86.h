/* What attention has in common on x86. */
#ifndef PARITAS_ATTENTION_X86_H
#define PARITAS_ATTENTION_X86_H

#include "attention_int16.h"
#include "lanes_x86.h"

TARGET INLINED int32_t largest_bits_of_8(__m256i values) {
    __m128i largest = _mm_max_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0xb1)));
}

#endif
