/* Attention, BiasedAttention and RelativeAttention: a task is one head of one text. */
#include "operator.h"

#include <stdatomic.h>

enum { PROJECTIONS, BIAS };

typedef struct {
    const Kernel *kernel;
    Attention attention;
    _Atomic(Status *) failed;
} Run;

static void attend(void *data, size_t task) {
    Run *run = data;
    const Kernel *kernel = run->kernel;
    const size_t heads = run->attention.heads;
    Scratch scratch;
    Status *status = open_scratch(kernel, kernel->kernels->attention->bytes(&run->attention), &scratch);
    if (!status) {
        kernel->kernels->attention->attend(&run->attention, task / heads, task % heads, scratch.memory);
        status = close_scratch(kernel, &scratch);
    }
    if (status && (status = atomic_exchange(&run->failed, status))) release_status(kernel->api, status);
}

/* Read the bias as (texts, heads, length, length), of which any but the last may be missing or 1. */
static Status *read_bias(const Api *api, const Tensor *bias, size_t texts, Attention *attention) {
    const size_t whole[4] = {texts, attention->heads, attention->length, attention->length};
    ptrdiff_t next[4] = {0}, stride = 1;
    for (size_t i = 0; i < 4; i++) {
        const size_t axis = 3 - i, size = i < bias->rank ? (size_t)bias->dims[bias->rank - 1 - i] : 1;
        if (bias->rank > 4 || (size != whole[axis] && (size != 1 || !i)))
            return refuse(api, "BiasedAttention: the bias must be (%zu, %zu, %zu, %zu), or 1 where it is the same", whole[0], whole[1],
                          whole[2], whole[3]);
        next[axis] = size > 1 ? stride : 0;
        stride *= (ptrdiff_t)size;
    }
    attention->bias = bias->data;
    attention->next_bias_text = next[0];
    attention->next_bias_head = next[1];
    attention->next_bias_query = next[2];
    return NULL;
}

/* Read the bias as (heads, 2 * length - 1), by how far a key is behind its query: a query's lies one before the last query's. */
static Status *read_window(const Api *api, const Tensor *window, Attention *attention) {
    const size_t distances = 2 * attention->length - 1;
    if (window->rank != 2 || (size_t)window->dims[0] != attention->heads || (size_t)window->dims[1] != distances)
        return refuse(api, "RelativeAttention: the bias must be (%zu, %zu)", attention->heads, distances);
    attention->bias = (const float *)window->data + attention->length - 1;
    attention->next_bias_head = (ptrdiff_t)distances;
    attention->next_bias_query = -1;
    return NULL;
}

Status *prepare_attention(Kernel *kernel, const void *info) {
    const Api *api = kernel->api;
    Status *status = int_attribute(api, info, "heads", &kernel->heads);
    if (status || (status = int_attribute(api, info, "sequence_axis", &kernel->sequence_axis))) return status;
    const int first = kernel->kind != ATTENTION && kernel->sequence_axis == 0;
    if (kernel->heads > 0 && (first || kernel->sequence_axis == 1)) return NULL;
    return refuse(api, "expected one head or more, and a sequence axis of 1, or with a bias of 0");
}

Status *compute_attention(const Kernel *kernel, Context *context) {
    const Api *api = kernel->api;
    const size_t heads = (size_t)kernel->heads;
    Tensor x, bias;
    Status *status = read_input(api, context, PROJECTIONS, &x);
    if (status) return status;
    if (x.rank != 3 || !x.dims[2] || heads > (size_t)x.dims[2] / 3 || (size_t)x.dims[2] % (3 * heads))
        return refuse(api, "Attention: projections must be (batch, sequence, 3 * heads * channels), with %zu heads", heads);
    const size_t axis = (size_t)kernel->sequence_axis, texts = (size_t)x.dims[1 - axis], length = (size_t)x.dims[axis];
    const size_t width = (size_t)x.dims[2] / (3 * heads);
    if (length > MOST_TOKENS) return refuse(api, "Attention: a text has %zu tokens; %d are the most", length, MOST_TOKENS);
    Run run = {
        .kernel = kernel,
        .attention = {.length = length,
                      .heads = heads,
                      .width = width,
                      .projections = x.data,
                      .next_token = axis ? 1 : texts,
                      .next_text = axis ? length : 1},
    };
    if ((status = make_output(api, context, &x, heads * width, &run.attention.context)) || !texts || !length) return status;
    if (kernel->kind != ATTENTION && (status = read_input(api, context, BIAS, &bias))) return status;
    if (kernel->kind == BIASED_ATTENTION) status = read_bias(api, &bias, texts, &run.attention);
    if (kernel->kind == RELATIVE_ATTENTION) status = read_window(api, &bias, &run.attention);
    if (status) return status;
    status = each(api, context, attend, texts * heads, &run);
    Status *failed = atomic_load(&run.failed);
    if (status && failed) release_status(api, failed);
    return status ? status : failed;
}
