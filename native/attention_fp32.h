/* Attention of a head of a text in floats: its keys turned to columns and its values side by side, then a few queries at a
   time over all keys. Scores of a few queries are all that is kept of them, so they stay in the first cache. */
#define TERM float
#include "attention_tiles.h"

static size_t attention_bytes(const Attention *attention) {
    const size_t keys = whole(attention->length, LANES), wide = whole(attention->width, WIDTH);
    return (2 * keys * wide + ROWS * (keys + wide)) * sizeof(float);
}

/* The largest value of a register, and the sum, added up as sum_of_lanes does: its halves, value for value, again and again. */
TARGET INLINED float largest_of(Floats values) {
    Floats first, second;
    UNROLLED for (size_t left = WIDTH; left > 1; left /= 2) {
        interleave(values, values, &first, &second);
        values = larger(first, second);
    }
    return values[0];
}

TARGET INLINED float sum_of(Floats values) {
    Floats first, second;
    UNROLLED for (size_t left = WIDTH; left > 1; left /= 2) {
        interleave(values, values, &first, &second);
        values = first + second;
    }
    return values[0];
}

/* Add a query's bias to its scores and return the largest. There is room for whole LANES of scores. */
TARGET INLINED float largest_score(float *scores, const float *bias, size_t length) {
    const Floats none = all(-INFINITY);
    Floats largest = none;
    for (size_t i = 0; i < length; i += WIDTH) {
        Floats score = load(scores + i, WIDTH);
        if (bias) score += load(bias + i, length - i);
        if (length - i < WIDTH) score = only_first(score, length - i);
        store(scores + i, score, WIDTH);
        largest = larger(largest, score);
    }
    for (size_t i = whole(length, WIDTH); i < whole(length, LANES); i += WIDTH) store(scores + i, none, WIDTH);
    return largest_of(largest);
}

/* A query's scores become their exponentials over the largest; returns those' sum. */
TARGET INLINED float exponentials(float *scores, float largest, size_t length) {
    Floats sum[LANES / WIDTH] = {{0}};
    for (size_t i = 0; i < length; i += LANES)
        UNROLLED for (size_t p = 0; p < LANES / WIDTH; p++) {
            const Floats share = exponential_of(load(scores + i + p * WIDTH, WIDTH) - largest);
            store(scores + i + p * WIDTH, share, WIDTH);
            sum[p] += share;
        }
    UNROLLED for (size_t half = LANES / WIDTH / 2; half; half /= 2)
        UNROLLED for (size_t p = 0; p < half; p++) sum[p] += sum[p + half];
    return sum_of(sum[0]);
}

/* Keys become columns, and both lie in panels. */
TARGET static void pack(const Attention *attention, const float *key, const float *value, float *columns, float *values) {
    const size_t length = attention->length, width = attention->width, keys = whole(length, WIDTH), wide = whole(width, WIDTH);
    const size_t stride = attention->next_token * 3 * attention->heads * width;
    for (size_t token = 0; token < length; token += WIDTH) {
        const Panel panel = panel_of(token, keys);
        float *to = columns + panel.first * wide + token - panel.first;
        for (size_t channel = 0; channel < width; channel += WIDTH) {
            Floats square[WIDTH];
            UNROLLED for (size_t r = 0; r < WIDTH; r++)
                square[r] = token + r < length ? load(key + (token + r) * stride + channel, width - channel) : (Floats){0};
            turn(square);
            UNROLLED for (size_t c = 0; c < WIDTH; c++) store(to + (channel + c) * panel.width, square[c], WIDTH);
        }
    }
    for (size_t channel = 0; channel < width; channel += WIDTH) {
        const Panel panel = panel_of(channel, wide);
        for (size_t token = 0; token < length; token++)
            store(values + panel.first * length + token * panel.width + channel - panel.first,
                  load(value + token * stride + channel, width - channel), WIDTH);
    }
}

TARGET static void attend(const Attention *attention, size_t text, size_t head, void *memory) {
    const size_t length = attention->length, width = attention->width, channels = attention->heads * width;
    const size_t keys = whole(length, WIDTH), wide = whole(width, WIDTH), next_score = whole(length, LANES);
    const size_t stride = attention->next_token * 3 * channels;
    float *columns = memory, *values = columns + keys * wide, *scores = values + keys * wide, *sums = scores + ROWS * next_score;
    const float *query = attention->projections + text * attention->next_text * 3 * channels + head * width;
    pack(attention, query + channels, query + 2 * channels, columns, values);
    const size_t blocks = (length + ROWS - 1) / ROWS;
    for (size_t block = 0; block < blocks; block++) {
        const size_t top = length * block / blocks, rows = length * (block + 1) / blocks - top;
        float factors[ROWS], largest[ROWS];
        multiply(rows, keys, query + top * stride, stride, columns, wide, width, scores, next_score);
        /* Each step for all rows, so that no row waits for another's one largest value, or sum. */
        for (size_t r = 0; r < rows; r++)
            largest[r] = largest_score(scores + r * next_score, bias_of(attention, text, head, top + r), length);
        for (size_t r = 0; r < rows; r++) factors[r] = 1 / exponentials(scores + r * next_score, largest[r], length);
        multiply(rows, wide, scores, next_score, values, length, length, sums, wide);
        for (size_t r = 0; r < rows; r++) {
            float *out = context_of(attention, text, head, top + r);
            for (size_t channel = 0; channel < width; channel += WIDTH)
                store(out + channel, load(sums + r * wide + channel, WIDTH) * factors[r], width - channel);
        }
    }
}
