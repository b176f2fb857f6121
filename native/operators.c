/* The operators of the domain "paritas", and how onnxruntime gets to them.

   In a bundle's graph each is a function whose body says in onnxruntime's own operators what it computes
   (export/graph/operators.py). onnxruntime takes these kernels where the library is registered, and the body where it
   is not. They are apart by what rounding the inputs of products loses. */
#include "operator.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const char *name;
    size_t inputs, required; /* the others are outliers, which nodes of former bundles have none of */
} Description;

static const Description descriptions[OPERATORS] = {
    [LINEAR] = {"LinearInt8", 7, 5},
    [LINEAR_GELU] = {"LinearGeluInt8", 7, 5},
    [LINEAR_NORM] = {"LinearNormInt8", 10, 8},
    [ATTENTION] = {"Attention", 1, 1},
    [BIASED_ATTENTION] = {"BiasedAttention", 2, 2},
    [RELATIVE_ATTENTION] = {"RelativeAttention", 2, 2},
};

/* The best kernels for this CPU. Asked once: in a virtual machine asking takes 20 us, and a system that allows a process tiles
   may refuse them later. */
static const Kernels *fitting(void) {
    static const Kernels *const best_first[] = {&amx_int8_kernels, &avx512_vnni_kernels, &avx_vnni_kernels,
                                               &avx2_kernels, &i8mm_kernels, &asimddp_kernels, NULL};
    static _Atomic(const Kernels *const *) known;
    const Kernels *const *found = atomic_load(&known), *const *none = NULL;
    if (found) return *found;
    for (found = best_first; *found && !((*found)->fits && (*found)->fits()); found++) continue;
    return atomic_compare_exchange_strong(&known, &none, found) ? *found : *none;
}

EXPORTED const char *paritas_kernels(void) {
    const Kernels *kernels = fitting();
    return kernels ? kernels->name : NULL;
}

Status *refuse(const Api *api, const char *format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    return create_status(api, INVALID_ARGUMENT, text);
}

Status *open_scratch(const Kernel *kernel, size_t bytes, Scratch *scratch) {
    scratch->memory = scratch->small;
    return bytes <= sizeof scratch->small ? NULL : allocate(kernel->api, kernel->allocator, bytes, &scratch->memory);
}

Status *close_scratch(const Kernel *kernel, Scratch *scratch) {
    return scratch->memory == scratch->small ? NULL : give_back(kernel->api, kernel->allocator, scratch->memory);
}

Status *make_output(const Api *api, Context *context, const Tensor *like, size_t last, float **data) {
    int64_t dims[MAX_DIMS];
    Value *value;
    for (size_t i = 0; i + 1 < like->rank; i++) dims[i] = like->dims[i];
    dims[like->rank - 1] = (int64_t)last;
    Status *status = get_output(api, context, 0, dims, like->rank, &value);
    return status ? status : tensor_data(api, value, (void **)data);
}

Status *each(const Api *api, Context *context, void (*task)(void *, size_t), size_t count, void *data) {
    if (count > 1) return parallel_for(api, context, task, count, data);
    task(data, 0);
    return NULL;
}

static Status *read_tensor(const Api *api, const Value *value, Tensor *tensor) {
    Shape *shape;
    Status *status = open_shape(api, value, &shape);
    if (status) return status;
    status = count_dims(api, shape, &tensor->rank);
    if (!status && tensor->rank > MAX_DIMS) status = refuse(api, "paritas: more than %d dimensions", MAX_DIMS);
    if (!status) status = read_dims(api, shape, tensor->dims, tensor->rank);
    release_shape(api, shape);
    return status ? status : tensor_data(api, value, &tensor->data);
}

Status *read_input(const Api *api, const Context *context, size_t place, Tensor *tensor) {
    const Value *value;
    Status *status = get_input(api, context, place, &value);
    return status ? status : read_tensor(api, value, tensor);
}

Status *read_constant(const Api *api, const void *info, size_t place, Tensor *tensor) {
    const Value *value;
    int constant;
    Status *status = get_constant(api, info, place, &constant, &value);
    if (status) return status;
    if (!constant) return refuse(api, "input %zu must be an initializer of its graph, and no input of the model", place);
    return read_tensor(api, value, tensor);
}

static Status *compute(void *data, Context *context) {
    const Kernel *kernel = data;
    return (kernel->kind < ATTENTION ? compute_linear : compute_attention)(kernel, context);
}

/* An operator is told by its place among them. */
static const Operator operators[OPERATORS];
static Kind kind_of(const Operator *operator) { return (Kind)(operator - operators); }

/* An error while a kernel is created, with its node, which onnxruntime names in errors of runs alone. */
static Status *named(const Api *api, const void *info, Kind kind, Status *status) {
    char name[128] = "";
    size_t size = sizeof name;
    Status *unnamed = node_name(api, info, name, &size);
    Status *whole = refuse(api, "%s, node '%s': %s", descriptions[kind].name, unnamed ? "" : name, message_of(api, status));
    if (unnamed) release_status(api, unnamed);
    release_status(api, status);
    return whole;
}

static Status *create(const Operator *operator, const Api *api, const void *info, void **kernel) {
    Kernel made = {.kind = kind_of(operator), .api = api, .kernels = fitting()};
    Status *status = (made.kind < ATTENTION ? prepare_linear : prepare_attention)(&made, info);
    if (status) return named(api, info, made.kind, status);
    if ((status = get_allocator(api, info, &made.allocator))) return status;
    Kernel *kept = malloc(sizeof *kept);
    if (!kept) {
        release_allocator(api, made.allocator);
        return create_status(api, FAIL, "paritas: no memory");
    }
    *kept = made;
    *kernel = kept;
    return NULL;
}

static void destroy(void *data) {
    Kernel *kernel = data;
    release_allocator(kernel->api, kernel->allocator);
    free(kernel);
}

static const char *name(const Operator *operator) { return descriptions[kind_of(operator)].name; }
static const char *provider(const Operator *operator) { (void)operator; return "CPUExecutionProvider"; }
static size_t inputs_of(const Operator *operator) { return descriptions[kind_of(operator)].inputs; }
static size_t one_output(const Operator *operator) { (void)operator; return 1; }
static int one(const Operator *operator) { (void)operator; return 1; }
static int any_version(const Operator *operator) { (void)operator; return INT32_MAX; }
static int as_it_is(const Operator *operator, size_t place) { (void)operator; (void)place; return 0; }
static int optional(const Operator *operator, size_t place) { return place >= descriptions[kind_of(operator)].required; }
static int output_type(const Operator *operator, size_t place) { (void)operator; (void)place; return FLOAT; }
static int input_type(const Operator *operator, size_t place) {
    if (kind_of(operator) >= ATTENTION) return FLOAT;
    return place == 1 ? INT8 : place == 2 || place == descriptions[kind_of(operator)].required ? INT32 : FLOAT;
}

#define OPERATOR                                                                                                        \
    {                                                                                                                   \
        .version = API_VERSION, .name = name, .provider = provider, .input_type = input_type, .inputs = inputs_of,      \
        .output_type = output_type, .outputs = one_output, .destroy = destroy, .input_kind = optional,                  \
        .output_kind = as_it_is, .input_memory = as_it_is, .least_inputs = one, .inputs_alike = one,                    \
        .least_outputs = one, .outputs_alike = one, .create = create, .compute = compute, .since_version = one,         \
        .until_version = any_version,                                                                                   \
    }
static const Operator operators[OPERATORS] = {OPERATOR, OPERATOR, OPERATOR, OPERATOR, OPERATOR, OPERATOR};

static Status *add_operators(const Api *api, void *domain) {
    Status *status = NULL;
    for (size_t kind = 0; kind < OPERATORS && !status; kind++) status = add_operator(api, domain, &operators[kind]);
    return status;
}

/* What onnxruntime calls for each SessionOptions that the library is registered with. */
EXPORTED Status *RegisterCustomOps(void *options, const ApiBase *base) {
    static _Atomic(void *) domain; /* of the process: options only refer to it */
    const Api *api = base->api(API_VERSION);
    if (!api || !fitting()) return NULL;
    void *known = atomic_load(&domain), *made;
    if (!known) {
        Status *status = create_domain(api, "paritas", &made);
        if (status || (status = add_operators(api, made))) return status;
        /* Where another thread was first, its domain serves both, and a few bytes are lost. */
        if (atomic_compare_exchange_strong(&domain, &known, made)) known = made;
    }
    return add_domain(api, options, known);
}
