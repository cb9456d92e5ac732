/* LayerNorm and RMSNorm of rows, with what comes before and after them: a residual, a gate. */
#pragma once

#include "kernel.h"

enum gate { NO_GATE, GATE_AFTER, GATE_BEFORE };

struct norm_args {
    int64_t rows, dim, group, rms, gate, threads; /* `group` neighbouring features are normalized together */
    double eps;
    struct tensor x, residual, z, out; /* (rows, dim), a row's features next to each other */
    struct tensor total;               /* x + residual, where wanted */
    struct tensor weight, bias;        /* (dim,) */
};

int norm_base(const struct norm_args *a);
int norm_avx2(const struct norm_args *a);
int norm_avx512(const struct norm_args *a);
