/* LinearInt8, LinearGeluInt8 and LinearNormInt8: rows are rounded, multiplied, and what follows is done to them while
   they are in the cache.

   What they multiply are the tensors that they are given, and those of a mapped weights file are read where they
   lie. */
#include "operator.h"

enum { X, WEIGHTS, SUMS, SCALES, BIAS, RESIDUAL, NORM_SCALE, NORM_SHIFT };
/* Rows are taken in blocks that stay in the second cache, a panel's weights beside them. */
enum { BLOCK_BYTES = 128 * 1024 };
/* A task is worth a thread's waking up: some microseconds. */
enum { TASK_PRODUCTS = 1024 * 1024, TASK_ROWS = 16 };

/* One run: rows in blocks, each block's panels in parts. */
typedef struct {
    Kind kind;
    const Kernels *kernels;
    Layer layer;
    const float *x;
    size_t rows, block_rows, parts;
    size_t row_bytes;
    char *rounded;
    float *y;
    const float *residual, *norm_scale, *norm_shift;
    float epsilon;
} Run;

static Status *check(const Kernel *kernel, const Tensor *in) {
    const Api *api = kernel->api;
    const Tensor *x = &in[X], *weights = &in[WEIGHTS];
    if (!x->rank || x->dims[x->rank - 1] < 1 || x->dims[x->rank - 1] > MOST_INPUTS)
        return refuse(api, "LinearInt8: x must have 1 to %d inputs", MOST_INPUTS);
    const size_t inputs = (size_t)x->dims[x->rank - 1], outputs = elements(&in[SCALES]);
    const size_t last = kernel->kind == LINEAR_NORM ? NORM_SHIFT : BIAS;
    for (size_t place = SUMS; place <= last; place++)
        if (place != RESIDUAL && (in[place].rank != 1 || !outputs || elements(&in[place]) != outputs))
            return refuse(api, "LinearInt8: sums, scales, bias and a norm's must have one value an output");
    if (weights->rank != 4 || (size_t)weights->dims[0] != panels_of(outputs) || (size_t)weights->dims[1] != groups_of(inputs) ||
        weights->dims[2] != PANEL || weights->dims[3] != GROUP)
        return refuse(api, "LinearInt8: weights for %zu inputs and %zu outputs must be packed as (%zu, %zu, %d, %d)", inputs,
                      outputs, panels_of(outputs), groups_of(inputs), PANEL, GROUP);
    if (kernel->kind != LINEAR_NORM) return NULL;
    int alike = in[RESIDUAL].rank == x->rank && (size_t)in[RESIDUAL].dims[x->rank - 1] == outputs;
    for (size_t i = 0; alike && i + 1 < x->rank; i++) alike = in[RESIDUAL].dims[i] == x->dims[i];
    return alike ? NULL : refuse(api, "LinearNormInt8: the residual must have the output's shape");
}

static size_t tiles_of(const Run *run) {
    return (panels_of(run->layer.outputs) + run->kernels->panels - 1) / run->kernels->panels;
}

static size_t rows_of(const Run *run, size_t block) {
    const size_t left = run->rows - block * run->block_rows;
    return left < run->block_rows ? left : run->block_rows;
}

static void round_rows(void *data, size_t task) {
    const Run *run = data;
    const size_t top = task * TASK_ROWS, left = run->rows - top, inputs = run->layer.inputs;
    run->kernels->round(run->x + top * inputs, left < TASK_ROWS ? left : TASK_ROWS, inputs, run->rounded + top * run->row_bytes);
}

/* Parts are as long as each other, but for a tile. */
static size_t first_panel(const Run *run, size_t part) {
    const size_t panels = panels_of(run->layer.outputs), tiles = tiles_of(run);
    const size_t first = tiles * part / run->parts * run->kernels->panels;
    return first < panels ? first : panels;
}

static void multiply_part(void *data, size_t task) {
    const Run *run = data;
    const size_t block = task / run->parts, part = task % run->parts, outputs = run->layer.outputs;
    const size_t top = block * run->block_rows, rows = rows_of(run, block);
    const size_t first = first_panel(run, part), last = first_panel(run, part + 1);
    float *y = run->y + top * outputs;
    run->kernels->multiply(run->rounded + top * run->row_bytes, rows, &run->layer, first, last, y);
    if (run->kind != LINEAR_GELU) return;
    const size_t end = last * PANEL < outputs ? last * PANEL : outputs;
    for (size_t row = 0; row < rows; row++) run->kernels->gelu(y + row * outputs + first * PANEL, end - first * PANEL);
}

static void normalize_rows(void *data, size_t task) {
    const Run *run = data;
    const size_t top = task * TASK_ROWS, end = top + TASK_ROWS, outputs = run->layer.outputs;
    for (size_t row = top; row < end && row < run->rows; row++)
        run->kernels->normalize(run->y + row * outputs, run->residual + row * outputs, run->norm_scale, run->norm_shift,
                                run->epsilon, outputs);
}

/* Each output is one task's and added up in one order, so no plan changes a bit. Parts are a power of two, which 2, 4 or 8
   threads share evenly: 8 to 14 tokens of all-mpnet-base-v2 are 4 % faster so. */
static void plan(Run *run) {
    const size_t fit = BLOCK_BYTES / run->row_bytes;
    run->block_rows = fit < run->kernels->rows ? run->kernels->rows : fit - fit % run->kernels->rows;
    if (run->block_rows > run->rows) run->block_rows = run->rows;
    const size_t products = run->block_rows * run->layer.inputs * run->layer.outputs, tiles = tiles_of(run);
    for (run->parts = 1; run->parts < tiles && products / run->parts > TASK_PRODUCTS; run->parts *= 2) continue;
    if (run->parts > tiles) run->parts = tiles;
}

Status *compute_linear(const Kernel *kernel, Context *context, const Tensor *in) {
    const Api *api = kernel->api;
    Status *status = check(kernel, in);
    if (status) return status;
    const Tensor *x = &in[X];
    const size_t inputs = (size_t)x->dims[x->rank - 1], outputs = elements(&in[SCALES]), rows = elements(x) / inputs;
    Run run = {
        .kind = kernel->kind,
        .kernels = kernel->kernels,
        .layer = {inputs, outputs, in[WEIGHTS].data, in[SUMS].data, in[SCALES].data, in[BIAS].data},
        .x = x->data,
        .rows = rows,
        .row_bytes = kernel->kernels->row_bytes(inputs),
        .epsilon = kernel->epsilon,
    };
    if (kernel->kind == LINEAR_NORM) {
        run.residual = in[RESIDUAL].data;
        run.norm_scale = in[NORM_SCALE].data;
        run.norm_shift = in[NORM_SHIFT].data;
    }
    if ((status = make_output(api, context, x, outputs, &run.y)) || !rows) return status;
    if ((status = allocate(api, kernel->allocator, rows * run.row_bytes, (void **)&run.rounded))) return status;
    plan(&run);
    const size_t blocks = (rows + run.block_rows - 1) / run.block_rows, parts_of_rows = (rows + TASK_ROWS - 1) / TASK_ROWS;
    status = each(api, context, round_rows, parts_of_rows, &run);
    if (!status) status = each(api, context, multiply_part, blocks * run.parts, &run);
    if (!status && run.kind == LINEAR_NORM) status = each(api, context, normalize_rows, parts_of_rows, &run);
    Status *second = give_back(api, kernel->allocator, run.rounded);
    if (status && second) release_status(api, second);
    return status ? status : second;
}
