/* out = weight x + bias for a single x, as in a step of decoding: bound by how fast the weights come from memory. */
#pragma once

#include "kernel.h"

struct linear_args {
    int64_t rows, columns, threads;
    struct tensor weight;      /* (rows, columns), a row's elements next to each other */
    struct tensor x, bias, out; /* (columns,), (rows,), (rows,), contiguous */
};

int linear_base(const struct linear_args *a);
int linear_avx2(const struct linear_args *a);
int linear_avx512(const struct linear_args *a);
