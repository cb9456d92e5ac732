/* A whole Mamba-3 mixer on one token, in one call: both projections, the norms, the rotation, the state. mamba3.h has
   the equations. */
#pragma once

#include "interface.h"

// clang-format off
#define MAMBA3_STEP_FIELDS(FIELD) \
    FIELD(integer, heads) FIELD(integer, groups) FIELD(integer, rank) FIELD(integer, head_dim) \
    FIELD(integer, dstate) FIELD(integer, angles) FIELD(integer, features) FIELD(flag, neighbours) \
    FIELD(integer, threads) \
    FIELD(real, A_floor) /* -A is at least this */ \
    FIELD(real, B_eps) FIELD(real, C_eps) FIELD(real, norm_eps) \
    FIELD(tensor, x) FIELD(tensor, out) /* (features,) */ \
    FIELD(tensor, in_weight) FIELD(tensor, in_bias) /* rows of z, v, B, C, dt, A, trap and angles, by features */ \
    FIELD(tensor, dt_bias) FIELD(tensor, D) /* (head,) */ \
    FIELD(tensor, B_weight) FIELD(tensor, C_weight) /* (dstate,), of the norms */ \
    FIELD(tensor, B_bias) FIELD(tensor, C_bias) /* (head, rank, dstate) */ \
    FIELD(tensor, mimo_v) FIELD(tensor, mimo_z) FIELD(tensor, mimo_out) /* (head, rank, head_dim), or all absent */ \
    FIELD(tensor, norm_weight) /* (head * head_dim,): the output is normalised, each head on its own; or absent */ \
    FIELD(tensor, out_weight) FIELD(tensor, out_bias) /* (features, head * head_dim), (features,) */ \
    FIELD(tensor, angle) /* (head, angle) */ \
    FIELD(tensor, state) /* (head, head_dim, dstate), its last axis with stride 1 */ \
    FIELD(tensor, k) FIELD(tensor, v) /* (rank, head, dstate), (head, head_dim): of the last token */ \
    FIELD(bytes, in_packed) FIELD(bytes, out_packed) /* or NULL; as in mamba_step.h */

struct mamba3_step_args { MAMBA3_STEP_FIELDS(MEMBER) };
// clang-format on
