/* A whole Mamba-1 mixer over sequences in one call: both projections, the convolution and the scan, of one direction or
   of two. It is for short sequences, where the calls between the parts cost as much as the parts. */
#pragma once

#include "interface.h"

// clang-format off
/* The parameters of a direction. */
#define MAMBA_DIRECTION_FIELDS(FIELD, of) \
    FIELD(tensor, of##conv_weight) FIELD(tensor, of##conv_bias) /* (inner, width), (inner,) */ \
    FIELD(tensor, of##x_weight) FIELD(bytes, of##x_packed) /* (rank + 2 dstate, inner) */ \
    FIELD(tensor, of##dt_weight) FIELD(tensor, of##dt_bias) /* (inner, rank), (inner,) */ \
    FIELD(tensor, of##A_log) FIELD(tensor, of##D) /* (inner, dstate), float32, contiguous; (inner,) */

#define MAMBA_FORWARD_FIELDS(FIELD) \
    FIELD(integer, batch) FIELD(integer, seqlen) FIELD(integer, inner) FIELD(integer, dstate) FIELD(integer, rank) \
    FIELD(integer, width) FIELD(integer, features) FIELD(integer, threads) \
    FIELD(tensor, x) FIELD(tensor, out) /* (batch * seqlen, features), float32, contiguous */ \
    FIELD(tensor, in_weight) FIELD(bytes, in_packed) FIELD(tensor, in_bias) /* (2 inner, features), (2 inner,) */ \
    FIELD(tensor, out_weight) FIELD(bytes, out_packed) FIELD(tensor, out_bias) /* (features, inner), (features,) */ \
    MAMBA_DIRECTION_FIELDS(FIELD, ) \
    /* The direction from the last step to the first; absent without the tensor back_conv_weight. The sum of both is \
       multiplied by `scale`. */ \
    MAMBA_DIRECTION_FIELDS(FIELD, back_) FIELD(real, scale) \
    /* (batch, inner, width), (batch, inner, dstate): stored, or absent */ \
    FIELD(tensor, conv_state) FIELD(tensor, state)

struct mamba_forward_args { MAMBA_FORWARD_FIELDS(MEMBER) };
// clang-format on
