/* The part of onnxruntime's C interface that one CPU operator needs, in declarations of our own.

   OrtApi is a table of functions that versions only add to, so a position is for ever. These are of version 18,
   which onnxruntime has had since 1.18. Objects are onnxruntime's and never looked into. */
#ifndef PARITAS_ONNXRUNTIME_ABI_H
#define PARITAS_ONNXRUNTIME_ABI_H

#include <stddef.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))

enum { API_VERSION = 18 };
enum { FAIL = 1, INVALID_ARGUMENT = 2 };
enum { FLOAT = 1, INT8 = 3, INT32 = 6 };

typedef struct Status Status; /* NULL where all is well */
typedef struct Value Value;
typedef struct Shape Shape;
typedef struct Context Context;
typedef struct Allocator Allocator;

typedef struct { const void *function[280]; } Api;
typedef struct {
    const Api *(*api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

#define CALL(api, position, result, ...) ((result(*)(__VA_ARGS__))(uintptr_t)(api)->function[position])

#define create_status(api, code, text) CALL(api, 0, Status *, int, const char *)(code, text)
#define message_of(api, status) CALL(api, 2, const char *, const Status *)(status)
#define create_domain(api, name, domain) CALL(api, 26, Status *, const char *, void **)(name, domain)
#define add_operator(api, domain, operator) CALL(api, 27, Status *, void *, const Operator *)(domain, operator)
#define add_domain(api, options, domain) CALL(api, 28, Status *, void *, void *)(options, domain)
#define tensor_data(api, value, data) CALL(api, 51, Status *, const Value *, void **)(value, data)
#define count_dims(api, shape, count) CALL(api, 61, Status *, const Shape *, size_t *)(shape, count)
#define read_dims(api, shape, dims, count) CALL(api, 62, Status *, const Shape *, int64_t *, size_t)(shape, dims, count)
#define open_shape(api, value, shape) CALL(api, 65, Status *, const Value *, Shape **)(value, shape)
#define allocate(api, allocator, bytes, memory) CALL(api, 75, Status *, Allocator *, size_t, void **)(allocator, bytes, memory)
#define give_back(api, allocator, memory) CALL(api, 76, Status *, Allocator *, void *)(allocator, memory)
#define float_attribute(api, info, name, value) CALL(api, 85, Status *, const void *, const char *, float *)(info, name, value)
#define int_attribute(api, info, name, value) CALL(api, 86, Status *, const void *, const char *, int64_t *)(info, name, value)
#define get_input(api, context, place, value) CALL(api, 90, Status *, const Context *, size_t, const Value **)(context, place, value)
#define get_output(api, context, place, dims, count, value) \
    CALL(api, 91, Status *, Context *, size_t, const int64_t *, size_t, Value **)(context, place, dims, count, value)
#define release_status(api, status) CALL(api, 93, void, Status *)(status)
#define release_shape(api, shape) CALL(api, 99, void, Shape *)(shape)
#define release_allocator(api, allocator) CALL(api, 132, void, Allocator *)(allocator)
#define node_name(api, info, name, size) CALL(api, 244, Status *, const void *, char *, size_t *)(info, name, size)
/* Of an input that is an initializer its value, which lasts as long as the kernel. */
#define get_constant(api, info, place, constant, value) \
    CALL(api, 249, Status *, const void *, size_t, int *, const Value **)(info, place, constant, value)
/* Calls task(data, 0) to task(data, count - 1) on the session's threads, and returns when all are done. */
#define parallel_for(api, context, task, count, data) \
    CALL(api, 274, Status *, const Context *, void (*)(void *, size_t), size_t, size_t, void *)(context, task, count, 0, data)
/* Memory of type 0, which is the CPU's. */
#define get_allocator(api, info, allocator) CALL(api, 278, Status *, const void *, int, Allocator **)(info, 0, allocator)

/* OrtCustomOp, as version 18 has it. */
typedef struct Operator Operator;
struct Operator {
    uint32_t version;
    void *(*create_unused)(const Operator *, const Api *, const void *info);
    const char *(*name)(const Operator *);
    const char *(*provider)(const Operator *);
    int (*input_type)(const Operator *, size_t place);
    size_t (*inputs)(const Operator *);
    int (*output_type)(const Operator *, size_t place);
    size_t (*outputs)(const Operator *);
    void (*compute_unused)(void *, Context *);
    void (*destroy)(void *kernel);
    int (*input_kind)(const Operator *, size_t place); /* 0: required */
    int (*output_kind)(const Operator *, size_t place);
    int (*input_memory)(const Operator *, size_t place);
    int (*least_inputs)(const Operator *);
    int (*inputs_alike)(const Operator *);
    int (*least_outputs)(const Operator *);
    int (*outputs_alike)(const Operator *);
    Status *(*create)(const Operator *, const Api *, const void *info, void **kernel);
    Status *(*compute)(void *kernel, Context *);
    Status *(*infer_shapes)(const Operator *, void *);
    int (*since_version)(const Operator *);
    int (*until_version)(const Operator *);
    size_t (*may_reuse)(int **, int **);
    void (*free_reuse)(int *, int *);
    size_t (*aliases)(int **, int **);
    void (*free_aliases)(int *, int *);
};

#endif
