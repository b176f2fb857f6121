/* Inputs of linear layers as bytes: plain loops, which compilers turn into vectors, so the same integers everywhere.

   An input has 8 bits, and a token's few largest would take most of them from the others. So those few stand
   apart: the others choose the step, and what the few have beyond 8 bits is a second digit. That is multiplied
   on its own, a group of inputs for each. */
#ifndef PARITAS_BYTES_H
#define PARITAS_BYTES_H

#include "kernels.h"
#include "rows.h"

#include <math.h>

enum { APART = 4 };
/* The others' range in steps, one less than bytes have: both its ends may be rounded up. */
#define RANGE 254.0f
/* The furthest an input may be from zero, in steps. Its second digit is 254 then, at most. */
#define FURTHEST 65000.0f
/* Inputs are looked through in parts; most parts hold none of the largest. */
enum { PART = 32, MOST_PARTS = MOST_INPUTS / PART };

/* A row is its integers' lower digits, filled up to 64 bytes, and this. */
typedef struct {
    float step;
    int32_t zero; /* the byte that stands for it */
    /* The second digits, those of numbers below zero first. */
    uint32_t below, apart;
    struct {
        uint32_t group, digit; /* the digit at its input's place of the group, the others zero */
    } second[2 * APART];
} Rest;

static inline size_t padded(size_t inputs) { return (inputs + 63) / 64 * 64; }

/* As libm's, which the library does without. */
ROWS_INLINED float larger(float a, float b) { return a > b ? a : b; }
ROWS_INLINED float smaller(float a, float b) { return a < b ? a : b; }
ROWS_INLINED int32_t nearest(float x) { return (int32_t)__builtin_rintf(x); }

/* How far some inputs reach, above zero and below: the bits of both magnitudes. Taken for integers, bits of numbers
   above zero are in the order of the numbers; those of infinities and NaNs come last. */
typedef struct {
    int32_t above, below;
} Reach;

ROWS_INLINED Reach reach_of(const float *x, size_t count) {
    int32_t above = 0, below = 0;
    for (size_t i = 0; i < count; i++) {
        const int32_t bits = (int32_t)bits_of(x[i]), opposite = (int32_t)bits_of(-x[i]);
        above = bits > above ? bits : above;
        below = opposite > below ? opposite : below;
    }
    return (Reach){above, below};
}

ROWS_INLINED uint32_t magnitude(float value) { return bits_of(value) & 0x7fffffff; }

/* Which of a part's inputs reach so far, a bit each. */
ROWS_INLINED uint32_t reaching(const float *x, size_t count, uint32_t least) {
    uint32_t found = 0;
    for (size_t i = 0; i < count; i++) found |= (uint32_t)(magnitude(x[i]) >= least) << i;
    return found;
}

/* Take one more for the largest, which are in order. */
ROWS_INLINED void take(uint64_t *largest, uint64_t value) {
    size_t at = APART;
    for (; at && largest[at - 1] < value; at--) largest[at] = largest[at - 1];
    largest[at] = value;
}

/* How far a row's inputs reach, and its five largest, the largest first: a magnitude's bits, then its place in 32 bits. */
ROWS_INLINED Reach look_through(const float *x, size_t inputs, uint64_t *largest) {
    const size_t parts = (inputs + PART - 1) / PART;
    uint64_t of_parts[APART + 1] = {0};
    uint32_t furthest[MOST_PARTS];
    Reach row = {0, 0};
    for (size_t part = 0; part < parts; part++) {
        const size_t from = part * PART;
        /* Twice, for the size that is known. */
        const Reach reach = from + PART <= inputs ? reach_of(x + from, PART) : reach_of(x + from, inputs - from);
        row.above = reach.above > row.above ? reach.above : row.above;
        row.below = reach.below > row.below ? reach.below : row.below;
        furthest[part] = (uint32_t)(reach.above > reach.below ? reach.above : reach.below);
        if (furthest[part] > of_parts[APART]) take(of_parts, furthest[part]);
    }
    /* The five largest are in parts that reach as far as the fifth of the parts does. */
    const uint32_t least = of_parts[APART] ? (uint32_t)of_parts[APART] : 1;
    for (size_t part = 0; part < parts; part++) {
        if (furthest[part] < least) continue;
        const size_t from = part * PART;
        uint32_t large = from + PART <= inputs ? reaching(x + from, PART, least) : reaching(x + from, inputs - from, least);
        for (; large; large &= large - 1) {
            const size_t place = from + (size_t)__builtin_ctz(large);
            const uint64_t value = (uint64_t)magnitude(x[place]) << 32 | place;
            if (value > largest[APART]) take(largest, value);
        }
    }
    return row;
}

/* Round a row. What is stored is `moved` less than it says, for instructions whose bytes are signed. A second digit
   above `largest_digit` becomes two. */
ROWS_INLINED void round_to_bytes(const float *x, size_t inputs, int32_t moved, int32_t largest_digit, uint8_t *out) {
    uint64_t largest[APART + 1] = {0};
    const Reach reach = look_through(x, inputs, largest);
    const float furthest = value_of((uint32_t)(reach.above > reach.below ? reach.above : reach.below));
    const int there = furthest > SMALLEST, finite = furthest < INFINITY;
    const uint64_t fifth = largest[APART] >> 32;
    /* Whatever stands apart is further off than the fifth. */
    const float others = value_of((uint32_t)fifth);
    const float low = larger(-value_of((uint32_t)reach.below), -others), high = smaller(value_of((uint32_t)reach.above), others);
    const float step = larger(high / RANGE - low / RANGE, furthest / FURTHEST);
    const float factor = there && finite ? 1 / step : 0;
    const int32_t zero = finite ? nearest(-low * factor) : 0;
    Rest *rest = (Rest *)(out + padded(inputs));
    *rest = (Rest){.step = finite ? there ? step : 0 : NAN, .zero = zero - moved};
    __builtin_memset(out + inputs, 0, padded(inputs) - inputs);
    if (!finite) {
        __builtin_memset(out, 0, inputs);
        return;
    }
    /* All are bytes, but for some of those apart, which are put right below. */
    for (size_t i = 0; i < inputs; i++) out[i] = (uint8_t)(nearest(x[i] * factor) + zero - moved);
    for (int sign = -1; sign <= 1; sign += 2)
        for (size_t i = 0; i < APART && largest[i] >> 32 > fifth; i++) {
            const size_t place = largest[i] & 0xffffffff;
            const int32_t integer = nearest(x[place] * factor) + zero;
            int32_t digit = sign * (integer >> 8);
            if (digit <= 0) continue;
            out[place] = (uint8_t)((integer & 255) - moved);
            for (int32_t part; digit > 0; digit -= part) {
                part = digit < largest_digit ? digit : largest_digit;
                rest->second[rest->apart].group = (uint32_t)(place / GROUP);
                rest->second[rest->apart++].digit = (uint32_t)part << (place % GROUP * 8);
            }
            rest->below = sign < 0 ? rest->apart : rest->below;
        }
}

#endif
