/* A gated MLP on one token: out_weight (a * silu(b)), of a and b, the halves of in_weight x. Weights may be packed,
   as in mamba_step.h. */
#pragma once

#include "interface.h"

// clang-format off
#define GATED_MLP_FIELDS(FIELD) \
    FIELD(integer, features) FIELD(integer, hidden) FIELD(integer, threads) \
    FIELD(tensor, x) FIELD(tensor, out) /* (features,) */ \
    FIELD(tensor, in_weight) FIELD(tensor, in_bias) FIELD(bytes, in_packed) /* (2 hidden, features), (2 hidden,) */ \
    FIELD(tensor, out_weight) FIELD(tensor, out_bias) FIELD(bytes, out_packed) /* (features, hidden), (features,) */

struct gated_mlp_args { GATED_MLP_FIELDS(MEMBER) };
// clang-format on
