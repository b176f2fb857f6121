/* AVX-512 VNNI: products of bytes, four added up at once.

   An input has 8 bits, and a token's few largest would take most of them from the others. So those few stand
   apart: the others choose the step, and what the few have beyond 8 bits is a second digit. That is multiplied
   on its own, a group of inputs for each. */
#include "kernels.h"
#include "rows.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <math.h>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))
#define INLINED static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 6")
/* 24 accumulators, four registers of weights and one of inputs, of 32. */
enum { ROWS = 6, PANELS = 4 };
enum { APART = 4 };
/* The others' range in steps, one less than bytes have: both its ends may be rounded up. */
#define RANGE 254.0f
/* The furthest an input may be from zero, in steps, for its digits to be bytes. */
#define FURTHEST 65000.0f
/* What reaches no further is taken for zeros: its steps have no reciprocal. */
#define SMALLEST 1e-30f

/* A row is its integers' lower digits, filled up to 64 bytes, and this. */
typedef struct {
    float step;
    int32_t zero; /* the byte that stands for it */
    /* The second digits, those of numbers below zero first. */
    uint32_t below, apart;
    struct {
        uint32_t group, digit; /* the digit at its input's place of the group, the others zero */
    } second[APART];
} Rest;

static size_t padded(size_t inputs) { return (inputs + 63) / 64 * 64; }
static size_t row_bytes(size_t inputs) { return padded(inputs) + sizeof(Rest); }

VNNI INLINED __mmask16 first_of(size_t left) { return left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1); }

/* Sixteen of a row's inputs, zeros beyond its end. */
VNNI INLINED __m512 load(const float *x, size_t from, size_t inputs) {
    if (from + 16 <= inputs) return _mm512_loadu_ps(x + from);
    return _mm512_maskz_loadu_ps(first_of(from < inputs ? inputs - from : 0), x + from);
}

/* Bits of a magnitude are in the order of magnitudes, and those of infinities and NaNs come last. */
VNNI INLINED __m512i magnitudes(__m512 x) { return _mm512_castps_si512(_mm512_abs_ps(x)); }

/* As libm's, which the library does without. */
INLINED float larger(float a, float b) { return a > b ? a : b; }
INLINED float smaller(float a, float b) { return a < b ? a : b; }

INLINED float value_of(uint64_t bits) {
    const uint32_t low = (uint32_t)bits;
    float value;
    __builtin_memcpy(&value, &low, sizeof value);
    return value;
}

/* The fifth largest of sixteen. */
VNNI INLINED uint32_t next_after_apart(__m512i values) {
    uint32_t each[16], found = 0;
    _mm512_storeu_si512(each, values);
    for (size_t i = 0; i < 16; i++) {
        const unsigned reaching = _mm512_cmpge_epu32_mask(values, _mm512_set1_epi32((int32_t)each[i]));
        if (__builtin_popcount(reaching) > APART && each[i] > found) found = each[i];
    }
    return found;
}

/* What a row's step depends on. */
typedef struct {
    float low, high, furthest;
    uint64_t largest[APART + 1]; /* the largest first: a magnitude's bits, then its place in 32 bits */
} Reach;

VNNI static Reach reach_of(const float *x, size_t inputs) {
    __m512i lanes = _mm512_setzero_si512();
    __m512 lows = _mm512_setzero_ps(), highs = lows;
    for (size_t i = 0; i < inputs; i += 16) {
        const __m512 value = load(x, i, inputs);
        lanes = _mm512_max_epu32(lanes, magnitudes(value));
        lows = _mm512_min_ps(lows, value);
        highs = _mm512_max_ps(highs, value);
    }
    Reach reach = {_mm512_reduce_min_ps(lows), _mm512_reduce_max_ps(highs), value_of(_mm512_reduce_max_epu32(lanes)), {0}};
    if (!(reach.furthest > SMALLEST && reach.furthest < INFINITY)) return reach;
    /* Those as large as the fifth of the lanes' largest are few, and the five largest among them. */
    const uint32_t fifth = next_after_apart(lanes);
    const __m512i least = _mm512_set1_epi32((int32_t)(fifth ? fifth : 1));
    for (size_t i = 0; i < inputs; i += 16) {
        unsigned large = _mm512_cmpge_epu32_mask(magnitudes(load(x, i, inputs)), least);
        for (; large; large &= large - 1) {
            const size_t place = i + (size_t)__builtin_ctz(large);
            uint32_t bits;
            __builtin_memcpy(&bits, x + place, sizeof bits);
            uint64_t key = (uint64_t)(bits & 0x7fffffff) << 32 | place;
            for (size_t at = 0; at <= APART; at++) {
                const uint64_t other = reach.largest[at], larger = key > other ? key : other;
                key = key > other ? other : key;
                reach.largest[at] = larger;
            }
        }
    }
    return reach;
}

VNNI static void round_row(const float *x, size_t inputs, uint8_t *out, Rest *rest) {
    const Reach reach = reach_of(x, inputs);
    const int there = reach.furthest > SMALLEST, finite = reach.furthest < INFINITY;
    const uint64_t fifth = reach.largest[APART] >> 32;
    /* Whatever stands apart is further off than the fifth. */
    const float others = value_of(fifth), low = larger(reach.low, -others), high = smaller(reach.high, others);
    const float step = larger(high / RANGE - low / RANGE, reach.furthest / FURTHEST);
    const float factor = there && finite ? 1 / step : 0;
    const int32_t zero = _mm_cvtss_si32(_mm_set_ss(-low * factor));
    *rest = (Rest){.step = finite ? there ? step : 0 : NAN, .zero = finite ? zero : 0};
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i zeros = _mm512_set1_epi16((int16_t)rest->zero);
    for (size_t i = 0; i < inputs; i += 64) {
        __m512i integers[4];
        for (size_t part = 0; part < 4; part++)
            integers[part] = _mm512_cvtps_epi32(_mm512_mul_ps(load(x, i + part * 16, inputs), _mm512_set1_ps(factor)));
        const __m512i first = _mm512_adds_epi16(_mm512_packs_epi32(integers[0], integers[1]), zeros);
        const __m512i second = _mm512_adds_epi16(_mm512_packs_epi32(integers[2], integers[3]), zeros);
        _mm512_storeu_si512(out + i, _mm512_permutexvar_epi32(in_order, _mm512_packus_epi16(first, second)));
    }
    for (int sign = -1; sign <= 1; sign += 2)
        for (size_t i = 0; i < APART && reach.largest[i] >> 32 > fifth; i++) {
            const size_t place = reach.largest[i] & 0xffffffff;
            const int32_t integer = _mm_cvtss_si32(_mm_set_ss(x[place] * factor)) + zero;
            const int32_t digit = sign * (integer >> 8);
            if (digit <= 0) continue;
            out[place] = (uint8_t)(integer & 255);
            rest->second[rest->apart].group = (uint32_t)(place / GROUP);
            rest->second[rest->apart++].digit = (uint32_t)digit << (place % GROUP * 8);
            rest->below = sign < 0 ? rest->apart : rest->below;
        }
}

VNNI static void round_rows(const float *x, size_t rows, size_t inputs, void *rounded) {
    for (size_t row = 0; row < rows; row++) {
        uint8_t *out = (uint8_t *)rounded + row * row_bytes(inputs);
        round_row(x + row * inputs, inputs, out, (Rest *)(out + padded(inputs)));
    }
}

/* Products of `rows` rows with `panels` panels, to `sums`, a register for each. In assembly for the same reason as
   linear_avx2.c's. */
VNNI INLINED void multiply_tile(const size_t rows, const size_t panels, const uint8_t *x, size_t stride,
                                const int8_t *weights, size_t panel_bytes, size_t groups, const int8_t *ahead, size_t step,
                                __m512i *sums) {
    __m512i sum[ROWS][PANELS], weight[PANELS];
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t p = 0; p < panels; p++) sum[r][p] = _mm512_setzero_si512();
    const uint8_t *lower = x + 3 * stride; /* whose addresses, like the upper ones, are x + 0, 1 or 2 strides */
    for (size_t g = 0; g < groups; g++, x += GROUP, lower += GROUP, weights += PANEL * GROUP, ahead += step) {
        UNROLLED for (size_t p = 0; p < panels; p++) {
            weight[p] = _mm512_loadu_si512(weights + p * panel_bytes);
            _mm_prefetch(ahead + p * PANEL * GROUP, _MM_HINT_T1);
        }
        UNROLLED for (size_t r = 0; r < rows; r++) {
            int32_t group;
            __builtin_memcpy(&group, r < 3 ? x + r * stride : lower + (r - 3) * stride, sizeof group);
            const __m512i input = _mm512_set1_epi32(group);
            UNROLLED for (size_t p = 0; p < panels; p++)
                __asm__("vpdpbusd %2, %1, %0" : "+v"(sum[r][p]) : "v"(input), "v"(weight[p]));
        }
    }
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t p = 0; p < panels; p++) sums[r * panels + p] = sum[r][p];
}

typedef void Tile(const uint8_t *, size_t, const int8_t *, size_t, size_t, const int8_t *, size_t, __m512i *);
/* A function each: inlined into a caller, they would have to share the registers with it. */
#define TILE(rows, panels)                                                                                            \
    VNNI static __attribute__((noinline)) void tile##rows##x##panels(const uint8_t *x, size_t stride, const int8_t *weights, \
                                                                     size_t panel_bytes, size_t groups, const int8_t *ahead, \
                                                                     size_t step, __m512i *sums) {                    \
        multiply_tile(rows, panels, x, stride, weights, panel_bytes, groups, ahead, step, sums);                      \
    }
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(1, 4) TILE(2, 4) TILE(3, 4) TILE(4, 4) TILE(5, 4) TILE(6, 4)
static Tile *const tiles[2][ROWS] = {
    {tile1x1, tile2x1, tile3x1, tile4x1, tile5x1, tile6x1},
    {tile1x4, tile2x4, tile3x4, tile4x4, tile5x4, tile6x4},
};

/* Outputs of `rows` rows and `panels` panels from their sums, which second digits are missing from. */
VNNI INLINED void finish(const size_t panels, size_t rows, const uint8_t *x, size_t stride, const Layer *layer, size_t panel,
                         const __m512i *sums, float *y) {
    const size_t outputs = layer->outputs, panel_bytes = groups_of(layer->inputs) * PANEL * GROUP;
    const int8_t *weights = layer->weights + panel * panel_bytes;
    __mmask16 there[PANELS];
    __m512i weight_sum[PANELS], coarse[PANELS];
    __m512 scale[PANELS], bias[PANELS];
    UNROLLED for (size_t p = 0; p < panels; p++) {
        const size_t column = (panel + p) * PANEL;
        there[p] = first_of(outputs - column);
        weight_sum[p] = _mm512_maskz_loadu_epi32(there[p], layer->sums + column);
        scale[p] = _mm512_maskz_loadu_ps(there[p], layer->scales + column);
        bias[p] = _mm512_maskz_loadu_ps(there[p], layer->bias + column);
    }
    for (size_t r = 0; r < rows; r++, x += stride, sums += panels, y += outputs) {
        const Rest *rest = (const Rest *)(x + padded(layer->inputs));
        UNROLLED for (size_t p = 0; p < panels; p++) coarse[p] = _mm512_setzero_si512();
        for (uint32_t i = 0; i < rest->apart; i++) {
            const __m512i digit = _mm512_set1_epi32((int32_t)rest->second[i].digit);
            const int8_t *group = weights + rest->second[i].group * PANEL * GROUP;
            UNROLLED for (size_t p = 0; p < panels; p++) {
                if (i == rest->below) coarse[p] = _mm512_sub_epi32(_mm512_setzero_si512(), coarse[p]);
                coarse[p] = _mm512_dpbusd_epi32(coarse[p], digit, _mm512_loadu_si512(group + p * panel_bytes));
            }
        }
        UNROLLED for (size_t p = 0; p < panels; p++) {
            if (rest->below == rest->apart) coarse[p] = _mm512_sub_epi32(_mm512_setzero_si512(), coarse[p]);
            const __m512i moved = _mm512_mullo_epi32(_mm512_set1_epi32(rest->zero), weight_sum[p]);
            const __m512i sum = _mm512_add_epi32(_mm512_sub_epi32(sums[p], moved), _mm512_slli_epi32(coarse[p], 8));
            const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(rest->step));
            _mm512_mask_storeu_ps(y + (panel + p) * PANEL, there[p], _mm512_add_ps(_mm512_mul_ps(product, scale[p]), bias[p]));
        }
    }
}

VNNI static void multiply(const void *rounded, size_t rows, const Layer *layer, size_t first, size_t last, float *y) {
    const size_t groups = groups_of(layer->inputs), panel_bytes = groups * PANEL * GROUP;
    const size_t stride = row_bytes(layer->inputs), blocks = (rows + ROWS - 1) / ROWS;
    __m512i sums[ROWS * PANELS];
    for (size_t panel = first, wide; panel < last; panel += wide) {
        wide = last - panel >= PANELS ? PANELS : 1;
        const int8_t *weights = layer->weights + panel * panel_bytes;
        for (size_t block = 0; block < blocks; block++) {
            /* Of nearly equal heights: 8 rows as 4 and 4 and not as 6 and 2. */
            const size_t top = rows * block / blocks, taken = rows * (block + 1) / blocks - top;
            const uint8_t *x = (const uint8_t *)rounded + top * stride;
            float *out = y + top * layer->outputs;
            /* The first two fetch the next panels from memory, half of them each; the only one all. */
            const size_t sharing = blocks > 1 ? 2 : 1, step = block < sharing ? wide * PANEL * GROUP / sharing : 0;
            tiles[wide > 1][taken - 1](x, stride, weights, panel_bytes, groups, weights + wide * panel_bytes + block * step * groups, step, sums);
            if (wide > 1) finish(PANELS, taken, x, stride, layer, panel, sums, out);
            else finish(1, taken, x, stride, layer, panel, sums, out);
        }
    }
}

VNNI static void gelu(float *x, size_t count) { gelu_each(x, count); }
VNNI static void normalize(float *y, const float *residual, const float *scale, const float *shift, float epsilon, size_t count) {
    add_and_normalize(y, residual, scale, shift, epsilon, count);
}

/* __builtin_cpu_supports compiles with zig and always says no. */
static int fits(void) {
    unsigned eax, ebx, ecx, edx, saved, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    const unsigned wide = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    /* The system keeps all of a register, and the masks, when threads take turns. */
    return (saved & 0xe6) == 0xe6 && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & wide) == wide &&
           (ecx & bit_AVX512VNNI);
}

const Kernels avx512_vnni_kernels = {
    .name = "avx512_vnni",
    .fits = fits,
    .rows = ROWS,
    .panels = PANELS,
    .row_bytes = row_bytes,
    .round = round_rows,
    .multiply = multiply,
    .gelu = gelu,
    .normalize = normalize,
    .attention_bytes = attention_bytes_avx512,
    .attend = attend_avx512,
};
#else
static int fits(void) { return 0; }
const Kernels avx512_vnni_kernels = {.name = "avx512_vnni", .fits = fits};
#endif
