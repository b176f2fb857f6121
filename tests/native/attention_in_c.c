/* Attention by native/FORM, attention_int16.h or attention_fp32.h, with registers of REGISTER lanes, in C alone: for any width,
   on any CPU. */
#include "kernels.h"

#define TARGET
#define WIDE(EACH, rows) EACH(rows, 1) EACH(rows, 2)
enum { WIDTH = REGISTER, COLUMNS = 2 };
#include FORM

#if OF_PAIRS
TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    for (size_t i = 0; i < WIDTH; i++)
        (*sum)[i] += (int16_t)value[i] * (int16_t)factor + (value[i] >> 16) * (factor >> 16);
}

TARGET INLINED Integers larger_bits(Integers a, Integers b) {
    for (size_t i = 0; i < WIDTH; i++) a[i] = b[i] > a[i] ? b[i] : a[i];
    return a;
}

TARGET INLINED float sum_of(Floats values) {
    float lanes[LANES] = {0};
    for (size_t i = 0; i < WIDTH; i++) lanes[i] = values[i];
    return sum_of_lanes(lanes);
}

TARGET INLINED float largest_of(Floats values) {
    float largest = values[0];
    for (size_t i = 1; i < WIDTH; i++) largest = values[i] > largest ? values[i] : largest;
    return largest;
}

TARGET INLINED int32_t largest_bits_of(Integers values) {
    int32_t largest = values[0];
    for (size_t i = 1; i < WIDTH; i++) largest = values[i] > largest ? values[i] : largest;
    return largest;
}
#else
TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    for (size_t i = 0; i < WIDTH; i++) (*sum)[i] = fmaf(value[i], factor, (*sum)[i]);
}
#endif

TARGET INLINED Floats fused(Floats a, Floats b, Floats c) {
    for (size_t i = 0; i < WIDTH; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}

TARGET INLINED Floats larger(Floats a, Floats b) {
    for (size_t i = 0; i < WIDTH; i++) a[i] = b[i] > a[i] ? b[i] : a[i];
    return a;
}

TARGET INLINED Floats load_first(const float *from, size_t count) {
    Floats loaded = {0};
    for (size_t i = 0; i < count; i++) loaded[i] = from[i];
    return loaded;
}

TARGET INLINED void interleave(Floats a, Floats b, Floats *first, Floats *second) {
    Floats both[2];
    for (size_t i = 0; i < WIDTH; i++) both[2 * i / WIDTH][2 * i % WIDTH] = a[i], both[2 * i / WIDTH][2 * i % WIDTH + 1] = b[i];
    *first = both[0];
    *second = both[1];
}

const AttentionKernels attention_in_c = {attention_bytes, attend};
