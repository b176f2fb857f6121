/* Inputs of linear layers as bytes, the same integers everywhere. A part of linear_bytes.h.

   An input has 8 bits, and a token's few largest would take most of them from the others. So those few stand
   apart: the others choose the step, and what the few have beyond 8 bits is a second digit. That is multiplied
   on its own, a group of inputs for each. */
#ifndef PARITAS_BYTES_H
#define PARITAS_BYTES_H

#include "kernels.h"
#include "rows.h"

#include <math.h>
#include <string.h>


typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));

/* How many inputs stand apart; and those that have a bit each in a word. */
enum { APART = 4, WORD = 64 };
/* The others' range in steps, one less than bytes have: both its ends may be rounded up. */
#define RANGE 254.0f
/* The furthest an input may be from zero, in steps. Its second digit is 254 then, at most: the sum of two signed bytes. */
#define FURTHEST 65000.0f

/* A row is its integers' lower digits, filled up to 64 bytes, and this: so rows begin where lines of the cache do. */
typedef struct {
    float step;
    int32_t zero;    /* the byte that stands for it */
    int32_t initial; /* what sums over second digits start with, so that weights may count EXCESS more than they are */
    /* The second digits: first those of all inputs apart, zeros too, so that rows do the same and no branch is mistaken. Then
       what a signed byte did not hold of some. */
    uint32_t digits;
    int32_t digit[2 * APART];  /* a byte, at its input's place of the group */
    uint16_t group[2 * APART]; /* of MOST_INPUTS / GROUP */
} Rest;
_Static_assert(sizeof(Rest) == 64, "a line of the cache");

static inline size_t padded(size_t inputs) { return (inputs + 63) / 64 * 64; }

/* As libm's, which the library does without. */
INLINED float larger(float a, float b) { return a > b ? a : b; }
INLINED float smaller(float a, float b) { return a < b ? a : b; }
INLINED int32_t nearest(float x) { return (int32_t)__builtin_rintf(x); }

/* Of each two values the larger one. */
TARGET INLINED Integers larger_of(Integers a, Integers b);

/* Which values reach their limit, a bit each. */
TARGET INLINED uint64_t reaching(Integers values, Integers limit);

/* The largest of a register. */
TARGET INLINED int32_t largest_lane(Integers values);

/* LANES values side by side. */
enum { OF_LANES = LANES / WIDTH };
typedef struct {
    Integers part[OF_LANES];
} Lanes;

/* The bits of a register of inputs. */
TARGET INLINED Integers bits_at(const float *x) {
    Integers bits;
    memcpy(&bits, x, sizeof bits);
    return bits;
}

TARGET INLINED int32_t largest_of(Lanes lanes) {
    UNROLLED for (size_t p = 1; p < OF_LANES; p++) lanes.part[0] = larger_of(lanes.part[0], lanes.part[p]);
    return largest_lane(lanes.part[0]);
}

/* The fifth largest: the least of those that no more than four exceed. */
TARGET INLINED int32_t fifth_of(Lanes lanes) {
    int32_t each[LANES];
    memcpy(each, &lanes, sizeof each);
    UNROLLED for (size_t p = 0; p < OF_LANES; p++) {
        Integers exceeding = {0};
        UNROLLED for (size_t l = 0; l < LANES; l++) exceeding -= (Integers){0} + each[l] > lanes.part[p];
        /* The least is the opposite of the opposites' largest. */
        lanes.part[p] = -(lanes.part[p] | ((exceeding > APART) & INT32_MAX));
    }
    return -largest_of(lanes);
}

/* Take one more for the largest, which are in order. Without branches: nothing foretells where the largest are. */
INLINED void take(uint64_t *largest, uint64_t value) {
    UNROLLED for (size_t at = 0; at <= APART; at++) {
        const uint64_t other = largest[at], more = value > other ? value : other;
        value = value > other ? other : value;
        largest[at] = more;
    }
}

/* How far a row's inputs reach above zero and below, and the five largest magnitudes: the bits of each. Taken for integers,
   bits of numbers above zero are in the order of the numbers; those of infinities and NaNs come last. */
typedef struct {
    int32_t above, below;
    uint64_t largest[APART + 1]; /* the largest first; a magnitude's place in the lower half */
} Reach;

TARGET INLINED Reach reach_of(const float *x, size_t inputs) {
    Lanes above = {{{0}}}, below = {{{0}}}, furthest;
    float rest[WORD] = {0};
    const size_t whole = inputs / WORD * WORD;
    if (inputs > whole) memcpy(rest, x + whole, (inputs - whole) * sizeof *x);
    for (size_t i = 0; i < inputs; i += WORD) {
        const float *from = i < whole ? x + i : rest;
        UNROLLED for (size_t at = 0; at < WORD; at += LANES)
            UNROLLED for (size_t p = 0; p < OF_LANES; p++) {
                const Integers bits = bits_at(from + at + p * WIDTH);
                above.part[p] = larger_of(above.part[p], bits);
                below.part[p] = larger_of(below.part[p], bits ^ INT32_MIN);
            }
    }
    UNROLLED for (size_t p = 0; p < OF_LANES; p++) furthest.part[p] = larger_of(above.part[p], below.part[p]);
    /* The five largest reach as far as the fifth of the lanes does. Zeros are none of them. */
    const int32_t fifth = fifth_of(furthest);
    const Integers least = (Integers){0} + (fifth ? fifth : 1);
    Reach reach = {largest_of(above), largest_of(below), {0}};
    /* First each is noted, then they are looked up. Nothing foretells where they are: looked up as they are met, each is a
       branch mistaken, and all-MiniLM-L6-v2 takes 3 to 4 % longer in bulk. */
    for (size_t top = 0; top < inputs; top += WORD * WORD) {
        uint64_t large[WORD], words = 0;
        for (size_t w = 0, i = top; w < WORD && i < inputs; w++, i += WORD) {
            const float *from = i < whole ? x + i : rest;
            large[w] = 0;
            UNROLLED for (size_t at = 0; at < WORD; at += WIDTH)
                large[w] |= reaching(bits_at(from + at) & INT32_MAX, least) << at;
            words |= (uint64_t)(large[w] != 0) << w;
        }
        for (; words; words &= words - 1) {
            const size_t w = (size_t)__builtin_ctzll(words);
            for (; large[w]; large[w] &= large[w] - 1) {
                const size_t i = top + w * WORD + (size_t)__builtin_ctzll(large[w]);
                take(reach.largest, (uint64_t)(bits_of(x[i]) & INT32_MAX) << 32 | i);
            }
        }
    }
    return reach;
}

INLINED void put_digit(Rest *rest, size_t at, size_t place, int32_t digit) {
    rest->group[at] = (uint16_t)(place / GROUP);
    rest->digit[at] = (int32_t)((uint32_t)(uint8_t)digit << (place % GROUP * 8));
    rest->initial -= EXCESS * digit;
}

/* Round a row. What is stored is MOVED less than it says, for instructions whose bytes are signed. */
TARGET INLINED void round_to_bytes(const float *x, size_t inputs, uint8_t *out) {
    const Reach reach = reach_of(x, inputs);
    const float furthest = value_of((uint32_t)(reach.above > reach.below ? reach.above : reach.below));
    const int there = furthest > SMALLEST, finite = furthest < INFINITY;
    const uint64_t fifth = reach.largest[APART] >> 32;
    /* Whatever stands apart is further off than the fifth. */
    const float others = value_of((uint32_t)fifth);
    const float low = larger(-value_of((uint32_t)reach.below), -others), high = smaller(value_of((uint32_t)reach.above), others);
    const float step = larger(high / RANGE - low / RANGE, furthest / FURTHEST);
    const float factor = there && finite ? 1 / step : 0;
    const int32_t zero = finite ? nearest(-low * factor) : 0;
    Rest *rest = (Rest *)(out + padded(inputs));
    *rest = (Rest){.step = finite ? there ? step : 0 : NAN, .zero = zero - MOVED};
    memset(out + inputs, 0, padded(inputs) - inputs);
    if (!finite) {
        memset(out, 0, inputs);
        return;
    }
    /* All are bytes, but for some of those apart, which are put right below. */
    for (size_t i = 0; i < inputs; i++) out[i] = (uint8_t)(nearest(x[i] * factor) + zero - MOVED);
    rest->digits = APART;
    for (size_t i = 0; i < APART; i++) {
        const size_t place = reach.largest[i] & 0xffffffff;
        const int32_t integer = nearest(x[place] * factor) + zero, digit = reach.largest[i] >> 32 > fifth ? integer >> 8 : 0;
        const int32_t part = digit < -127 ? -127 : digit > 127 ? 127 : digit;
        out[place] = (uint8_t)((integer & 255) - MOVED);
        put_digit(rest, i, place, part);
        if (part != digit) put_digit(rest, rest->digits++, place, digit - part);
    }
}

#endif
