/* Attention by native/attention_fp32.h with registers of REGISTER floats, in C alone: for any width, on any CPU. */
#include "kernels.h"

#define TARGET
#define WIDE(EACH, rows) EACH(rows, 1) EACH(rows, 2)
enum { WIDTH = REGISTER, COLUMNS = 2 };
#include "attention_fp32.h"

TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    for (size_t i = 0; i < WIDTH; i++) (*sum)[i] = fmaf(value[i], factor, (*sum)[i]);
}

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
