/* What the operators of the library share: their kernels, and the tensors that they are given. */
#ifndef PARITAS_OPERATOR_H
#define PARITAS_OPERATOR_H

#include "kernels.h"
#include "onnxruntime_abi.h"

enum { MAX_DIMS = 8 };

/* Which operator it is; LINEAR and what follows on it take the same first inputs. */
typedef enum { LINEAR, LINEAR_GELU, LINEAR_NORM, ATTENTION, BIASED_ATTENTION, RELATIVE_ATTENTION, OPERATORS } Kind;

/* Of one node of a graph. Runs change nothing of it. */
typedef struct {
    Kind kind;
    const Api *api;
    Allocator *allocator;
    const Kernels *kernels;
    /* Of a linear layer, but for the inputs, which come in groups. */
    Layer layer;
    size_t groups;
    const float *norm_scale, *norm_shift;
    float epsilon;
    /* Of attention. */
    int64_t heads, sequence_axis;
} Kernel;

typedef struct {
    void *data;
    int64_t dims[MAX_DIMS];
    size_t rank;
} Tensor;

static inline size_t elements(const Tensor *tensor) {
    size_t count = 1;
    for (size_t i = 0; i < tensor->rank; i++) count *= (size_t)tensor->dims[i];
    return count;
}

/* Memory for as long as a run or a task lasts: on the stack where it is small, as for the texts of questions. onnxruntime's
   allocator is one for all threads, and looks a place up. */
#ifndef SMALL
enum { SMALL = 64 * 1024 };
#endif
typedef struct {
    void *memory;
    _Alignas(64) char small[SMALL];
} Scratch;

Status *open_scratch(const Kernel *kernel, size_t bytes, Scratch *scratch);
Status *close_scratch(const Kernel *kernel, Scratch *scratch);

/* An error of the caller, with a message in printf's form. */
Status *refuse(const Api *api, const char *format, ...) __attribute__((format(printf, 2, 3)));

Status *read_input(const Api *api, const Context *context, size_t place, Tensor *tensor);

/* An input that is the same in every run, read once. It is an error where a graph computes it. */
Status *read_constant(const Api *api, const void *info, size_t place, Tensor *tensor);

/* Make the output, float32, its last axis this long and the others as those of an input. */
Status *make_output(const Api *api, Context *context, const Tensor *like, size_t last, float **data);

/* Do all tasks, on the session's threads where there are several. */
Status *each(const Api *api, Context *context, void (*task)(void *, size_t), size_t count, void *data);

/* Read and check what a kernel has when it is created, from the node's `info`. */
Status *prepare_linear(Kernel *kernel, const void *info);
Status *prepare_attention(Kernel *kernel, const void *info);

Status *compute_linear(const Kernel *kernel, Context *context);
Status *compute_attention(const Kernel *kernel, Context *context);

#endif
