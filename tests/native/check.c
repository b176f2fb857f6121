/* The operators under sanitizers: a small stand-in for onnxruntime runs it over sizes around its tiles.

   Every tensor is memory of its own and exactly as large as its shape says, so that what is read or written beyond
   it is found. Outputs are held against products in 64 bits. Prints how many shapes it went through. */
#include "kernels.h"
#include "onnxruntime_abi.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern Status *RegisterCustomOps(void *options, const ApiBase *base);

struct Value {
    void *data;
    int64_t dims[9];
    size_t rank;
};
struct Context {
    Value *in[10], out;
};

static const Operator *registered[6];
static size_t count_registered;
static int64_t heads = 1, sequence_axis = 1, outliers = 0;
static long allocated;

static void *exactly(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) abort();
    return memory;
}
static Status *fail(int code, const char *text) {
    (void)code;
    return (Status *)strcpy(exactly(strlen(text) + 1), text);
}
static Status *make_domain(const char *name, void **domain) { *domain = (void *)name; return NULL; }
static Status *keep_operator(void *domain, const Operator *operator) { (void)domain; registered[count_registered++] = operator; return NULL; }
static Status *keep_domain(void *options, void *domain) { (void)options; (void)domain; return NULL; }
static Status *data_of(const Value *value, void **data) { *data = value->data; return NULL; }
static Status *rank_of(const Shape *shape, size_t *count) { *count = ((const Value *)shape)->rank; return NULL; }
static Status *dims_of(const Shape *shape, int64_t *dims, size_t count) {
    memcpy(dims, ((const Value *)shape)->dims, count * sizeof *dims);
    return NULL;
}
static Status *shape_of(const Value *value, Shape **shape) { *shape = (Shape *)value; return NULL; }
static Status *take(Allocator *allocator, size_t bytes, void **memory) {
    (void)allocator;
    allocated++;
    *memory = exactly(bytes);
    return NULL;
}
static Status *put_back(Allocator *allocator, void *memory) { (void)allocator; allocated--; free(memory); return NULL; }
static Status *input(const Context *context, size_t place, const Value **value) { *value = context->in[place]; return NULL; }
static Status *output(Context *context, size_t place, const int64_t *dims, size_t count, Value **value) {
    (void)place;
    size_t elements = 1;
    for (size_t i = 0; i < count; i++) elements *= (size_t)(context->out.dims[i] = dims[i]);
    context->out.rank = count;
    context->out.data = exactly(elements * sizeof(float));
    *value = &context->out;
    return NULL;
}
static Status *constant_of(const void *info, size_t place, int *constant, const Value **value) {
    *value = ((const Context *)info)->in[place];
    *constant = 1;
    return NULL;
}
static Status *float_of(const void *info, const char *name, float *value) { (void)info; (void)name; *value = 1e-5f; return NULL; }
static Status *int_of(const void *info, const char *name, int64_t *value) {
    (void)info;
    *value = !strcmp(name, "heads") ? heads : !strcmp(name, "outliers") ? outliers : sequence_axis;
    return NULL;
}
static void nothing(void *unused) { (void)unused; }
static Status *backwards(const Context *context, void (*task)(void *, size_t), size_t count, size_t batches, void *data) {
    (void)context;
    (void)batches;
    while (count) task(data, --count);
    return NULL;
}
static Status *allocator_of(const void *info, int memory, Allocator **allocator) {
    (void)info;
    (void)memory;
    *allocator = NULL;
    return NULL;
}

static Api table;
static const Api *api_of(uint32_t version) { return version == API_VERSION ? &table : NULL; }
static const Api *too_old(uint32_t version) { (void)version; return NULL; }
static const char *version(void) { return "0"; }

static uint32_t state = 1;
static uint32_t any(void) { return state = state * 1664525u + 1013904223u; }
static float between(float low, float high) { return low + (high - low) * (float)(any() >> 8) / 16777216.0f; }

static Value tensor(size_t element, size_t rank, const int64_t *dims) {
    Value value = {.rank = rank};
    size_t elements = 1;
    for (size_t i = 0; i < rank; i++) elements *= (size_t)(value.dims[i] = dims[i]);
    value.data = exactly(elements * element);
    return value;
}

/* The longest that any kernels may take: the largest magnitude in their most steps, or with the four largest apart the
   others in 254. */
static double step_of(const float *x, size_t inputs) {
    double largest[5] = {0};
    for (size_t k = 0; k < inputs; k++) {
        double value = fabs(x[k]);
        for (int i = 0; i < 5; i++)
            if (value > largest[i]) {
                const double smaller = largest[i];
                largest[i] = value;
                value = smaller;
            }
    }
    return fmax(fmax(largest[0] / largest_16_bit(inputs), largest[0] / 65000), 2 * largest[4] / 254);
}

/* A node's kernel, from its making to its end. */
static void compute(const Operator *operator, Context *context) {
    void *kernel;
    Status *status = operator->create(operator, &table, context, &kernel);
    if (!status) status = operator->compute(kernel, context);
    if (status) {
        puts((const char *)status);
        exit(1);
    }
    operator->destroy(kernel);
}

/* A layer alone against its products, and with GELU and with a norm, which have to be of them: GELU between 0 and the product,
   or nearly; rows with a mean of 0. */
static void check(size_t rows, size_t inputs, size_t outputs) {
    const size_t panels = panels_of(outputs), groups = groups_of(inputs);
    Value x = tensor(4, 2, (int64_t[]){(int64_t)rows, (int64_t)inputs});
    Value weights = tensor(1, 4, (int64_t[]){(int64_t)panels, (int64_t)groups, PANEL, GROUP});
    Value scales = tensor(4, 1, (int64_t[]){(int64_t)outputs}), bias = tensor(4, 1, (int64_t[]){(int64_t)outputs});
    Value sums = tensor(4, 1, (int64_t[]){(int64_t)outputs});
    Value places = tensor(4, 2, (int64_t[]){outliers, 2}), apart = tensor(4, 1, (int64_t[]){outliers});
    Context context = {.in = {&x, &weights, &sums, &scales, &bias, &places, &apart}};
    int32_t *at = places.data;
    for (size_t i = 0; i < (size_t)outliers; i++) {
        at[2 * i] = (int32_t)(any() % inputs), at[2 * i + 1] = (int32_t)(any() % outputs);
        ((float *)apart.data)[i] = between(-3, 3);
    }
    float *values = x.data, *steps = scales.data, *shifts = bias.data;
    int8_t *packed = weights.data;
    int32_t *added = sums.data;
    for (size_t i = 0; i < rows * inputs; i++) values[i] = between(-3, 3) * (any() % 64 ? 1 : 50);
    /* A row that is not finite gives NaNs. */
    const size_t wrong = rows > 3 ? any() % rows : rows;
    if (wrong < rows) values[wrong * inputs + any() % inputs] = any() % 2 ? NAN : INFINITY;
    memset(packed, 0, panels * groups * PANEL * GROUP);
    for (size_t n = 0; n < outputs; n++) {
        steps[n] = between(0.001f, 0.01f);
        shifts[n] = between(-1, 1);
        added[n] = 0;
        for (size_t k = 0; k < inputs; k++)
            added[n] += packed[((n / PANEL * groups + k / GROUP) * PANEL + n % PANEL) * GROUP + k % GROUP] = (int8_t)((int)(any() % 256) - 128);
    }
    compute(registered[0], &context);
    const float *y = context.out.data;
    for (size_t row = 0; row < rows; row++) {
        if (row == wrong) {
            for (size_t n = 0; n < outputs; n++)
                if (!isnan(y[row * outputs + n])) exit(1);
            continue;
        }
        const double step = step_of(values + row * inputs, inputs);
        for (size_t n = 0; n < outputs; n++) {
            double sum = 0;
            for (size_t k = 0; k < inputs; k++)
                sum += (double)values[row * inputs + k] * packed[((n / PANEL * groups + k / GROUP) * PANEL + n % PANEL) * GROUP + k % GROUP];
            double expected = sum * steps[n] + shifts[n];
            for (size_t i = 0; i < (size_t)outliers; i++)
                if ((size_t)at[2 * i + 1] == n) expected += (double)values[row * inputs + (size_t)at[2 * i]] * ((float *)apart.data)[i];
            /* Half a step of each input at most, times weights of 127. */
            const double bound = step * 128 * (double)inputs * steps[n] / 2 + 1e-5 * fabs(expected) + 1e-5;
            if (!(fabs(y[row * outputs + n] - expected) <= bound)) {
                printf("%zu x %zu x %zu: row %zu, output %zu is %g and not %g\n", rows, inputs, outputs, row, n,
                       y[row * outputs + n], expected);
                exit(1);
            }
        }
    }
    Context second = {.in = {&x, &weights, &sums, &scales, &bias, &places, &apart}};
    compute(registered[1], &second);
    for (size_t i = 0; i < rows * outputs; i++) {
        if (i / outputs == wrong) continue;
        const float gelu = ((float *)second.out.data)[i], edge = 1e-5f * fmaxf(1, fabsf(y[i]));
        if (!(gelu >= fminf(0, fmaxf(y[i], -0.17f)) - edge && gelu <= fmaxf(y[i], 0) + edge)) exit(1);
    }
    Value residual = tensor(4, 2, (int64_t[]){(int64_t)rows, (int64_t)outputs});
    Value ones = tensor(4, 1, (int64_t[]){(int64_t)outputs}), zeros = tensor(4, 1, (int64_t[]){(int64_t)outputs});
    for (size_t i = 0; i < rows * outputs; i++) ((float *)residual.data)[i] = between(-1, 1);
    for (size_t i = 0; i < outputs; i++) ((float *)ones.data)[i] = 1, ((float *)zeros.data)[i] = 0;
    Context third = {.in = {&x, &weights, &sums, &scales, &bias, &residual, &ones, &zeros, &places, &apart}};
    compute(registered[2], &third);
    for (size_t row = 0; row < rows; row++) {
        if (row == wrong) continue;
        double sum = 0;
        for (size_t n = 0; n < outputs; n++) sum += ((float *)third.out.data)[row * outputs + n];
        if (!(fabs(sum) < 1e-3 * (double)outputs)) exit(1);
    }
    free(second.out.data), free(third.out.data), free(residual.data), free(ones.data), free(zeros.data);
    free(places.data), free(apart.data), free(x.data), free(weights.data), free(sums.data), free(scales.data), free(bias.data), free(context.out.data);
}

/* Values that are all 1 have a context of 1. */
static void check_attention(size_t texts, size_t length, size_t width) {
    const size_t wide = 3 * (size_t)heads * width, first = sequence_axis ? texts : length, then = sequence_axis ? length : texts;
    Value x = tensor(4, 3, (int64_t[]){(int64_t)first, (int64_t)then, (int64_t)wide});
    Value bias = tensor(4, 4, (int64_t[]){(int64_t)texts, 1, 1, (int64_t)length});
    for (size_t i = 0; i < first * then * wide; i++) ((float *)x.data)[i] = i % wide < 2 * wide / 3 ? between(-2, 2) : 1;
    for (size_t i = 0; i < texts * length; i++) ((float *)bias.data)[i] = between(-2, 2) * (any() % 4 ? 1 : 200);
    Value window = tensor(4, 2, (int64_t[]){heads, length ? 2 * (int64_t)length - 1 : 0});
    for (size_t i = 0; i < (size_t)(window.dims[0] * window.dims[1]); i++) ((float *)window.data)[i] = between(-2, 2);
    Value *added[] = {NULL, &bias, &window};
    for (size_t kind = sequence_axis ? 0 : 1; kind < 3; kind++) {
        Context context = {.in = {&x, added[kind]}};
        compute(registered[3 + kind], &context);
        for (size_t i = 0; i < texts * length * wide / 3; i++)
            if (!(fabsf(((float *)context.out.data)[i] - 1) < 1e-5f)) exit(1);
        free(context.out.data);
    }
    free(x.data), free(bias.data), free(window.data);
}

int main(void) {
    table.function[0] = (const void *)fail;
    table.function[26] = (const void *)make_domain;
    table.function[27] = (const void *)keep_operator;
    table.function[28] = (const void *)keep_domain;
    table.function[51] = (const void *)data_of;
    table.function[61] = (const void *)rank_of;
    table.function[62] = (const void *)dims_of;
    table.function[65] = (const void *)shape_of;
    table.function[75] = (const void *)take;
    table.function[76] = (const void *)put_back;
    table.function[85] = (const void *)float_of;
    table.function[86] = (const void *)int_of;
    table.function[90] = (const void *)input;
    table.function[91] = (const void *)output;
    table.function[93] = (const void *)free;
    table.function[99] = (const void *)nothing;
    table.function[132] = (const void *)nothing;
    table.function[249] = (const void *)constant_of;
    table.function[274] = (const void *)backwards;
    table.function[278] = (const void *)allocator_of;
    if (RegisterCustomOps(NULL, &(ApiBase){too_old, version}) || count_registered) return 1;
    if (RegisterCustomOps(NULL, &(ApiBase){api_of, version}) || count_registered != 6) return 1;
    static const size_t sizes[] = {1, 3, 4, 7, 8, 9, 15, 16, 17, 33}, heights[] = {0, 1, 2, 5, 6, 7, 13, 16, 17, 33};
    int shapes = 0;
    for (size_t r = 0; r < sizeof heights / sizeof *heights; r++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++, shapes++) outliers = any() % 4, check(heights[r], sizes[k], sizes[n]);
    for (int i = 0; i < 100; i++, shapes++) check(any() % 100, 1 + any() % 300, 1 + any() % 100);
    /* More rows than a block has, and parts of a panel. */
    check(300, 768, 40), check(50, 3102, 20), check(2, 32768, 3);
    shapes += 3;
    for (sequence_axis = 0; sequence_axis < 2; sequence_axis++)
        for (heads = 1; heads < 4; heads += 2)
            for (size_t length = 0; length < 40; length += length < 18 ? 1 : 7)
                for (size_t width = 1; width < 100; width += width < 20 ? 3 : 29, shapes++) check_attention(2, length, width);
    if (allocated) return 1;
    printf("%d\n", shapes);
    return 0;
}
