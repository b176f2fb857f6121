/* Products of bytes in tiles of registers, for an instruction set that adds up four products of bytes at once. Its file
   includes this once. Before, it says what linear_bytes.h wants to know, and

   HEIGHTS(EACH)  EACH(1) to EACH(ROWS): the rows of inputs that a tile may have
   AT_ONCE        how many groups of a row a register of inputs holds

   and after, add_products besides. With OWN_TILE defined it has multiply_tile instead, and no AT_ONCE. */
#include "linear_bytes.h"

/* Products of `rows` rows with `columns` registers of outputs, to `sums`. Meanwhile `ahead` is fetched, `step` a group. */
TARGET INLINED void multiply_tile(const size_t rows, const size_t columns, const uint8_t *x, size_t stride, const int8_t *weights,
                                  size_t panel_bytes, size_t groups, const int8_t *ahead, size_t step, Integers *sums);

#ifndef OWN_TILE
/* Add products of a register of weights with one of the groups that a register of inputs holds. In assembly, so that the
   sum stays in its register: compilers that choose registers themselves keep some sums in memory, at a third of the speed
   and with the same results. */
TARGET INLINED void add_products(Integers *sum, Integers weights, Integers inputs, size_t group);

/* What a tile takes of a row at a time: one group everywhere in the register, or as many groups as it holds. */
TARGET INLINED Integers inputs_at(const uint8_t *x) {
    int32_t group;
    memcpy(&group, x, sizeof group);
    return AT_ONCE > 1 ? load(x, WIDTH) : (Integers){0} + group;
}

TARGET INLINED void add_group(const size_t rows, const size_t columns, const uint8_t *x, size_t stride, const size_t group,
                              const int8_t *weights, size_t panel_bytes, Integers (*sum)[COLUMNS]) {
    Integers weight[COLUMNS];
    /* Addresses are one of these and 0, 1 or 2 strides: a register for each row would be too many. */
    const uint8_t *const base[] = {x, x + 3 * stride, x + 6 * stride, x + 9 * stride};
    UNROLLED for (size_t c = 0; c < columns; c++) weight[c] = weights_of(weights, panel_bytes, c);
    UNROLLED for (size_t r = 0; r < rows; r++) {
        const Integers input = inputs_at(base[r / 3] + r % 3 * stride);
        UNROLLED for (size_t c = 0; c < columns; c++) add_products(&sum[r][c], weight[c], input, group);
    }
}

TARGET INLINED void multiply_tile(const size_t rows, const size_t columns, const uint8_t *x, size_t stride, const int8_t *weights,
                                  size_t panel_bytes, size_t groups, const int8_t *ahead, size_t step, Integers *sums) {
    Integers sum[ROWS][COLUMNS];
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < columns; c++) sum[r][c] = (Integers){0};
    for (; groups >= AT_ONCE; groups -= AT_ONCE, x += AT_ONCE * GROUP)
        UNROLLED for (size_t group = 0; group < AT_ONCE; group++, weights += PANEL * GROUP, ahead += step) {
            UNROLLED for (size_t p = 0; p < columns / OF_PANEL; p++) __builtin_prefetch(ahead + p * PANEL * GROUP, 0, 2);
            add_group(rows, columns, x, stride, group, weights, panel_bytes, sum);
        }
    for (; AT_ONCE > 1 && groups; groups--, x += GROUP, weights += PANEL * GROUP)
        add_group(rows, columns, x, stride, 0, weights, panel_bytes, sum);
    UNROLLED for (size_t r = 0; r < rows; r++)
        UNROLLED for (size_t c = 0; c < columns; c++) sums[r * columns + c] = sum[r][c];
}
#endif

typedef void Tile(const uint8_t *, size_t, const int8_t *, size_t, size_t, const int8_t *, size_t, Integers *);
/* A function each: inlined into a caller, they would have to share the registers with it. */
#define TILE(name, rows, columns)                                                                                       \
    TARGET static __attribute__((noinline)) void name##rows(const uint8_t *x, size_t stride, const int8_t *weights,     \
                                                            size_t panel_bytes, size_t groups, const int8_t *ahead,     \
                                                            size_t step, Integers *sums) {                              \
        multiply_tile(rows, columns, x, stride, weights, panel_bytes, groups, ahead, step, sums);                       \
    }
#define NARROW(rows) TILE(narrow, rows, OF_PANEL)
#define WIDE(rows) TILE(wide, rows, COLUMNS)
HEIGHTS(NARROW)
HEIGHTS(WIDE)
#define NARROW_NAME(rows) narrow##rows,
#define WIDE_NAME(rows) wide##rows,
static Tile *const tiles[2][ROWS] = {{HEIGHTS(NARROW_NAME)}, {HEIGHTS(WIDE_NAME)}};

TARGET static void multiply(const void *rounded, size_t rows, const Layer *layer, size_t first, size_t last, float *y) {
    const size_t groups = groups_of(layer->inputs), panel_bytes = groups * PANEL * GROUP;
    const size_t stride = row_bytes(layer->inputs), blocks = (rows + ROWS - 1) / ROWS;
    Integers sums[TOGETHER][ROWS * COLUMNS];
    for (size_t panel = first, taken; panel < last; panel += taken) {
        /* Several tiles, one, or a panel. Of several the outputs are written side by side, and a row's digits are read once: with
           two, encoders are 1 to 3 % faster in bulk on a Zen 4. */
        const size_t left = last - panel, of_tile = left >= PANELS ? PANELS : 1;
        taken = left >= TOGETHER * PANELS ? TOGETHER * PANELS : of_tile;
        const int8_t *weights = layer->weights + panel * panel_bytes;
        for (size_t block = 0; block < blocks; block++) {
            /* Of nearly equal heights: 8 rows as 4 and 4 and not as 6 and 2. */
            const size_t top = rows * block / blocks, high = rows * (block + 1) / blocks - top;
            const uint8_t *x = (const uint8_t *)rounded + top * stride;
            float *out = y + top * layer->outputs;
            /* Meanwhile each block fetches its share of the next panels from memory. */
            const size_t step = of_tile * PANEL * GROUP / blocks;
            for (size_t p = 0; p < taken; p += of_tile) {
                const int8_t *of_panel = weights + p * panel_bytes;
                tiles[of_tile == PANELS][high - 1](x, stride, of_panel, panel_bytes, groups,
                                                   of_panel + taken * panel_bytes + block * step * groups, step, sums[p / of_tile]);
            }
            if (taken == TOGETHER * PANELS) finish(TOGETHER * COLUMNS, high, x, stride, layer, panel, sums, out);
            else if (taken == PANELS) finish(COLUMNS, high, x, stride, layer, panel, sums, out);
            else finish(OF_PANEL, high, x, stride, layer, panel, sums, out);
        }
    }
}
