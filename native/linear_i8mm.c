/* ARM64's matrix products of bytes (i8mm): an instruction multiplies eight inputs of two rows with eight of two outputs, so it
   makes twice the products of asimddp's. */
#include "kernels.h"

/* Older compilers do not know it; the library goes without these kernels then. */
#if defined(__AARCH64EL__) && (defined(__clang__) || __GNUC__ >= 10)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#ifndef HWCAP2_I8MM /* glibc 2.32 */
#define HWCAP2_I8MM (1 << 13)
#endif

#define TARGET __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#define HEIGHTS(EACH) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6)
/* 24 accumulators of two rows and two outputs each, three registers of inputs and four of weights, of 32. */
enum { WIDTH = 4, ROWS = 6, COLUMNS = 4, TOGETHER = 1, BLOCK_BYTES = 128 * 1024, MOVED = 0, EXCESS = 0 };
#define OWN_TILE
#include "neon.h"

/* sum = {row 0 . output 0, row 0 . output 1, row 1 . output 0, row 1 . output 1}. Volatile as in linear_asimddp.c. */
TARGET INLINED void add_square(int32x4_t *sum, uint8x16_t rows, int32x4_t outputs) {
    __asm__ volatile("usmmla %0.4s, %1.16b, %2.16b" : "+w"(*sum) : "w"(rows), "w"(outputs));
}

TARGET INLINED void add_two_groups(const size_t pairs, const size_t columns, const uint8_t *const *first, const uint8_t *const *second,
                                   size_t at, const int8_t *weights, int only_one, int32x4_t (*sum)[COLUMNS][2]) {
    uint8x16_t rows[ROWS / 2];
    UNROLLED for (size_t p = 0; p < pairs; p++) rows[p] = vcombine_u8(vld1_u8(first[p] + at), vld1_u8(second[p] + at));
    UNROLLED for (size_t c = 0; c < columns; c++) {
        const int32x4_t one = (int32x4_t)load(weights + c * WIDTH * GROUP, WIDTH);
        const int32x4_t next = only_one ? vdupq_n_s32(0) : (int32x4_t)load(weights + (PANEL + c * WIDTH) * GROUP, WIDTH);
        /* Two outputs, eight weights of each side by side; and the next two. */
        const int32x4_t left = vzip1q_s32(one, next), right = vzip2q_s32(one, next);
        UNROLLED for (size_t p = 0; p < pairs; p++) add_square(&sum[p][c][0], rows[p], left);
        UNROLLED for (size_t p = 0; p < pairs; p++) add_square(&sum[p][c][1], rows[p], right);
    }
}

TARGET INLINED void multiply_tile(const size_t rows, const size_t columns, const uint8_t *x, size_t stride, const int8_t *weights,
                                  size_t panel_bytes, size_t groups, const int8_t *ahead, size_t step, Integers *sums) {
    const size_t pairs = (rows + 1) / 2;
    const uint8_t *first[ROWS / 2], *second[ROWS / 2]; /* a row alone is its own second */
    int32x4_t sum[ROWS / 2][COLUMNS][2];
    (void)panel_bytes; /* a tile is a panel wide */
    UNROLLED for (size_t p = 0; p < pairs; p++) {
        first[p] = x + 2 * p * stride;
        second[p] = 2 * p + 1 < rows ? first[p] + stride : first[p];
        UNROLLED for (size_t c = 0; c < columns; c++) sum[p][c][0] = sum[p][c][1] = vdupq_n_s32(0);
    }
    size_t g = 0;
    for (; g + 2 <= groups; g += 2, weights += 2 * PANEL * GROUP, ahead += 2 * step) {
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(ahead + step, 0, 2);
        add_two_groups(pairs, columns, first, second, g * GROUP, weights, 0, sum);
    }
    if (g < groups) add_two_groups(pairs, columns, first, second, g * GROUP, weights, 1, sum);
    UNROLLED for (size_t p = 0; p < pairs; p++)
        UNROLLED for (size_t c = 0; c < columns; c++) {
            const int64x2_t left = vreinterpretq_s64_s32(sum[p][c][0]), right = vreinterpretq_s64_s32(sum[p][c][1]);
            sums[2 * p * columns + c] = (Integers)vzip1q_s64(left, right);
            if (2 * p + 1 < rows) sums[(2 * p + 1) * columns + c] = (Integers)vzip2q_s64(left, right);
        }
}

static int fits(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#else
    return 0; /* not all of Apple's have it, and none was at hand to ask */
#endif
}

const Kernels i8mm_kernels = {.name = "i8mm", OF_BYTES, .attention = &neon_attention};
#else
const Kernels i8mm_kernels = {.name = "i8mm"};
#endif
