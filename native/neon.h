/* What kernels over bytes have in common on ARM64. */
#ifndef PARITAS_NEON_H
#define PARITAS_NEON_H

#include "linear_tiles.h"

#include <arm_neon.h>

TARGET INLINED void add_digits(Integers *sum, Integers weights, Integers digits) {
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(*sum) : "w"(weights), "w"(digits));
}

TARGET INLINED Integers larger_of(Integers a, Integers b) { return vmaxq_s32(a, b); }

TARGET INLINED int32_t largest_lane(Integers values) { return vmaxvq_s32(values); }

TARGET INLINED uint64_t reaching(Integers values, Integers limit) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgeq_s32(values, limit), bits));
}

#endif
