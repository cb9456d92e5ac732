/* One call of an operator: its tensors, checked, and the way to an error. */
#pragma once

#include "kernel.h"
#include "operators.h"
#include "ort.h"
#include "scratch.h"
#include "shapes.h"

enum { FAILED = 1 }; /* beside the values of `enum status` */

/* What is known of a node before tensors come: the shapes of its values, the values of its attributes. */
struct node {
    const struct operation *operation;
    const OrtApi *api;
    struct shapes input[MOST_INPUTS], output[MOST_OUTPUTS];
    struct lengths lengths; /* the names alone */
    double attribute[MOST_ATTRIBUTES];
};

/* The number of an operation's input of that name, or -1. */
int input_number(const struct operation *operation, const char *name);

struct input {
    void *data; /* NULL where the input is absent */
    int count;
    int64_t length[MOST_AXES];
};

struct call {
    const struct node *node;
    OrtKernelContext *context;
    OrtStatus *status; /* the error, once a step has failed */
    struct lengths lengths;
    struct input input[MOST_INPUTS];
    float *output[MOST_OUTPUTS]; /* NULL where nobody takes the output */
};

/* Reads the shapes of an operation; `attribute` has a value for each of its attributes. */
int node_init(struct node *node, const struct operation *operation, const OrtApi *api);

/* Reads the inputs and compares their shapes. Returns 0, or FAILED with call->status. */
int call_begin(struct call *call, const struct node *node, OrtKernelContext *context);

/* Makes the outputs, once an operator has nothing to refuse. Returns 0, or FAILED with call->status. */
int call_outputs(struct call *call);

/* Copies a state to the output that holds its next value; nothing where both are the same memory. */
void call_keep(float *output, const struct input *input);

/* Sets call->status to an error whose text begins with the operator's name. Returns FAILED. */
__attribute__((format(printf, 2, 3))) int call_fail(struct call *call, const char *format, ...);

/* The length of that name, which an input of the operator must have. */
int64_t call_length(const struct call *call, const char *name);

/* The attribute of that name. */
double call_attribute(const struct call *call, const char *name);

/* Computes an operator. */
int causal_conv(struct call *call);
int causal_conv_update(struct call *call);
int selective_scan(struct call *call);
int projected_scan(struct call *call);
int chunk_scan(struct call *call);
int update_state(struct call *call);
int mamba_step_rows(struct call *call);
int norm_rows(struct call *call);
int linear_rows(struct call *call);
int quantized_rows(struct call *call);

/* The threads that a kernel divides its work for. */
int64_t worker_count(void);

/* Runs the tasks of this thread's kernels on the threads of the session, until the call that passes NULL. */
void use_session_threads(const OrtApi *api, const OrtKernelContext *context);
