/* Attention of a head of a text, for an instruction set: its keys turned to columns and its values side by side, then a
   few queries at a time over all keys. Scores of a few queries are all that is kept of them, so they stay in the first
   cache. The instruction set's file includes this once. Before, it says

   TARGET           the attribute of functions that use it
   WIDTH            how many floats a register holds
   COLUMNS          the most registers of keys, or of channels, of a tile
   WIDE(EACH, rows) EACH(rows, 1) to EACH(rows, COLUMNS)

   and after, add_product, larger, load_first, interleave, and its AttentionKernels. */
#include "kernels.h"
#include "rows.h"

#include <string.h>

/* The most queries of a tile. */
enum { ROWS = 6 };

typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));
typedef float Floats __attribute__((vector_size(4 * WIDTH)));

/* sum += value * factor, rounded once. In assembly, so that the sum stays in its register, as in linear_tiles.h. */
TARGET INLINED void add_product(Floats *sum, Floats value, float factor);

/* Of each two the larger one; where `b` is no number, `a`. */
TARGET INLINED Floats larger(Floats a, Floats b);

/* Fewer values than a register holds, zeros beyond them. */
TARGET INLINED Floats load_first(const float *from, size_t count);

/* The first halves of both, by turns, and the second halves. */
TARGET INLINED void interleave(Floats a, Floats b, Floats *first, Floats *second);

static size_t whole(size_t count, size_t of) { return (count + of - 1) / of * of; }

static size_t attention_bytes(const Attention *attention) {
    const size_t keys = whole(attention->length, LANES), wide = whole(attention->width, WIDTH);
    return (2 * keys * wide + ROWS * (keys + wide)) * sizeof(float);
}

/* So many values, zeros beyond them. */
TARGET INLINED Floats load(const float *from, size_t count) {
    Floats loaded;
    if (count < WIDTH) return load_first(from, count);
    memcpy(&loaded, from, sizeof loaded);
    return loaded;
}

TARGET INLINED void store(float *to, Floats values, size_t count) {
    if (count >= WIDTH) memcpy(to, &values, sizeof values);
    else memcpy(to, &values, count * sizeof *to);
}

/* columns[c][r] = rows[r][c] for a square of WIDTH, zeros for rows and columns that are not there. Interleaving a half with
   the other moves one bit of a value's place from its row to its column, and one back. */
TARGET static void turn(const float *rows, size_t stride, size_t high, size_t wide, float *columns, size_t next) {
    Floats square[WIDTH], turned[WIDTH];
    UNROLLED for (size_t r = 0; r < WIDTH; r++) square[r] = r < high ? load(rows + r * stride, wide) : (Floats){0};
    UNROLLED for (size_t moved = 1; moved < WIDTH; moved *= 2) {
        UNROLLED for (size_t r = 0; r < WIDTH / 2; r++)
            interleave(square[r], square[r + WIDTH / 2], &turned[2 * r], &turned[2 * r + 1]);
        UNROLLED for (size_t r = 0; r < WIDTH; r++) square[r] = turned[r];
    }
    UNROLLED for (size_t c = 0; c < WIDTH; c++) store(columns + c * next, square[c], WIDTH);
}

/* sums[row][column] = left[row] . right[column], over `depth` values of each; of `right` those of all columns side by side. */
TARGET INLINED void multiply_tile(const size_t rows, const size_t columns, const float *left, size_t next_left, const float *right,
                                  size_t depth, float *sums, size_t next_sum) {
    Floats sum[ROWS][COLUMNS], value[COLUMNS];
    /* Addresses are one of these and 0, 1 or 2 strides: a register for each row would be too many. */
    const float *lower = left + 3 * next_left;
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < columns; c++) sum[r][c] = (Floats){0};
    for (size_t k = 0; k < depth; k++, left++, lower++, right += columns * WIDTH) {
        UNROLLED for (size_t c = 0; c < columns; c++) value[c] = load(right + c * WIDTH, WIDTH);
        UNROLLED for (size_t r = 0; r < rows; r++) {
            const float factor = *(r < 3 ? left + r * next_left : lower + (r - 3) * next_left);
            UNROLLED for (size_t c = 0; c < columns; c++) add_product(&sum[r][c], value[c], factor);
        }
    }
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < columns; c++) store(sums + r * next_sum + c * WIDTH, sum[r][c], WIDTH);
}

typedef void Tile(const float *, size_t, const float *, size_t, float *, size_t);
/* A function each: inlined into a caller, they would have to share the registers with it. */
#define TILE(rows, columns)                                                                                              \
    TARGET static __attribute__((noinline)) void tile##rows##x##columns(                                                 \
        const float *left, size_t next_left, const float *right, size_t depth, float *sums, size_t next_sum) {           \
        multiply_tile(rows, columns, left, next_left, right, depth, sums, next_sum);                                     \
    }
#define TILES(EACH) WIDE(EACH, 1) WIDE(EACH, 2) WIDE(EACH, 3) WIDE(EACH, 4) WIDE(EACH, 5) WIDE(EACH, 6)
TILES(TILE)
#define TILE_NAME(rows, columns) tile##rows##x##columns,
static Tile *const tiles[ROWS * COLUMNS] = {TILES(TILE_NAME)};

/* What is right of a product lies in panels as wide as a tile, the last one as wide as what is left: each is read from front
   to back. Of `columns`, whole registers, this is the panel of one. */
typedef struct {
    size_t first, width;
} Panel;

static Panel panel_of(size_t column, size_t columns) {
    const size_t first = column - column % (COLUMNS * WIDTH), left = columns - first;
    return (Panel){first, left < COLUMNS * WIDTH ? left : COLUMNS * WIDTH};
}

/* The same for all columns. Panels are `high`. */
TARGET static void multiply(size_t rows, size_t columns, const float *left, size_t next_left, const float *right, size_t high,
                            size_t depth, float *sums, size_t next_sum) {
    for (size_t column = 0; column < columns; column += COLUMNS * WIDTH)
        tiles[(rows - 1) * COLUMNS + panel_of(column, columns).width / WIDTH - 1](left, next_left, right + column * high, depth,
                                                                                 sums + column, next_sum);
}

/* e to the x for x up to zero, 2 to the n times a polynomial of what is left: within 1e-7 of it, and zero below e to the -86,
   where 2 to the n is no normal float. */
INLINED float exponential_of(float x) {
    static const float to_integer = 12582912; /* from it on floats are integers, and in their low bits */
    const float power = x * 1.44269504f, moved = power + to_integer, rest = power - (moved - to_integer);
    float p = 1.53533619e-4f;
    p = fmaf(p, rest, 1.33988749e-3f);
    p = fmaf(p, rest, 9.61843716e-3f);
    p = fmaf(p, rest, 5.55033236e-2f);
    p = fmaf(p, rest, 2.40226479e-1f);
    p = fmaf(p, rest, 6.93147203e-1f);
    p = fmaf(p, rest, 1);
    const uint32_t nothing = -(uint32_t)(x < -86);
    return value_of(bits_of(p * value_of((bits_of(moved) << 23) + bits_of(1))) & ~nothing);
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
    static const int32_t places[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Floats none = (Floats){0} - INFINITY;
    Floats largest = none;
    Integers place;
    memcpy(&place, places, sizeof place);
    for (size_t i = 0; i < whole(length, LANES); i += WIDTH) {
        const size_t left = length > i ? length - i : 0;
        Floats score = load(scores + i, WIDTH);
        if (bias) score += load(bias + i, left);
        if (left < WIDTH) {
            const Integers there = place < (int32_t)left;
            score = (Floats)(((Integers)score & there) | ((Integers)none & ~there));
        }
        store(scores + i, score, WIDTH);
        largest = larger(largest, score);
    }
    return largest_of(largest);
}

/* A query's scores become their exponentials over the largest; returns those' sum. */
TARGET INLINED float exponentials(float *scores, float largest, size_t length) {
    Floats sum[LANES / WIDTH];
    float lanes[LANES] = {0};
    for (size_t i = 0; i < length; i += LANES)
        for (size_t l = 0; l < LANES; l++) lanes[l] += scores[i + l] = exponential_of(scores[i + l] - largest);
    UNROLLED for (size_t p = 0; p < LANES / WIDTH; p++) sum[p] = load(lanes + p * WIDTH, WIDTH);
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
        for (size_t channel = 0; channel < width; channel += WIDTH)
            turn(key + token * stride + channel, stride, length - token, width - channel,
                 columns + panel.first * wide + channel * panel.width + token - panel.first, panel.width);
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
        for (size_t r = 0; r < rows; r++) {
            const float *bias = attention->bias ? attention->bias + text * attention->next_bias_text + head * attention->next_bias_head +
                                                      (top + r) * attention->next_bias_query
                                                : NULL;
            largest[r] = largest_score(scores + r * next_score, bias, length);
        }
        for (size_t r = 0; r < rows; r++) factors[r] = 1 / exponentials(scores + r * next_score, largest[r], length);
        multiply(rows, wide, scores, next_score, values, length, length, sums, wide);
        for (size_t r = 0; r < rows; r++) {
            float *out = attention->context + (text * attention->next_text + (top + r) * attention->next_token) * channels + head * width;
            for (size_t channel = 0; channel < width; channel += WIDTH)
                store(out + channel, load(sums + r * wide + channel, WIDTH) * factors[r], width - channel);
        }
    }
}
