/* out = x weight^T + bias for many rows of x: a linear layer on whole sequences. */
#pragma once

#include "interface.h"

// clang-format off
#define GEMM_FIELDS(FIELD) \
    FIELD(integer, rows) FIELD(integer, columns) FIELD(integer, depth) FIELD(integer, threads) \
    FIELD(tensor, x) /* (rows, depth), float32; the elements of a row are adjacent */ \
    FIELD(tensor, weight) FIELD(tensor, bias) /* (columns, depth), whose rows are contiguous; (columns,) */ \
    FIELD(tensor, out) /* (rows, columns), float32; the elements of a row are adjacent */

struct gemm_args { GEMM_FIELDS(MEMBER) };
// clang-format on
