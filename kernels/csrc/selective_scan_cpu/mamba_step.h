/* A whole Mamba-1 mixer on one token, in one call: both projections, the convolution, the state update. A step of
   decoding is limited by reading the weights, so all other work must cost little.

   The weights of a projection are a matrix, or packed bytes with their scales in place of the matrix, in float32 for 8
   bits and in bfloat16 for 4 bits (quantized.h). */
#pragma once

#include "interface.h"

// clang-format off
#define MAMBA_STEP_FIELDS(FIELD) \
    FIELD(integer, inner) FIELD(integer, dstate) FIELD(integer, rank) FIELD(integer, width) \
    FIELD(integer, features) FIELD(integer, threads) \
    FIELD(tensor, x) FIELD(tensor, out) /* (features,) */ \
    FIELD(tensor, in_weight) FIELD(tensor, in_bias) /* (2 inner, features), (2 inner,) */ \
    FIELD(tensor, conv_weight) FIELD(tensor, conv_bias) /* (inner, width), (inner,) */ \
    FIELD(tensor, conv_state) /* (inner, width): the last inputs; afterwards this token's input is the last of them */ \
    FIELD(tensor, x_weight) /* (rank + 2 dstate, inner) */ \
    FIELD(tensor, dt_weight) FIELD(tensor, dt_bias) /* (inner, rank), (inner,) */ \
    FIELD(tensor, A_log) FIELD(tensor, D) /* (inner, dstate), (inner,) */ \
    FIELD(tensor, state) /* (inner, dstate) */ \
    FIELD(tensor, out_weight) FIELD(tensor, out_bias) /* (features, inner), (features,) */ \
    FIELD(bytes, in_packed) FIELD(bytes, x_packed) FIELD(bytes, out_packed) /* or NULL */

struct mamba_step_args { MAMBA_STEP_FIELDS(MEMBER) };
// clang-format on
