/* The operator LinearInt8 of the domain "paritas", and how onnxruntime gets to it.

   In a bundle's graph LinearInt8 is a function whose body is the layer in FP32 (export/graph/linear_int8.py).
   onnxruntime takes this kernel where the library is registered, and the body where it is not. They are apart
   by what rounding the inputs loses.

   A kernel keeps nothing between runs. What it multiplies are the tensors that it is given, and those of a
   mapped weights file are read where they lie. */
#include "linear.h"
#include "onnxruntime_abi.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { X, WEIGHTS, SUMS, SCALES, BIAS, INPUTS };
enum { MAX_DIMS = 8 };
/* So that an input of 9 bits, times 127, adds up within 31 bits. */
enum { MAX_INPUTS = 32768 };
/* Rows are taken in blocks that stay in the second cache, a panel's weights beside them. */
enum { BLOCK_BYTES = 128 * 1024 };
/* A task is worth a thread's waking up: some 10 microseconds. */
enum { TASK_PRODUCTS = 256 * 1024 };

/* The kernels for this CPU, the best first. */
static const Kernels *fitting(void) {
    if (avx512_vnni_kernels.fits()) return &avx512_vnni_kernels;
    return avx2_kernels.fits() ? &avx2_kernels : NULL;
}

EXPORTED const char *paritas_kernels(void) {
    const Kernels *kernels = fitting();
    return kernels ? kernels->name : NULL;
}

typedef struct {
    const Api *api;
    Allocator *allocator;
    const Kernels *kernels;
} Kernel;

typedef struct {
    void *data;
    int64_t dims[MAX_DIMS];
    size_t rank;
} Tensor;

static Status *read_input(const Api *api, const Context *context, size_t place, Tensor *tensor) {
    const Value *value;
    Shape *shape;
    Status *status = get_input(api, context, place, &value);
    if (status || (status = open_shape(api, value, &shape))) return status;
    status = count_dims(api, shape, &tensor->rank);
    if (!status && tensor->rank > MAX_DIMS) status = create_status(api, INVALID_ARGUMENT, "LinearInt8: more than 8 dimensions");
    if (!status) status = read_dims(api, shape, tensor->dims, tensor->rank);
    release_shape(api, shape);
    return status ? status : tensor_data(api, value, &tensor->data);
}

static size_t elements(const Tensor *tensor) {
    size_t count = 1;
    for (size_t i = 0; i < tensor->rank; i++) count *= (size_t)tensor->dims[i];
    return count;
}

static Status *check(const Api *api, const Tensor *in) {
    const Tensor *x = &in[X], *weights = &in[WEIGHTS];
    char text[256];
    if (!x->rank || x->dims[x->rank - 1] < 1 || x->dims[x->rank - 1] > MAX_INPUTS)
        return create_status(api, INVALID_ARGUMENT, "LinearInt8: x must have 1 to 32,768 inputs");
    const size_t inputs = (size_t)x->dims[x->rank - 1], outputs = elements(&in[SCALES]);
    for (size_t place = SUMS; place <= BIAS; place++)
        if (in[place].rank != 1 || !outputs || elements(&in[place]) != outputs)
            return create_status(api, INVALID_ARGUMENT, "LinearInt8: sums, scales and bias must have one value an output");
    if (weights->rank == 4 && (size_t)weights->dims[0] == panels_of(outputs) && (size_t)weights->dims[1] == groups_of(inputs) &&
        weights->dims[2] == PANEL && weights->dims[3] == GROUP)
        return NULL;
    snprintf(text, sizeof text, "LinearInt8: weights for %zu inputs and %zu outputs must be packed as (%zu, %zu, %d, %d)",
             inputs, outputs, panels_of(outputs), groups_of(inputs), PANEL, GROUP);
    return create_status(api, INVALID_ARGUMENT, text);
}

/* One run: rows in blocks, each block's panels in parts. */
typedef struct {
    const Kernels *kernels;
    Layer layer;
    const float *x;
    size_t rows, block_rows, parts, part_panels;
    size_t row_bytes;
    char *rounded;
    float *y;
} Run;

static size_t blocks_of(const Run *run) { return (run->rows + run->block_rows - 1) / run->block_rows; }

static size_t rows_of(const Run *run, size_t block) {
    const size_t left = run->rows - block * run->block_rows;
    return left < run->block_rows ? left : run->block_rows;
}

static void round_block(void *data, size_t block) {
    const Run *run = data;
    const size_t top = block * run->block_rows, inputs = run->layer.inputs;
    run->kernels->round(run->x + top * inputs, rows_of(run, block), inputs, run->rounded + top * run->row_bytes);
}

static void multiply_part(void *data, size_t task) {
    const Run *run = data;
    const size_t block = task / run->parts, part = task % run->parts;
    const size_t top = block * run->block_rows, panels = panels_of(run->layer.outputs);
    const size_t first = part * run->part_panels, last = first + run->part_panels;
    run->kernels->multiply(run->rounded + top * run->row_bytes, rows_of(run, block), &run->layer, first, last < panels ? last : panels,
                           run->y + top * run->layer.outputs);
}

/* By the size of the run alone, never by the threads: each output is one task's, added up in one order. */
static void plan(Run *run) {
    const size_t fit = BLOCK_BYTES / run->row_bytes, panels = panels_of(run->layer.outputs);
    run->block_rows = fit < run->kernels->rows ? run->kernels->rows : fit - fit % run->kernels->rows;
    if (run->block_rows > run->rows) run->block_rows = run->rows;
    const size_t at_once = run->block_rows * run->layer.inputs * PANEL * run->kernels->panels;
    run->part_panels = run->kernels->panels * (at_once > TASK_PRODUCTS ? 1 : TASK_PRODUCTS / at_once);
    run->parts = (panels + run->part_panels - 1) / run->part_panels;
}

static Status *each(const Api *api, Context *context, void (*task)(void *, size_t), size_t count, Run *run) {
    if (count > 1) return parallel_for(api, context, task, count, run);
    task(run, 0);
    return NULL;
}

static Status *multiply(const Kernel *kernel, Context *context, const Tensor *in, float *y) {
    const Api *api = kernel->api;
    const Tensor *x = &in[X];
    const size_t inputs = (size_t)x->dims[x->rank - 1], outputs = elements(&in[SCALES]), rows = elements(x) / inputs;
    Run run = {
        .kernels = kernel->kernels,
        .layer = {inputs, outputs, in[WEIGHTS].data, in[SUMS].data, in[SCALES].data, in[BIAS].data},
        .x = x->data,
        .rows = rows,
        .row_bytes = kernel->kernels->row_bytes(inputs),
        .y = y,
    };
    Status *status = allocate(api, kernel->allocator, rows * run.row_bytes, (void **)&run.rounded);
    if (status) return status;
    plan(&run);
    status = each(api, context, round_block, blocks_of(&run), &run);
    if (!status) status = each(api, context, multiply_part, blocks_of(&run) * run.parts, &run);
    Status *second = give_back(api, kernel->allocator, run.rounded);
    if (status && second) release_status(api, second);
    return status ? status : second;
}

static Status *compute(void *data, Context *context) {
    const Kernel *kernel = data;
    const Api *api = kernel->api;
    Tensor in[INPUTS];
    Status *status;
    Value *value;
    void *y;
    for (size_t place = 0; place < INPUTS; place++)
        if ((status = read_input(api, context, place, &in[place]))) return status;
    if ((status = check(api, in))) return status;
    int64_t dims[MAX_DIMS];
    for (size_t i = 0; i < in[X].rank; i++) dims[i] = in[X].dims[i];
    dims[in[X].rank - 1] = (int64_t)elements(&in[SCALES]);
    if ((status = get_output(api, context, 0, dims, in[X].rank, &value)) || (status = tensor_data(api, value, &y))) return status;
    return elements(&in[X]) ? multiply(kernel, context, in, y) : NULL;
}

static Status *create(const Operator *operator, const Api *api, const void *info, void **kernel) {
    (void)operator;
    Kernel *made = malloc(sizeof *made);
    if (!made) return create_status(api, INVALID_ARGUMENT, "LinearInt8: no memory");
    *made = (Kernel){.api = api, .kernels = fitting()};
    Status *status = get_allocator(api, info, &made->allocator);
    if (status) free(made);
    else *kernel = made;
    return status;
}

static void destroy(void *data) {
    Kernel *kernel = data;
    release_allocator(kernel->api, kernel->allocator);
    free(kernel);
}

static const char *name(const Operator *operator) { (void)operator; return "LinearInt8"; }
static const char *provider(const Operator *operator) { (void)operator; return "CPUExecutionProvider"; }
static size_t inputs_of(const Operator *operator) { (void)operator; return INPUTS; }
static size_t one_output(const Operator *operator) { (void)operator; return 1; }
static int one(const Operator *operator) { (void)operator; return 1; }
static int any_version(const Operator *operator) { (void)operator; return INT32_MAX; }
static int required(const Operator *operator, size_t place) { (void)operator; (void)place; return 0; }
static int output_type(const Operator *operator, size_t place) { (void)operator; (void)place; return FLOAT; }
static int input_type(const Operator *operator, size_t place) {
    (void)operator;
    return place == WEIGHTS ? INT8 : place == SUMS ? INT32 : FLOAT;
}

static const Operator linear_int8 = {
    .version = API_VERSION,
    .name = name,
    .provider = provider,
    .input_type = input_type,
    .inputs = inputs_of,
    .output_type = output_type,
    .outputs = one_output,
    .destroy = destroy,
    .input_kind = required,
    .output_kind = required,
    .input_memory = required,
    .least_inputs = one,
    .inputs_alike = one,
    .least_outputs = one,
    .outputs_alike = one,
    .create = create,
    .compute = compute,
    .since_version = one,
    .until_version = any_version,
};

/* What onnxruntime calls for each SessionOptions that the library is registered with. */
EXPORTED Status *RegisterCustomOps(void *options, const ApiBase *base) {
    static _Atomic(void *) domain; /* of the process: options only refer to it */
    const Api *api = base->api(API_VERSION);
    if (!api || !fitting()) return NULL;
    void *known = atomic_load(&domain), *made;
    if (!known) {
        Status *status = create_domain(api, "paritas", &made);
        if (status || (status = add_operator(api, made, &linear_int8))) return status;
        /* Where another thread was first, its domain serves both, and a few bytes are lost. */
        if (atomic_compare_exchange_strong(&domain, &known, made)) known = made;
    }
    return add_domain(api, options, known);
}
