/* What an instruction set has to offer: linear layers with 8-bit weights, what follows them, and attention.

   Weights lie packed in the bundle, int8, as (outputs / PANEL, inputs / GROUP, PANEL, GROUP), zeros where the
   sizes are no multiples. So a panel is read from front to back, and GROUP inputs of one output lie side by
   side, which is what dot products of bytes take. Beside them lie the sums of each output's weights: what
   inputs that are moved by a constant, to be unsigned, add to every product. */
#ifndef PARITAS_KERNELS_H
#define PARITAS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { PANEL = 16, GROUP = 4 };
/* So that an input of 9 bits, times 128, adds up within 31 bits. */
enum { MOST_INPUTS = 32768 };
/* Of a text, so that attention's integers add up within 31 bits. */
enum { MOST_TOKENS = 1 << 18 };

typedef struct {
    size_t inputs, outputs; /* before a run `inputs` is the fewest that outliers allow */
    const int8_t *weights;  /* packed */
    const int32_t *sums;    /* (outputs,) */
    const float *scales;    /* (outputs,) */
    const float *bias;      /* (outputs,) */
    /* What a few weights are beyond what the packed ones say: they are far larger than the others of their outputs. */
    size_t outliers;
    const int32_t *outlier_places; /* (outliers, 2): an input, and an output */
    const float *outlier_weights;  /* (outliers,) */
} Layer;

typedef struct {
    size_t length, heads, width; /* tokens of a text, heads, and channels of a head */
    const float *projections;    /* of each token: queries of all heads, then keys, then values */
    float *context;              /* of each token, all heads */
    /* From a token to the next, and from a text to the next, counted in tokens. */
    size_t next_token, next_text;
    /* What is added to a query's scores, (length,), and how far it is to the next; NULL where nothing is. */
    const float *bias;
    ptrdiff_t next_bias_text, next_bias_head, next_bias_query;
} Attention;

typedef struct {
    /* The memory that `attend` takes. */
    size_t (*bytes)(const Attention *attention);
    /* softmax(queries . keys + bias) . values, of one head of one text. */
    void (*attend)(const Attention *attention, size_t text, size_t head, void *memory);
} AttentionKernels;

typedef struct {
    const char *name;    /* as Linux calls it */
    int (*fits)(void);   /* whether this CPU has it; NULL where it is not compiled in */
    size_t rows, panels; /* that `multiply` takes at a time */
    size_t block_bytes;  /* of rounded rows that stay in the second cache, beside weights that each of them is multiplied with */
    /* The bytes of a row of inputs when it is rounded: a multiple of 8. */
    size_t (*row_bytes)(size_t inputs);
    /* Round rows of inputs to integers, each row in a step of its own: x = integers * step, nearly. A row with
       a NaN or an infinity gets a NaN step. */
    void (*round)(const float *x, size_t rows, size_t inputs, void *rounded);
    /* y[row][output] = (integers[row] . weights[output]) * step[row] * scales[output] + bias[output], in this
       order, for the outputs of the panels from `first` to before `last`. */
    void (*multiply)(const void *rounded, size_t rows, const Layer *layer, size_t first, size_t last, float *y);
    /* As rows.h has them. */
    void (*gelu)(float *x, size_t count);
    void (*normalize)(float *y, const float *residual, const float *scale, const float *shift, float epsilon, size_t count);
    const AttentionKernels *attention;
} Kernels;

extern const Kernels amx_int8_kernels, avx512_vnni_kernels, avx_vnni_kernels, avx2_kernels, i8mm_kernels, asimddp_kernels;

extern const AttentionKernels avx512_attention, avx2_attention, neon_attention;

static inline size_t groups_of(size_t inputs) { return (inputs + GROUP - 1) / GROUP; }
static inline size_t panels_of(size_t outputs) { return (outputs + PANEL - 1) / PANEL; }

/* Inputs that reach no further are taken for zeros: their steps have no reciprocal. */
#define SMALLEST 1e-30f

/* The largest integer of an input of which so many, times 128, add up within 31 bits. */
static inline int32_t largest_16_bit(size_t inputs) {
    const size_t fits = INT32_MAX / (128 * inputs);
    return fits < INT16_MAX ? (int32_t)fits : INT16_MAX;
}

#endif
