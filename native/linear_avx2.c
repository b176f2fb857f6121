/* AVX2: products of 16-bit integers.

   vpmaddubsw, which multiplies bytes, adds pairs of products in 16 bits, where they saturate. So the weights are
   widened as they are loaded, and vpmaddwd adds pairs in 32 bits, exact. Inputs of 16 bits then cost no more
   than bytes would: as many of those bits are used as sums of 32 bits have room for. */
#include "kernels.h"
#include "rows.h"

#if defined(__x86_64__)
#include "x86.h"

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma")))
#include "lanes_x86.h"

/* Twelve accumulators, two registers of weights, one of inputs and one of products: all sixteen. */
enum { ROWS = 6 };

/* Eight values, zeros beyond the last. */
TARGET static inline __m256 load(const float *x, size_t left) {
    static const int32_t edge[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    if (left >= 8) return _mm256_loadu_ps(x);
    return _mm256_maskload_ps(x, _mm256_loadu_si256((const __m256i *)(edge + 8 - left)));
}

/* vmaskmovps, to memory, takes some 40 times as long on AMD's. */
TARGET static inline void store(float *y, __m256 value, size_t left) {
    float whole[8];
    if (left >= 8) {
        _mm256_storeu_ps(y, value);
        return;
    }
    _mm256_storeu_ps(whole, value);
    memcpy(y, whole, left * sizeof *y);
}

/* A row's integers, zeros up to a whole GROUP. Its step follows. */
static size_t padded_to_groups(size_t inputs) { return groups_of(inputs) * GROUP; }
static size_t row_bytes(size_t inputs) { return padded_to_groups(inputs) * sizeof(int16_t) + 8; }

TARGET static void round_rows(const float *x, size_t rows, size_t inputs, void *rounded) {
    const float largest = (float)largest_16_bit(inputs);
    const size_t padded = padded_to_groups(inputs);
    const __m256 sign = _mm256_set1_ps(-0.0f), none = _mm256_setzero_ps();
    for (size_t row = 0; row < rows; row++, x += inputs) {
        int16_t *out = (int16_t *)((char *)rounded + row * row_bytes(inputs));
        __m256 reach = none, wrong = none;
        for (size_t i = 0; i < inputs; i += 8) {
            const __m256 value = load(x + i, inputs - i);
            reach = _mm256_max_ps(reach, _mm256_andnot_ps(sign, value));
            wrong = _mm256_add_ps(wrong, _mm256_mul_ps(value, none)); /* NaN where it is not finite */
        }
        const float furthest = largest_of_8(reach);
        const __m256 factor = _mm256_set1_ps(furthest > SMALLEST ? largest / furthest : 0);
        const float step = (furthest > SMALLEST ? furthest / largest : 0) + sum_of_8(wrong);
        memcpy(out + padded, &step, sizeof step);
        for (size_t i = 0; i < padded; i += 8) {
            const __m256i wide = _mm256_cvtps_epi32(_mm256_mul_ps(load(x + i, inputs - i), factor));
            const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
            if (padded - i >= 8) _mm_storeu_si128((__m128i *)(out + i), narrow);
            else _mm_storel_epi64((__m128i *)(out + i), narrow);
        }
    }
}

/* In assembly, so that the sum stays in its register. Compilers that choose registers themselves keep some sums
   in memory, at two thirds of the speed and with the same results. Volatile as in linear_asimddp.c. */
TARGET static inline __attribute__((always_inline)) void add_products(__m256i *sum, __m256i weights, __m256i input) {
    __m256i products;
    __asm__ volatile("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(*sum), "=&x"(products) : "x"(weights), "x"(input));
}

/* An accumulator holds four outputs, each as the sums of two inputs out of a GROUP. */
TARGET static inline __attribute__((always_inline)) void add_group(const size_t rows, const int16_t *x, size_t stride,
                                                                 const int8_t *weights, __m256i *left, __m256i *right) {
    const __m256i first = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights));
    const __m256i second = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weights + 4 * GROUP)));
    UNROLLED for (size_t r = 0; r < rows; r++) {
        int64_t group;
        memcpy(&group, x + r * stride, sizeof group);
        const __m256i input = _mm256_set1_epi64x(group);
        add_products(&left[r], first, input);
        add_products(&right[r], second, input);
    }
}

/* Products of `rows` rows with eight outputs, to `sums`, a register a row. Meanwhile `ahead` is fetched, `step` a group:
   one instruction for two groups. With one for each, weights that are in the cache already take 4 % longer. */
TARGET static inline __attribute__((always_inline)) void multiply_tile(const size_t rows, const int16_t *x, size_t stride,
                                                                     const int8_t *weights, size_t groups,
                                                                     const int8_t *ahead, size_t step, __m256i *sums) {
    __m256i left[ROWS], right[ROWS];
    UNROLLED for (size_t r = 0; r < rows; r++) left[r] = right[r] = _mm256_setzero_si256();
    for (; groups >= 2; groups -= 2, x += 2 * GROUP, weights += 2 * PANEL * GROUP, ahead += 2 * step) {
        __builtin_prefetch(ahead, 0, 2);
        add_group(rows, x, stride, weights, left, right);
        add_group(rows, x + GROUP, stride, weights + PANEL * GROUP, left, right);
    }
    if (groups) add_group(rows, x, stride, weights, left, right);
    UNROLLED for (size_t r = 0; r < rows; r++)
        sums[r] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(left[r], right[r]), 0xd8);
}

typedef void Tile(const int16_t *, size_t, const int8_t *, size_t, const int8_t *, size_t, __m256i *);
/* A function each: inlined into a caller, they would have to share the registers with it. */
#define TILE(rows)                                                                                                \
    TARGET static __attribute__((noinline)) void tile##rows(const int16_t *x, size_t stride, const int8_t *weights, \
                                                          size_t groups, const int8_t *ahead, size_t step,        \
                                                          __m256i *sums) {                                        \
        multiply_tile(rows, x, stride, weights, groups, ahead, step, sums);                                       \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static Tile *const tiles[ROWS] = {tile1, tile2, tile3, tile4, tile5, tile6};

TARGET static void multiply(const void *rounded, size_t rows, const Layer *layer, size_t first, size_t last, float *y) {
    const size_t groups = groups_of(layer->inputs), outputs = layer->outputs, panel_bytes = groups * PANEL * GROUP;
    const size_t stride = row_bytes(layer->inputs) / sizeof(int16_t);
    const size_t blocks = (rows + ROWS - 1) / ROWS;
    /* Each half of each block fetches its share of the next panel from memory. Questions of 8 to 14 tokens, whose weights
       come from there, are 1.2 times as fast. */
    const size_t step = PANEL * GROUP / (2 * blocks);
    __m256i sums[ROWS];
    for (size_t panel = first; panel < last; panel++)
        for (size_t block = 0; block < blocks; block++) {
            /* Of nearly equal heights: 8 rows as 4 and 4 and not as 6 and 2. */
            const size_t top = rows * block / blocks, taken = rows * (block + 1) / blocks - top;
            const int16_t *x = (const int16_t *)rounded + top * stride;
            for (size_t half = 0; half < 2 && panel * PANEL + half * 8 < outputs; half++) {
                const size_t column = panel * PANEL + half * 8, left = outputs - column;
                const int8_t *weights = layer->weights + panel * panel_bytes;
                tiles[taken - 1](x, stride, weights + half * 8 * GROUP, groups,
                                 weights + panel_bytes + (2 * block + half) * step * groups, step, sums);
                const __m256 scale = load(layer->scales + column, left), bias = load(layer->bias + column, left);
                for (size_t r = 0; r < taken; r++) {
                    float of_row;
                    memcpy(&of_row, x + r * stride + groups * GROUP, sizeof of_row);
                    const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r]), _mm256_set1_ps(of_row));
                    store(y + (top + r) * outputs + column, _mm256_add_ps(_mm256_mul_ps(product, scale), bias), left);
                }
            }
        }
}

TARGET static void gelu(float *x, size_t count) { gelu_each(x, count); }
TARGET static void normalize(float *y, const float *residual, const float *scale, const float *shift, float epsilon, size_t count) {
    add_and_normalize(y, residual, scale, shift, epsilon, count);
}

const Kernels avx2_kernels = {
    .name = "avx2",
    .fits = has_avx2,
    .rows = ROWS,
    .panels = 1,
    .block_bytes = 128 * 1024,
    .row_bytes = row_bytes,
    .round = round_rows,
    .multiply = multiply,
    .gelu = gelu,
    .normalize = normalize,
    .attention = &avx2_attention,
};
#else
const Kernels avx2_kernels = {.name = "avx2"};
#endif
