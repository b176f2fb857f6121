/* Linear layers over inputs in bytes: how rows are rounded, and outputs made of their integers' sums, for any instruction
   set. Its file includes this once, or linear_tiles.h with it. Before, it says

   TARGET         the attribute of functions that use it
   WIDTH          how many outputs a register holds
   ROWS, COLUMNS  the most rows of a tile, and the registers of outputs of each
   TOGETHER       how many tiles side by side are finished at a time
   BLOCK_BYTES    of rounded rows that stay in the second cache, beside weights that each of them is multiplied with
   MOVED          how much less than it says an input is stored as
   EXCESS         how much more than it is a weight counts in add_digits

   and after, add_digits, larger_of, reaching, multiply, fits, and its Kernels with OF_BYTES. */
#ifndef PARITAS_LINEAR_BYTES_H
#define PARITAS_LINEAR_BYTES_H

#include "bytes.h"

/* The panels that a tile is wide, and the registers that a panel is wide. */
enum { PANELS = COLUMNS * WIDTH / PANEL, OF_PANEL = PANEL / WIDTH };

typedef float Floats __attribute__((vector_size(4 * WIDTH)));

/* Add products of a register of weights with a group of signed bytes. A weight may count EXCESS more than it is. */
TARGET INLINED void add_digits(Integers *sum, Integers weights, Integers digits);

static size_t row_bytes(size_t inputs) { return padded(inputs) + sizeof(Rest); }

TARGET static void round_rows(const float *x, size_t rows, size_t inputs, void *rounded) {
    for (size_t row = 0; row < rows; row++)
        round_to_bytes(x + row * inputs, inputs, (uint8_t *)rounded + row * row_bytes(inputs));
}

/* A register of so many values, zeros beyond them. */
TARGET INLINED Integers load(const void *from, size_t count) {
    Integers loaded = {0};
    if (count >= WIDTH) memcpy(&loaded, from, sizeof loaded);
    else memcpy(&loaded, from, count * sizeof(float));
    return loaded;
}

/* A group's weights, for a register of outputs of a tile. */
TARGET INLINED Integers weights_of(const int8_t *group, size_t panel_bytes, size_t column) {
    return load(group + column / OF_PANEL * panel_bytes + column % OF_PANEL * WIDTH * GROUP, WIDTH);
}

/* Outputs of `rows` rows and `columns` registers from the sums of their tiles, which second digits are missing from. */
TARGET INLINED void finish(const size_t columns, size_t rows, const uint8_t *x, size_t stride, const Layer *layer, size_t panel,
                           Integers (*sums)[ROWS * COLUMNS], float *y) {
    const size_t panel_bytes = groups_of(layer->inputs) * PANEL * GROUP, of_tile = columns < COLUMNS ? columns : COLUMNS;
    const int8_t *weights = layer->weights + panel * panel_bytes;
    const size_t left = layer->outputs - panel * PANEL;
    Integers weight_sum[TOGETHER * COLUMNS], coarse[TOGETHER * COLUMNS];
    Floats scale[TOGETHER * COLUMNS], bias[TOGETHER * COLUMNS];
    y += panel * PANEL;
    UNROLLED for (size_t c = 0; c < columns; c++) {
        const size_t at = panel * PANEL + c * WIDTH, count = left > c * WIDTH ? left - c * WIDTH : 0;
        weight_sum[c] = load(layer->sums + at, count);
        scale[c] = (Floats)load(layer->scales + at, count);
        bias[c] = (Floats)load(layer->bias + at, count);
    }
    for (size_t r = 0; r < rows; r++, x += stride, y += layer->outputs) {
        const Rest *rest = (const Rest *)(x + padded(layer->inputs));
        UNROLLED for (size_t c = 0; c < columns; c++) coarse[c] = (Integers){0} + rest->initial;
        for (uint32_t i = 0; i < rest->digits; i++) {
            const Integers digit = (Integers){0} + rest->digit[i];
            const int8_t *group = weights + rest->group[i] * PANEL * GROUP;
            UNROLLED for (size_t c = 0; c < columns; c++) add_digits(&coarse[c], weights_of(group, panel_bytes, c), digit);
        }
        UNROLLED for (size_t c = 0; c < columns; c++) {
            const size_t first = c * WIDTH, count = left > first ? left - first : 0;
            const Integers sum = sums[c / of_tile][r * of_tile + c % of_tile] - weight_sum[c] * rest->zero + coarse[c] * 256;
            const Floats output = __builtin_convertvector(sum, Floats) * rest->step * scale[c] + bias[c];
            if (left >= columns * WIDTH) memcpy(y + first, &output, sizeof output);
            else memcpy(y + first, &output, (count < WIDTH ? count : WIDTH) * sizeof *y);
        }
    }
}

TARGET static void gelu(float *x, size_t count) { gelu_each(x, count); }
TARGET static void normalize(float *y, const float *residual, const float *scale, const float *shift, float epsilon, size_t count) {
    add_and_normalize(y, residual, scale, shift, epsilon, count);
}

/* What is the same for all of them; `fits` is the file's own. */
#define OF_BYTES                                                                                                        \
    .fits = fits, .rows = ROWS, .panels = TOGETHER * PANELS, .block_bytes = BLOCK_BYTES, .row_bytes = row_bytes,        \
    .round = round_rows, .multiply = multiply, .gelu = gelu, .normalize = normalize

#endif
