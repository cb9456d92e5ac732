/* The operators of the domain: their inputs, attributes and outputs. A test compares them with the description in
   mambaport_onnx/operators.py. */
#pragma once

#include <stdint.h>

#define DOMAIN "ai.mambaport"
enum { DOMAIN_VERSION = 1, MOST_INPUTS = 14, MOST_OUTPUTS = 3, MOST_ATTRIBUTES = 6, OPERATION_COUNT = 10 };
enum { VALUE_FLOAT32, VALUE_INT32, VALUE_INT8 };

struct value {
    const char *name, *shape;
    const char *channels_last; /* NULL: as `shape` */
    int8_t optional, type;
    const char *updates; /* of an output: the input whose memory the output may take, or NULL */
};

struct attribute {
    const char *name;
    int is_float;
    double value; /* the default */
};

struct call;

struct operation {
    const char *name;
    int inputs, attributes, outputs;
    struct value input[MOST_INPUTS];
    struct attribute attribute[MOST_ATTRIBUTES];
    struct value output[MOST_OUTPUTS];
    /* Computes the outputs; returns what a kernel returns, or FAILED after call_fail. */
    int (*compute)(struct call *call);
};

extern const struct operation operations[OPERATION_COUNT];
