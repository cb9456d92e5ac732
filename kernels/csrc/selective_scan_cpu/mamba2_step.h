/* A whole Mamba-2 mixer on one token, in one call. Weights may be packed, as in mamba_step.h. */
#pragma once

#include "interface.h"

// clang-format off
#define MAMBA2_STEP_FIELDS(FIELD) \
    FIELD(integer, heads) FIELD(integer, head_dim) FIELD(integer, dstate) FIELD(integer, groups) \
    FIELD(integer, mlp) /* the features beside the heads', which a gate alone computes */ \
    FIELD(integer, width) FIELD(integer, features) FIELD(integer, threads) \
    FIELD(real, dt_min) FIELD(real, dt_max) \
    FIELD(tensor, x) FIELD(tensor, out) /* (features,) */ \
    FIELD(tensor, in_weight) FIELD(tensor, in_bias) FIELD(bytes, in_packed) \
    /* rows of the mlp's gate and values, z, v, B, C and dt, by features */ \
    FIELD(tensor, conv_weight) FIELD(tensor, conv_bias) /* (channel, width), (channel,); channels are v, B and C */ \
    FIELD(tensor, conv_state) /* (channel, width): the last inputs, afterwards with the input of this token */ \
    FIELD(tensor, dt_bias) FIELD(tensor, A_log) /* (head,) */ \
    FIELD(tensor, D) /* (head, head_dim) */ \
    FIELD(tensor, state) /* (head, head_dim, dstate) */ \
    FIELD(tensor, norm_weight) FIELD(tensor, norm_bias) /* (head * head_dim,); without them, a gate alone */ \
    FIELD(integer, norm_group) FIELD(integer, norm_gate) FIELD(real, norm_eps) /* as in norm.h */ \
    FIELD(tensor, out_weight) FIELD(tensor, out_bias) FIELD(bytes, out_packed) \
    /* (features, mlp + head * head_dim), (features,) */

struct mamba2_step_args { MAMBA2_STEP_FIELDS(MEMBER) };
// clang-format on
