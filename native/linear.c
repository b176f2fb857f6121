/* LinearInt8, LinearGeluInt8 and LinearNormInt8: rows are rounded, multiplied, and what follows is done to them while
   they are in the cache.

   Weights are the tensors that the graph has, and those of a mapped weights file are read where they lie. */
#include "operator.h"

enum { X, WEIGHTS, SUMS, SCALES, BIAS, RESIDUAL, NORM_SCALE, NORM_SHIFT }; /* and outliers' places and weights */
/* A task is worth a thread's waking up: some microseconds. */
enum { TASK_PRODUCTS = 1024 * 1024, TASK_ROWS = 8 };

/* One run: rows in blocks, each block's panels in parts. */
typedef struct {
    const Kernel *kernel;
    const Kernels *kernels;
    Layer layer;
    const float *x, *residual;
    size_t rows, block_rows, parts;
    size_t row_bytes;
    char *rounded;
    float *apart; /* of each row the inputs of outliers */
    float *y;
} Run;

/* Read the weights that stand apart, where the node says that there are some. */
static Status *read_outliers(const Api *api, const void *info, size_t place, Layer *layer) {
    int64_t count = 0;
    Tensor places, weights;
    Status *status = int_attribute(api, info, "outliers", &count);
    if (status) release_status(api, status); /* of a former bundle */
    if (status || !count) return NULL;
    if ((status = read_constant(api, info, place, &places)) || (status = read_constant(api, info, place + 1, &weights))) return status;
    if (places.rank != 2 || places.dims[0] != count || places.dims[1] != 2 || weights.rank != 1 || weights.dims[0] != count)
        return refuse(api, "outliers must have an input, an output and a weight each");
    layer->outliers = (size_t)count;
    layer->outlier_places = places.data;
    layer->outlier_weights = weights.data;
    for (size_t i = 0; i < layer->outliers; i++) {
        const int32_t *at = layer->outlier_places + 2 * i;
        if (at[0] < 0 || at[1] < 0 || (size_t)at[1] >= layer->outputs) return refuse(api, "an outlier is of no input or of no output");
        if ((size_t)at[0] >= layer->inputs) layer->inputs = (size_t)at[0] + 1;
    }
    return NULL;
}

/* Weights and what belongs to them are read here, once. In each run of all-mpnet-base-v2's 60 nodes that took 0.15 to 0.2 ms:
   85 MB of weights pass through the caches in between. */
Status *prepare_linear(Kernel *kernel, const void *info) {
    const Api *api = kernel->api;
    const size_t last = kernel->kind == LINEAR_NORM ? NORM_SHIFT : BIAS;
    Tensor in[NORM_SHIFT + 1];
    Status *status;
    for (size_t place = WEIGHTS; place <= last; place++)
        if (place != RESIDUAL && (status = read_constant(api, info, place, &in[place]))) return status;
    const Tensor *weights = &in[WEIGHTS];
    const size_t outputs = elements(&in[SCALES]);
    for (size_t place = SUMS; place <= last; place++)
        if (place != RESIDUAL && (in[place].rank != 1 || !outputs || elements(&in[place]) != outputs))
            return refuse(api, "sums, scales, bias and a norm's must have one value an output");
    if (weights->rank != 4 || (size_t)weights->dims[0] != panels_of(outputs) || weights->dims[1] < 1 || weights->dims[2] != PANEL ||
        weights->dims[3] != GROUP)
        return refuse(api, "weights for %zu outputs must be packed as (%zu, groups, %d, %d)", outputs, panels_of(outputs), PANEL,
                      GROUP);
    kernel->layer = (Layer){
        .outputs = outputs, .weights = weights->data, .sums = in[SUMS].data, .scales = in[SCALES].data, .bias = in[BIAS].data};
    kernel->groups = (size_t)weights->dims[1];
    if ((status = read_outliers(api, info, last + 1, &kernel->layer)) || kernel->kind != LINEAR_NORM) return status;
    kernel->norm_scale = in[NORM_SCALE].data;
    kernel->norm_shift = in[NORM_SHIFT].data;
    return float_attribute(api, info, "epsilon", &kernel->epsilon);
}

static Status *check(const Kernel *kernel, const Tensor *x, const Tensor *residual) {
    const Api *api = kernel->api;
    const size_t outputs = kernel->layer.outputs, inputs = x->rank && x->dims[x->rank - 1] > 0 ? (size_t)x->dims[x->rank - 1] : 0;
    if (!inputs || inputs > MOST_INPUTS) return refuse(api, "LinearInt8: x must have 1 to %d inputs", MOST_INPUTS);
    if (groups_of(inputs) != kernel->groups)
        return refuse(api, "LinearInt8: weights for %zu inputs must have %zu groups of %d, and have %zu", inputs, groups_of(inputs), GROUP,
                      kernel->groups);
    if (inputs < kernel->layer.inputs) return refuse(api, "LinearInt8: an outlier is of input %zu of %zu", kernel->layer.inputs, inputs);
    if (kernel->kind != LINEAR_NORM) return NULL;
    int alike = residual->rank == x->rank && (size_t)residual->dims[x->rank - 1] == outputs;
    for (size_t i = 0; alike && i + 1 < x->rank; i++) alike = residual->dims[i] == x->dims[i];
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
    const Layer *layer = &run->layer;
    const size_t top = task * TASK_ROWS, left = run->rows - top, rows = left < TASK_ROWS ? left : TASK_ROWS;
    run->kernels->round(run->x + top * layer->inputs, rows, layer->inputs, run->rounded + top * run->row_bytes);
    for (size_t row = top; row < top + rows; row++)
        for (size_t i = 0; i < layer->outliers; i++)
            run->apart[row * layer->outliers + i] = run->x[row * layer->inputs + (size_t)layer->outlier_places[2 * i]];
}

/* Outputs from `first` to before `end` get what outliers add to them, in the outliers' order. */
static void add_outliers(const Run *run, size_t top, size_t rows, size_t first, size_t end) {
    const Layer *layer = &run->layer;
    for (size_t i = 0; i < layer->outliers; i++) {
        const size_t output = (size_t)layer->outlier_places[2 * i + 1];
        if (output < first || output >= end) continue;
        for (size_t row = top; row < top + rows; row++)
            run->y[row * layer->outputs + output] += run->apart[row * layer->outliers + i] * layer->outlier_weights[i];
    }
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
    const size_t end = last * PANEL < outputs ? last * PANEL : outputs;
    add_outliers(run, top, rows, first * PANEL, end);
    if (run->kernel->kind != LINEAR_GELU) return;
    for (size_t row = 0; row < rows; row++) run->kernels->gelu(y + row * outputs + first * PANEL, end - first * PANEL);
}

static void normalize_rows(void *data, size_t task) {
    const Run *run = data;
    const size_t top = task * TASK_ROWS, end = top + TASK_ROWS, outputs = run->layer.outputs;
    for (size_t row = top; row < end && row < run->rows; row++)
        run->kernels->normalize(run->y + row * outputs, run->residual + row * outputs, run->kernel->norm_scale,
                                run->kernel->norm_shift, run->kernel->epsilon, outputs);
}

/* Each output is one task's and added up in one order, so no plan changes a bit. Parts are a power of two, which 2, 4 or 8
   threads share evenly: 8 to 14 tokens of all-mpnet-base-v2 are 4 % faster so. */
static void plan(Run *run) {
    const size_t fit = run->kernels->block_bytes / run->row_bytes;
    run->block_rows = fit < run->kernels->rows ? run->kernels->rows : fit - fit % run->kernels->rows;
    if (run->block_rows > run->rows) run->block_rows = run->rows;
    const size_t products = run->block_rows * run->layer.inputs * run->layer.outputs, tiles = tiles_of(run);
    for (run->parts = 1; run->parts < tiles && products / run->parts > TASK_PRODUCTS; run->parts *= 2) continue;
    if (run->parts > tiles) run->parts = tiles;
}

Status *compute_linear(const Kernel *kernel, Context *context) {
    const Api *api = kernel->api;
    Tensor x, residual = {0};
    Status *status = read_input(api, context, X, &x);
    if (!status && kernel->kind == LINEAR_NORM) status = read_input(api, context, RESIDUAL, &residual);
    if (status || (status = check(kernel, &x, &residual))) return status;
    const size_t inputs = (size_t)x.dims[x.rank - 1], rows = elements(&x) / inputs;
    Run run = {
        .kernel = kernel,
        .kernels = kernel->kernels,
        .layer = kernel->layer,
        .x = x.data,
        .residual = residual.data,
        .rows = rows,
        .row_bytes = kernel->kernels->row_bytes(inputs),
    };
    run.layer.inputs = inputs;
    if ((status = make_output(api, context, &x, run.layer.outputs, &run.y)) || !rows) return status;
    Scratch scratch;
    if ((status = open_scratch(kernel, rows * (run.row_bytes + run.layer.outliers * sizeof *run.apart), &scratch))) return status;
    run.rounded = scratch.memory;
    run.apart = (float *)(run.rounded + rows * run.row_bytes);
    plan(&run);
    const size_t blocks = (rows + run.block_rows - 1) / run.block_rows, parts_of_rows = (rows + TASK_ROWS - 1) / TASK_ROWS;
    status = each(api, context, round_rows, parts_of_rows, &run);
    if (!status) status = each(api, context, multiply_part, blocks * run.parts, &run);
    if (!status && kernel->kind == LINEAR_NORM) status = each(api, context, normalize_rows, parts_of_rows, &run);
    Status *second = close_scratch(kernel, &scratch);
    if (status && second) release_status(api, second);
    return status ? status : second;
}
