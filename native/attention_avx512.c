/* Attention with AVX-512: a head's keys turned to columns and its values side by side, then a few queries at a time
   over all keys. Scores of a few queries are all that is kept of them, so they stay in the first cache. */
#include "kernels.h"
#include "rows.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512dq")))
#define INLINED static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")
enum { WIDE = 16, ROWS = 6, COLUMNS = 4 };

static size_t whole_vectors(size_t count) { return (count + WIDE - 1) / WIDE * WIDE; }

size_t attention_bytes_avx512(const Attention *attention) {
    const size_t keys = whole_vectors(attention->length), width = whole_vectors(attention->width);
    return (2 * keys * width + ROWS * keys) * sizeof(float);
}

AVX512 INLINED __mmask16 first_of(size_t left) { return left >= WIDE ? 0xffff : (__mmask16)((1u << left) - 1); }

/* columns[c][r] = rows[r][c] for 16 by 16, zeros for rows and columns that are not there. */
AVX512 static void turn(const float *rows, size_t stride, size_t high, size_t wide, float *columns, size_t next) {
    const __mmask16 there = first_of(wide);
    __m512 a[WIDE], b[WIDE];
    UNROLLED for (size_t i = 0; i < WIDE; i++) a[i] = i < high ? _mm512_maskz_loadu_ps(there, rows + i * stride) : _mm512_setzero_ps();
    /* By pairs of rows, by fours, and then by quarters of a register. */
    UNROLLED for (size_t i = 0; i < WIDE; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLLED for (size_t i = 0; i < WIDE; i += 4)
        UNROLLED for (size_t j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i + j]), _mm512_castps_pd(b[i + j + 2])));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i + j]), _mm512_castps_pd(b[i + j + 2])));
        }
    /* a[i + c] now has, in its quarter q, rows i to i + 3 of column 4 q + c. */
    UNROLLED for (size_t c = 0; c < 4; c++) {
        const __m512 even_top = _mm512_shuffle_f32x4(a[c], a[c + 4], 0x88), odd_top = _mm512_shuffle_f32x4(a[c], a[c + 4], 0xdd);
        const __m512 even_low = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0x88);
        const __m512 odd_low = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0xdd);
        _mm512_storeu_ps(columns + c * next, _mm512_shuffle_f32x4(even_top, even_low, 0x88));
        _mm512_storeu_ps(columns + (c + 4) * next, _mm512_shuffle_f32x4(odd_top, odd_low, 0x88));
        _mm512_storeu_ps(columns + (c + 8) * next, _mm512_shuffle_f32x4(even_top, even_low, 0xdd));
        _mm512_storeu_ps(columns + (c + 12) * next, _mm512_shuffle_f32x4(odd_top, odd_low, 0xdd));
    }
}

/* sums[row][column] = rows[row] . columns[column], over `depth` values of each. In assembly so that each sum stays in its
   register, as in linear_avx2.c. */
AVX512 INLINED void multiply(const size_t rows, const size_t wide, const float *left, size_t next_left, const float *right,
                             size_t next_right, size_t depth, float *sums, size_t next_sum) {
    __m512 sum[ROWS][COLUMNS], value[COLUMNS];
    const float *lower = left + 3 * next_left;
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < wide; c++) sum[r][c] = _mm512_setzero_ps();
    for (size_t k = 0; k < depth; k++, left++, lower++, right += next_right) {
        UNROLLED for (size_t c = 0; c < wide; c++) value[c] = _mm512_loadu_ps(right + c * WIDE);
        UNROLLED for (size_t r = 0; r < rows; r++) {
            const __m512 factor = _mm512_set1_ps(*(r < 3 ? left + r * next_left : lower + (r - 3) * next_left));
            UNROLLED for (size_t c = 0; c < wide; c++)
                __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum[r][c]) : "v"(factor), "v"(value[c]));
        }
    }
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < wide; c++) _mm512_storeu_ps(sums + r * next_sum + c * WIDE, sum[r][c]);
}

typedef void Tile(const float *, size_t, const float *, size_t, size_t, float *, size_t);
#define TILE(rows, columns)                                                                                             \
    AVX512 static __attribute__((noinline)) void tile##rows##x##columns(const float *left, size_t next_left, const float *right, \
                                                                        size_t next_right, size_t depth, float *sums,   \
                                                                        size_t next_sum) {                              \
        multiply(rows, columns, left, next_left, right, next_right, depth, sums, next_sum);                             \
    }
#define TILES(rows) TILE(rows, 1) TILE(rows, 2) TILE(rows, 3) TILE(rows, 4)
#define NAMES(rows) {tile##rows##x1, tile##rows##x2, tile##rows##x3, tile##rows##x4}
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
static Tile *const tiles[ROWS][COLUMNS] = {NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6)};

AVX512 static void multiply_rows(size_t rows, const float *left, size_t next_left, const float *right, size_t next_right, size_t depth,
                                 float *sums, size_t next_sum) {
    for (size_t column = 0, wide; column < next_right; column += wide * WIDE) {
        const size_t left_over = (next_right - column) / WIDE;
        wide = left_over < COLUMNS ? left_over : COLUMNS;
        tiles[rows - 1][wide - 1](left, next_left, right + column, next_right, depth, sums + column, next_sum);
    }
}

/* e to the x for x up to zero, 2 to the n times a polynomial of what is left: within 1e-7 of it, and exactly zero where a
   float is. */
AVX512 INLINED __m512 exponential(__m512 x) {
    const __m512 power = _mm512_mul_ps(_mm512_max_ps(_mm512_set1_ps(-104), x), _mm512_set1_ps(1.44269504f));
    const __m512 n = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(power, n);
    __m512 p = _mm512_set1_ps(1.53533619e-4f);
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(1.33988749e-3f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(9.61843716e-3f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(5.55033236e-2f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(2.40226479e-1f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(6.93147203e-1f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

/* Scores, with their bias, become what their exponentials are over the largest; returns those' sum. */
AVX512 static float exponentials(float *scores, const float *bias, size_t length) {
    __m512 largest = _mm512_set1_ps(-__builtin_inff()), sum = _mm512_setzero_ps();
    for (size_t i = 0; i < length; i += WIDE) {
        const __mmask16 there = first_of(length - i);
        __m512 score = _mm512_loadu_ps(scores + i);
        if (bias) score = _mm512_add_ps(score, _mm512_maskz_loadu_ps(there, bias + i));
        _mm512_storeu_ps(scores + i, score);
        largest = _mm512_mask_max_ps(largest, there, largest, score);
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (size_t i = 0; i < length; i += WIDE) {
        const __m512 value = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + i), top));
        const __m512 kept = _mm512_maskz_mov_ps(first_of(length - i), value);
        _mm512_storeu_ps(scores + i, kept);
        sum = _mm512_add_ps(sum, kept);
    }
    float lanes[LANES]; /* compilers differ in the order of _mm512_reduce_add_ps */
    _mm512_storeu_ps(lanes, sum);
    return sum_of_lanes(lanes);
}

AVX512 void attend_avx512(const Attention *attention, size_t text, size_t head, void *memory) {
    const size_t length = attention->length, width = attention->width, channels = attention->heads * width;
    const size_t keys = whole_vectors(length), wide = whole_vectors(width), stride = attention->next_token * 3 * channels;
    float *columns = memory, *values = columns + keys * wide, *scores = values + keys * wide;
    const float *query = attention->projections + text * attention->next_text * 3 * channels + head * width;
    const float *key = query + channels, *value = key + channels;
    for (size_t token = 0; token < length; token += WIDE)
        for (size_t channel = 0; channel < width; channel += WIDE)
            turn(key + token * stride + channel, stride, length - token < WIDE ? length - token : WIDE, width - channel,
                 columns + channel * keys + token, keys);
    for (size_t token = 0; token < length; token++)
        for (size_t channel = 0; channel < wide; channel += WIDE)
            _mm512_storeu_ps(values + token * wide + channel,
                             _mm512_maskz_loadu_ps(first_of(channel < width ? width - channel : 0), value + token * stride + channel));
    const size_t blocks = (length + ROWS - 1) / ROWS;
    for (size_t block = 0; block < blocks; block++) {
        const size_t top = length * block / blocks, rows = length * (block + 1) / blocks - top;
        float factors[ROWS], context[ROWS * WIDE * COLUMNS];
        multiply_rows(rows, query + top * stride, stride, columns, keys, width, scores, keys);
        for (size_t r = 0; r < rows; r++) {
            const float *bias = attention->bias ? attention->bias + text * attention->next_bias_text + head * attention->next_bias_head +
                                                      (top + r) * attention->next_bias_query
                                                : NULL;
            factors[r] = 1 / exponentials(scores + r * keys, bias, length);
        }
        for (size_t channel = 0, vectors; channel < wide; channel += vectors * WIDE) {
            vectors = (wide - channel) / WIDE < COLUMNS ? (wide - channel) / WIDE : COLUMNS;
            tiles[rows - 1][vectors - 1](scores, keys, values + channel, wide, length, context, WIDE * COLUMNS);
            for (size_t r = 0; r < rows; r++) {
                float *out = attention->context + (text * attention->next_text + (top + r) * attention->next_token) * channels + head * width;
                for (size_t c = 0; c < vectors * WIDE && channel + c < width; c += WIDE)
                    _mm512_mask_storeu_ps(out + channel + c, first_of(width - channel - c),
                                          _mm512_mul_ps(_mm512_loadu_ps(context + r * WIDE * COLUMNS + c), _mm512_set1_ps(factors[r])));
            }
        }
    }
}
#endif
