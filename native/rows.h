/* What is done to rows of FP32 behind a product, for any instruction set: plain loops over LANES values, which compilers
   turn into vectors where they are inlined.

   Sums have LANES partial sums everywhere, in one order. So all instruction sets give the same bits. */
#ifndef PARITAS_ROWS_H
#define PARITAS_ROWS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { LANES = 16 };
#define INLINED static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

INLINED uint32_t bits_of(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINED float value_of(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

/* x, but not beyond `most` on either side. By its bits: of floats gcc makes branches, and no vectors. */
INLINED float within(float x, float most) {
    const uint32_t sign = bits_of(x) & 0x80000000, magnitude = bits_of(x) & 0x7fffffff, edge = bits_of(most);
    return value_of(sign | (magnitude < edge ? magnitude : edge));
}

/* x * P(X <= x) for a normal X. P - 1/2 is odd: x times a polynomial of x squared within 5, one beyond. Of degree 11 by
   least squares with weights that even out the errors: within 4e-6 of the exact value, times |x| where that is above 1. */
INLINED float gelu_of(float x) {
    static const float most = 5;
    const float t = within(x, most), s = fmaf(t * t, 2 / (most * most), -1);
    float p = -0.00114492327f;
    p = fmaf(p, s, 0.00325718958f);
    p = fmaf(p, s, -0.0038090389f);
    p = fmaf(p, s, 0.00499810161f);
    p = fmaf(p, s, -0.0102017154f);
    p = fmaf(p, s, 0.0169816783f);
    p = fmaf(p, s, -0.0236219186f);
    p = fmaf(p, s, 0.0313393356f);
    p = fmaf(p, s, -0.0403910461f);
    p = fmaf(p, s, 0.0515267978f);
    p = fmaf(p, s, -0.0702983202f);
    p = fmaf(p, s, 0.141363731f);
    return x * fmaf(t, p, 0.5f);
}

INLINED void gelu_each(float *x, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] = gelu_of(x[i]);
}

INLINED float sum_of_lanes(float *lanes) {
    UNROLLED for (size_t half = LANES / 2; half; half /= 2)
        UNROLLED for (size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

/* y = LayerNorm(y + residual): over a row, with its mean and its variance. Two sums take turns, so that none waits for its
   last addition. */
INLINED void add_and_normalize(float *y, const float *residual, const float *scale, const float *shift, float epsilon,
                                    size_t count) {
    const size_t whole = count - count % (2 * LANES);
    float even[LANES] = {0}, odd[LANES] = {0}, rest = 0;
    for (size_t i = 0; i < count; i++) y[i] += residual[i];
    for (size_t i = 0; i < whole; i += 2 * LANES) {
        for (size_t l = 0; l < LANES; l++) even[l] += y[i + l];
        for (size_t l = 0; l < LANES; l++) odd[l] += y[i + LANES + l];
    }
    for (size_t i = whole; i < count; i++) rest += y[i];
    for (size_t l = 0; l < LANES; l++) even[l] += odd[l];
    const float mean = (sum_of_lanes(even) + rest) / (float)count;
    for (size_t l = 0; l < LANES; l++) even[l] = odd[l] = rest = 0;
    for (size_t i = 0; i < whole; i += 2 * LANES) {
        for (size_t l = 0; l < LANES; l++) even[l] = fmaf(y[i + l] - mean, y[i + l] - mean, even[l]);
        for (size_t l = 0; l < LANES; l++) odd[l] = fmaf(y[i + LANES + l] - mean, y[i + LANES + l] - mean, odd[l]);
    }
    for (size_t i = whole; i < count; i++) rest = fmaf(y[i] - mean, y[i] - mean, rest);
    for (size_t l = 0; l < LANES; l++) even[l] += odd[l];
    const float factor = 1 / sqrtf((sum_of_lanes(even) + rest) / (float)count + epsilon);
    for (size_t i = 0; i < count; i++) y[i] = fmaf((y[i] - mean) * factor, scale[i], shift[i]);
}

#endif
