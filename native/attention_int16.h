/* Attention of a head of a text in integers of 16 bits: one instruction multiplies two of them, and adds them up, where it
   multiplies one float. Queries, keys and values are rounded, each row in a step of its own, and so are a query's shares.
   Sums are exact, so all instruction sets give the same bits. With 64 channels numbers have 12 to 15 bits, where BF16's have
   eight.

   A term is a pair. A row is cut into halves, and its i-th value lies beside that of the second half: of queries and keys
   the channels are cut, of shares and values the tokens. The rest goes as in attention_fp32.h. */
#define TERM int32_t
#include "attention_tiles.h"

/* A query's shares add up to SHARES, and by rounding of MOST_TOKENS to twice that. Times LARGEST_VALUE it is within 31 bits. */
enum { LARGEST_VALUE = 4095, LARGEST_SHARE = 32767, SHARES = 1 << 18 };

/* What is added to shares before they are rounded, by their tokens: bits reversed, so that of equal ones side by side as many
   are rounded up as their fraction says. Rounded to the nearest, all that are less than half of one would vanish, which in
   512 tokens are 1.5 % of the largest. */
static const float edges[2 * LANES] = {
    -0.46875f, 0.03125f, -0.21875f, 0.28125f, -0.34375f, 0.15625f, -0.09375f, 0.40625f, -0.40625f, 0.09375f, -0.15625f,
    0.34375f,  -0.28125f, 0.21875f, -0.03125f, 0.46875f, -0.46875f, 0.03125f, -0.21875f, 0.28125f, -0.34375f, 0.15625f,
    -0.09375f, 0.40625f, -0.40625f, 0.09375f, -0.15625f, 0.34375f, -0.28125f, 0.21875f, -0.03125f, 0.46875f,
};

/* Of a register: the sum, its halves added up value for value again and again; the largest value; the largest bits. */
TARGET INLINED float sum_of(Floats values);
TARGET INLINED float largest_of(Floats values);
TARGET INLINED int32_t largest_bits_of(Integers values);

/* Of each two the larger one. */
TARGET INLINED Integers larger_bits(Integers a, Integers b);

/* What a task works in. */
typedef struct {
    Term *keys, *values, *queries, *shares, *sums;
    float *scores, *key_steps, *value_steps;
    size_t next_query, next_share, next_score, next_sum;
} Room;

static size_t half_of(size_t count) { return (count + 1) / 2; }

static size_t attention_bytes(const Attention *attention) {
    const size_t channels = half_of(attention->width), tokens = half_of(attention->length);
    const size_t next_score = whole(attention->length, LANES), next_sum = whole(attention->width, WIDTH);
    const size_t of_a_query = whole(channels, WIDTH) + whole(tokens, WIDTH) + next_sum + next_score;
    return (next_score * channels + tokens * next_sum + ROWS * of_a_query + 2 * next_score) * sizeof(Term);
}

static Room room_in(void *memory, const Attention *attention) {
    const size_t channels = half_of(attention->width), tokens = half_of(attention->length);
    Room room = {.next_query = whole(channels, WIDTH),
                 .next_share = whole(tokens, WIDTH),
                 .next_score = whole(attention->length, LANES),
                 .next_sum = whole(attention->width, WIDTH)};
    room.keys = memory;
    room.values = room.keys + room.next_score * channels;
    room.queries = room.values + tokens * room.next_sum;
    room.shares = room.queries + ROWS * room.next_query;
    room.sums = room.shares + ROWS * room.next_share;
    room.scores = (float *)(room.sums + ROWS * room.next_sum);
    room.key_steps = room.scores + ROWS * room.next_score;
    room.value_steps = room.key_steps + room.next_score;
    return room;
}

/* The largest magnitude of a row. By bits, of which those of a NaN are the largest. */
TARGET INLINED float reach_of(const float *row, size_t count) {
    Integers largest = {0};
    for (size_t i = 0; i < count; i += WIDTH) largest = larger_bits(largest, (Integers)load(row + i, count - i) & INT32_MAX);
    return value_of((uint32_t)largest_bits_of(largest));
}

/* What a row is multiplied by, so that a magnitude of `reach` becomes the largest integer. */
INLINED float factor_of(float reach, float largest) { return reach > SMALLEST ? largest / reach : 0; }

/* The nearest integers, in the low 16 bits. */
TARGET INLINED Integers nearest(Floats values) { return (Integers)(values + to_integer); }

TARGET INLINED Terms pair_of(Integers first, Integers second) { return (first & UINT16_MAX) | second << 16; }

/* How many of the second half there are from the i-th on. */
static size_t left_of(size_t count, size_t i) { return count - half_of(count) > i ? count - half_of(count) - i : 0; }

/* The terms of a row from the i-th on. */
TARGET INLINED Terms terms_of(const float *row, size_t count, size_t i, float factor) {
    const size_t half = half_of(count);
    return pair_of(nearest(load(row + i, half - i) * factor), nearest(load(row + half + i, left_of(count, i)) * factor));
}

TARGET INLINED void round_row(const float *row, size_t count, float factor, Term *terms) {
    for (size_t i = 0; i < half_of(count); i += WIDTH) store_terms(terms + i, terms_of(row, count, i, factor));
}

/* The same for a query's shares. Returns their sum. */
TARGET INLINED float round_shares(const float *weights, size_t count, float factor, Term *terms) {
    const size_t half = half_of(count);
    Terms sum = {0};
    for (size_t i = 0; i < half; i += WIDTH) {
        const Floats edge = load(edges + i % LANES, WIDTH), other = load(edges + (half + i) % LANES, WIDTH);
        const Integers first = nearest(fused(load(weights + i, half - i), all(factor), edge));
        const Integers second = nearest(fused(load(weights + half + i, left_of(count, i)), all(factor), other));
        const Terms shares = pair_of(first, second);
        store_terms(terms + i, shares);
        add_product(&sum, shares, 1 << 16 | 1);
    }
    return sum_of(__builtin_convertvector(sum, Floats));
}

/* The largest integer of queries and keys: products of so many channels add up within 31 bits. */
static float largest_channel(size_t width) {
    const double fits = __builtin_sqrt((double)INT32_MAX / (double)width);
    return fits < INT16_MAX ? (float)(int32_t)fits : INT16_MAX;
}

/* Keys become columns, which lie in panels. */
TARGET static void pack_keys(const float *key, size_t stride, size_t length, size_t width, const Room *room) {
    const size_t channels = half_of(width), keys = whole(length, WIDTH);
    const float largest = largest_channel(width);
    for (size_t token = 0; token < length; token += WIDTH) {
        const Panel panel = panel_of(token, keys);
        const size_t high = length - token < WIDTH ? length - token : WIDTH;
        Term *to = room->keys + panel.first * channels + token - panel.first;
        float factors[WIDTH];
        for (size_t r = 0; r < high; r++) {
            const float reach = reach_of(key + (token + r) * stride, width);
            room->key_steps[token + r] = reach * (1 / largest);
            factors[r] = factor_of(reach, largest);
        }
        for (size_t channel = 0; channel < channels; channel += WIDTH) {
            Floats square[WIDTH];
            UNROLLED for (size_t r = 0; r < WIDTH; r++)
                square[r] = r < high ? (Floats)terms_of(key + (token + r) * stride, width, channel, factors[r]) : (Floats){0};
            turn(square);
            UNROLLED for (size_t c = 0; c < WIDTH; c++)
                if (channel + c < channels) store_terms(to + (channel + c) * panel.width, (Terms)square[c]);
        }
    }
    for (size_t token = length; token < room->next_score; token++) room->key_steps[token] = 0;
}

/* Values lie in panels, those of two tokens a term. */
TARGET static void pack_values(const float *value, size_t stride, size_t length, size_t width, const Room *room) {
    const size_t tokens = half_of(length);
    for (size_t token = 0; token < tokens; token++) {
        const int two = token + tokens < length;
        const float *first = value + token * stride, *second = two ? first + tokens * stride : first;
        const float reach = reach_of(first, width), other = reach_of(second, width);
        const float factor = factor_of(reach, LARGEST_VALUE), other_factor = two ? factor_of(other, LARGEST_VALUE) : 0;
        room->value_steps[token] = reach * (1.0f / LARGEST_VALUE);
        if (two) room->value_steps[token + tokens] = other * (1.0f / LARGEST_VALUE);
        for (size_t channel = 0; channel < width; channel += WIDTH) {
            const Panel panel = panel_of(channel, room->next_sum);
            const Integers low = nearest(load(first + channel, width - channel) * factor);
            const Integers high = nearest(load(second + channel, width - channel) * other_factor);
            store_terms(room->values + panel.first * tokens + token * panel.width + channel - panel.first, pair_of(low, high));
        }
    }
    for (size_t token = length; token < room->next_score; token++) room->value_steps[token] = 0;
}

/* Sums of integers become scores, with a query's bias. Returns the largest. There is room for whole LANES of them. */
TARGET INLINED float scale_scores(float *scores, const float *key_steps, float step, const float *bias, size_t length) {
    const Floats none = all(-INFINITY);
    Floats largest = none;
    for (size_t i = 0; i < length; i += WIDTH) {
        const Floats sum = __builtin_convertvector(load_terms((const Term *)scores + i), Floats);
        const Floats steps = load(key_steps + i, WIDTH) * step;
        Floats score = bias ? fused(sum, steps, load(bias + i, length - i)) : sum * steps;
        if (length - i < WIDTH) score = only_first(score, length - i);
        store(scores + i, score, WIDTH);
        largest = larger(largest, score);
    }
    for (size_t i = whole(length, WIDTH); i < whole(length, LANES); i += WIDTH) store(scores + i, none, WIDTH);
    return largest_of(largest);
}

/* The sum of a query's shares; their sum and the largest of them, times the values' steps. */
typedef struct {
    float sum, weights, largest;
} Weights;

/* A query's scores become their exponentials over the largest, its shares, times the values' steps. */
TARGET INLINED Weights weigh(float *scores, float largest_score, const float *steps, size_t length) {
    Floats sum[LANES / WIDTH] = {{0}}, weights[LANES / WIDTH] = {{0}}, largest = {0};
    for (size_t i = 0; i < length; i += LANES)
        UNROLLED for (size_t p = 0; p < LANES / WIDTH; p++) {
            const size_t place = i + p * WIDTH;
            const Floats share = exponential_of(load(scores + place, WIDTH) - largest_score);
            const Floats weight = share * load(steps + place, WIDTH);
            store(scores + place, weight, WIDTH);
            sum[p] += share;
            weights[p] += weight;
            largest = larger(largest, weight);
        }
    UNROLLED for (size_t half = LANES / WIDTH / 2; half; half /= 2)
        UNROLLED for (size_t p = 0; p < half; p++) sum[p] += sum[p + half], weights[p] += weights[p + half];
    return (Weights){sum_of(sum[0]), sum_of(weights[0]), largest_of(largest)};
}

TARGET static void attend(const Attention *attention, size_t text, size_t head, void *memory) {
    const size_t length = attention->length, width = attention->width, channels = attention->heads * width;
    const size_t stride = attention->next_token * 3 * channels, pairs = half_of(width), halves = half_of(length);
    const Room room = room_in(memory, attention);
    const float *query = attention->projections + text * attention->next_text * 3 * channels + head * width;
    const float largest_query = largest_channel(width);
    pack_keys(query + channels, stride, length, width, &room);
    pack_values(query + 2 * channels, stride, length, width, &room);
    const size_t blocks = (length + ROWS - 1) / ROWS;
    for (size_t block = 0; block < blocks; block++) {
        const size_t top = length * block / blocks, rows = length * (block + 1) / blocks - top;
        float steps[ROWS], largest[ROWS];
        Weights found[ROWS];
        /* Each step for all rows, so that no row waits for another's one largest value, or sum. */
        for (size_t r = 0; r < rows; r++) {
            const float *row = query + (top + r) * stride, reach = reach_of(row, width);
            steps[r] = reach * (1 / largest_query);
            round_row(row, width, factor_of(reach, largest_query), room.queries + r * room.next_query);
        }
        multiply(rows, whole(length, WIDTH), room.queries, room.next_query, room.keys, pairs, pairs, (Term *)room.scores,
                 room.next_score);
        for (size_t r = 0; r < rows; r++) {
            const float *bias = bias_of(attention, text, head, top + r);
            largest[r] = scale_scores(room.scores + r * room.next_score, room.key_steps, steps[r], bias, length);
        }
        for (size_t r = 0; r < rows; r++)
            found[r] = weigh(room.scores + r * room.next_score, largest[r], room.value_steps, length);
        for (size_t r = 0; r < rows; r++) {
            const float by_largest = factor_of(found[r].largest, LARGEST_SHARE), by_sum = factor_of(found[r].weights, SHARES);
            const float factor = by_largest < by_sum ? by_largest : by_sum;
            const float sum = round_shares(room.scores + r * room.next_score, length, factor, room.shares + r * room.next_share);
            /* By what rounding made of their sum, not by 1 / factor: values that are all alike stay as they are. */
            steps[r] = found[r].weights / (sum > 0 ? sum : 1) / found[r].sum;
        }
        multiply(rows, room.next_sum, room.shares, room.next_share, room.values, halves, halves, room.sums, room.next_sum);
        for (size_t r = 0; r < rows; r++) {
            float *out = context_of(attention, text, head, top + r);
            for (size_t channel = 0; channel < width; channel += WIDTH)
                store(out + channel, __builtin_convertvector(load_terms(room.sums + r * room.next_sum + channel), Floats) * steps[r],
                      width - channel);
        }
    }
}
