/* What attention is made of, for any registers: tiles of products, and exponentials. An instruction set's file includes one of
   its forms once, attention_int16.h or attention_fp32.h, and the form this. Before, the file says

   TARGET           the attribute of functions that use it
   WIDTH            how many floats a register holds
   COLUMNS          the most registers of keys, or of channels, of a tile
   WIDE(EACH, rows) EACH(rows, 1) to EACH(rows, COLUMNS)

   and after, what is declared and not defined here, and its AttentionKernels. */
#include "kernels.h"
#include "rows.h"

#include <string.h>

/* The most queries of a tile. */
enum { ROWS = 6 };

typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));
typedef float Floats __attribute__((vector_size(4 * WIDTH)));
/* What a lane multiplies, and adds up: the form's TERM. */
typedef TERM Term;
typedef TERM Terms __attribute__((vector_size(4 * WIDTH)));

/* sum += value * factor. In assembly, so that the sum stays in its register, as in linear_tiles.h. */
TARGET INLINED void add_product(Terms *sum, Terms value, Term factor);

/* a * b + c, rounded once. */
TARGET INLINED Floats fused(Floats a, Floats b, Floats c);

/* Of each two the larger one; where `b` is no number, `a`. */
TARGET INLINED Floats larger(Floats a, Floats b);

/* Fewer values than a register holds, zeros beyond them. */
TARGET INLINED Floats load_first(const float *from, size_t count);

/* The first halves of both, by turns, and the second halves. */
TARGET INLINED void interleave(Floats a, Floats b, Floats *first, Floats *second);

static size_t whole(size_t count, size_t of) { return (count + of - 1) / of * of; }

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

TARGET INLINED Terms load_terms(const Term *from) {
    Terms loaded;
    memcpy(&loaded, from, sizeof loaded);
    return loaded;
}

TARGET INLINED void store_terms(Term *to, Terms terms) { memcpy(to, &terms, sizeof terms); }

TARGET INLINED Floats all(float value) { return (Floats){0} + value; }

/* square[c][r] = square[r][c]. Interleaving a half with the other moves one bit of a value's place from its row to its
   column, and one back. */
TARGET INLINED void turn(Floats square[WIDTH]) {
    Floats turned[WIDTH];
    UNROLLED for (size_t moved = 1; moved < WIDTH; moved *= 2) {
        UNROLLED for (size_t r = 0; r < WIDTH / 2; r++)
            interleave(square[r], square[r + WIDTH / 2], &turned[2 * r], &turned[2 * r + 1]);
        UNROLLED for (size_t r = 0; r < WIDTH; r++) square[r] = turned[r];
    }
}

/* sums[row][column] = left[row] . right[column], over `depth` terms of each; of `right` those of all columns side by side. */
TARGET INLINED void multiply_tile(const size_t rows, const size_t columns, const Term *left, size_t next_left, const Term *right,
                                  size_t depth, Term *sums, size_t next_sum) {
    Terms sum[ROWS][COLUMNS], value[COLUMNS];
    /* Addresses are one of these and 0, 1 or 2 strides: a register for each row would be too many. */
    const Term *lower = left + 3 * next_left;
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < columns; c++) sum[r][c] = (Terms){0};
    for (size_t k = 0; k < depth; k++, left++, lower++, right += columns * WIDTH) {
        UNROLLED for (size_t c = 0; c < columns; c++) value[c] = load_terms(right + c * WIDTH);
        UNROLLED for (size_t r = 0; r < rows; r++) {
            const Term factor = *(r < 3 ? left + r * next_left : lower + (r - 3) * next_left);
            UNROLLED for (size_t c = 0; c < columns; c++) add_product(&sum[r][c], value[c], factor);
        }
    }
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < columns; c++) store_terms(sums + r * next_sum + c * WIDTH, sum[r][c]);
}

typedef void Tile(const Term *, size_t, const Term *, size_t, Term *, size_t);
/* A function each: inlined into a caller, they would have to share the registers with it. */
#define TILE(rows, columns)                                                                                              \
    TARGET static __attribute__((noinline)) void tile##rows##x##columns(                                                 \
        const Term *left, size_t next_left, const Term *right, size_t depth, Term *sums, size_t next_sum) {              \
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
TARGET static void multiply(size_t rows, size_t columns, const Term *left, size_t next_left, const Term *right, size_t high,
                            size_t depth, Term *sums, size_t next_sum) {
    for (size_t column = 0; column < columns; column += COLUMNS * WIDTH)
        tiles[(rows - 1) * COLUMNS + panel_of(column, columns).width / WIDTH - 1](left, next_left, right + column * high, depth,
                                                                                 sums + column, next_sum);
}

/* From it on floats are integers, and in their low bits. */
static const float to_integer = 12582912;

/* e to the x for x up to zero, 2 to the n times a polynomial of what is left: within 3e-6 of it, and zero below e to the -86,
   where 2 to the n is no normal float. Coefficients by least squares with weights that even out the errors. */
TARGET INLINED Floats exponential_of(Floats x) {
    const Floats power = x * 1.44269504f, moved = power + to_integer, rest = power - (moved - to_integer);
    Floats p = fused(all(9.57007986e-3f), rest, all(5.59178367e-2f));
    p = fused(p, rest, all(0.240247443f));
    p = fused(p, rest, all(0.693121791f));
    p = fused(p, rest, all(0.999999285f));
    const Floats scaled = p * (Floats)(((Bits)moved << 23) + bits_of(1));
    return (Floats)((Integers)scaled & ~(Integers)(x < -86.0f));
}

/* Those of the first `left` lanes, minus infinity beyond them. */
TARGET INLINED Floats only_first(Floats scores, size_t left) {
    static const int32_t places[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Integers place;
    memcpy(&place, places, sizeof place);
    const Integers there = place < (int32_t)left;
    return (Floats)(((Integers)scores & there) | ((Integers)all(-INFINITY) & ~there));
}

/* What is added to the scores of a query of a head; NULL where nothing is. */
static const float *bias_of(const Attention *attention, size_t text, size_t head, size_t query) {
    if (!attention->bias) return NULL;
    return attention->bias + (ptrdiff_t)text * attention->next_bias_text + (ptrdiff_t)head * attention->next_bias_head +
           (ptrdiff_t)query * attention->next_bias_query;
}

/* Where a query's context of a head goes. */
static float *context_of(const Attention *attention, size_t text, size_t head, size_t query) {
    const size_t token = text * attention->next_text + query * attention->next_token;
    return attention->context + (token * attention->heads + head) * attention->width;
}
