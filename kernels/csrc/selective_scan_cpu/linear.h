/* out = weight x + bias for a single row x, as in a step of decoding. The speed of memory limits it, which the weights
   are read from once. */
#pragma once

#include "interface.h"

// clang-format off
#define LINEAR_FIELDS(FIELD) \
    FIELD(integer, rows) FIELD(integer, columns) FIELD(integer, threads) \
    FIELD(tensor, weight) /* (rows, columns); the elements of a row are adjacent */ \
    FIELD(tensor, x) FIELD(tensor, bias) FIELD(tensor, out) /* (columns,), (rows,), (rows,), contiguous */

struct linear_args { LINEAR_FIELDS(MEMBER) };
// clang-format on
