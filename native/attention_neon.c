/* Attention on ARM64: four floats a register. */
#include "kernels.h"

#if defined(__AARCH64EL__)
#include <arm_neon.h>

#define TARGET
#define WIDE(EACH, rows) EACH(rows, 1) EACH(rows, 2) EACH(rows, 3) EACH(rows, 4)
/* 24 accumulators, four registers of values and one of factors, of 32. */
enum { WIDTH = 4, COLUMNS = 4 };
#include "attention_fp32.h"

TARGET INLINED void add_product(Terms *sum, Terms value, Term factor) {
    __asm__("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(*sum) : "w"(value), "w"(factor));
}

TARGET INLINED Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }

TARGET INLINED Floats larger(Floats a, Floats b) { return vbslq_f32(vcgtq_f32(b, a), b, a); }

TARGET INLINED Floats load_first(const float *from, size_t count) {
    Floats loaded = {0};
    for (size_t i = 0; i < count; i++) loaded[i] = from[i];
    return loaded;
}

TARGET INLINED void interleave(Floats a, Floats b, Floats *first, Floats *second) {
    *first = vzip1q_f32(a, b);
    *second = vzip2q_f32(a, b);
}

const AttentionKernels neon_attention = {attention_bytes, attend};
#endif
