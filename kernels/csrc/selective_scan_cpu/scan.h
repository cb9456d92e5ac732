/* The selective scan over (batch, head, head_dim, seqlen):

       h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
       out[t] = (C[t] . h[t] + D u[t]) silu(z[t])

   with a state of dstate numbers for each of heads * head_dim channels. Mamba-1 is the case of one head per group of
   B and C; Mamba-2 has an A that is the same for all channels and states of a head. */
#pragma once

#include "interface.h"

// clang-format off
#define SCAN_FIELDS(FIELD) \
    FIELD(integer, batch) FIELD(integer, heads) FIELD(integer, head_dim) FIELD(integer, seqlen) \
    FIELD(integer, dstate) FIELD(integer, groups) \
    FIELD(flag, delta_softplus) FIELD(flag, tied_A) FIELD(flag, variable_B) FIELD(flag, variable_C) \
    FIELD(integer, threads) \
    FIELD(tensor, u) FIELD(tensor, delta) FIELD(tensor, z) FIELD(tensor, out) /* (batch, head, head_dim, seqlen) */ \
    FIELD(tensor, A) /* (head, head_dim, dstate), float32 */ \
    FIELD(tensor, D) FIELD(tensor, delta_bias) /* (head, head_dim) */ \
    FIELD(tensor, B) FIELD(tensor, C) /* variable: (batch, group, dstate, seqlen); otherwise like A */ \
    FIELD(tensor, first_state) FIELD(tensor, last_state) /* (batch, head, head_dim, dstate) */ \
    FIELD(real, delta_min) FIELD(real, delta_max) /* the bounds of delta after softplus */ \
    FIELD(indices, seq_idx) /* (batch, seqlen): the state restarts where the index changes; only with tied_A */ \
    /* With delta_weight, delta is the product delta_weight (first rank rows of the tensor `delta`), and the tensor \
       `delta` is (batch, any, rank, seqlen). */ \
    FIELD(integer, rank) \
    FIELD(tensor, delta_weight) /* (head, head_dim, rank) */ \
    FIELD(tensor, onto) /* like out: the kernel stores scale * (onto + the result) */ \
    FIELD(real, scale)

/* The gradient, only for an A that is not tied. Each sum over channels is stored per part of the channels, each sum
   over the batch per part of the batch, in float32 and contiguous; the caller adds the parts up. grad_B and grad_C must
   be zero before the call. */
#define SCAN_GRADIENT_FIELDS(FIELD) \
    FIELD(tensor, grad_out) FIELD(tensor, grad_u) FIELD(tensor, grad_delta) FIELD(tensor, grad_z) /* like u */ \
    FIELD(floats, grad_A) /* (batch part, channel, dstate) */ \
    FIELD(floats, grad_D) FIELD(floats, grad_bias) /* (batch part, channel) */ \
    FIELD(floats, grad_B) FIELD(floats, grad_C) \
    /* variable: (channel part, batch, group, seqlen, dstate); otherwise like grad_A */ \
    FIELD(integer, batch_parts) FIELD(integer, channel_parts)

#define SCAN_BACK_FIELDS(FIELD) SCAN_FIELDS(FIELD) SCAN_GRADIENT_FIELDS(FIELD)

struct scan_args { SCAN_FIELDS(MEMBER) };
struct scan_back_args { struct scan_args scan; SCAN_GRADIENT_FIELDS(MEMBER) };
// clang-format on
