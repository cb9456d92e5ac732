/* Mamba-3's scan, of each head of each sequence. With mix = sigmoid(trap), after the biases of q and k:

       angle[t] = angle[t-1] + pi tanh(rate[t]) dt[t], by which q[t] and k[t] are rotated
       S[t] = e^adt[t] (S[t-1] + (1 - mix[t]) dt[t] v[t-1] k[t-1]^T) + mix[t] dt[t] v[t] k[t]^T
       out[t] = (S[t] q[t] + D v[t]) silu(z[t])

   q, k and out have `rank` rows per step. With mimo_v, row r of v is v mimo_v[r], row r of z is z mimo_z[r], and v k^T
   is the sum over the rows; with mimo_out, out is the sum of the rows times mimo_out[r]. Without mimo_v the rank is 1.

   The elements of the last axis of each tensor are adjacent, where no axis is named for them below. */
#pragma once

#include "interface.h"

// clang-format off
#define MAMBA3_FIELDS(FIELD) \
    FIELD(integer, sequences) FIELD(integer, seqlen) FIELD(integer, heads) FIELD(integer, groups) \
    FIELD(integer, rank) FIELD(integer, head_dim) FIELD(integer, dstate) FIELD(integer, angles) \
    FIELD(flag, neighbours) /* elements 2 i and 2 i + 1 are rotated; otherwise i and i + dstate / 2 */ \
    FIELD(integer, threads) \
    FIELD(tensor, q) FIELD(tensor, k) /* (batch, step * rank, group): dstate elements */ \
    FIELD(tensor, v) FIELD(tensor, z) /* (batch, step, head): head_dim elements */ \
    FIELD(tensor, adt) FIELD(tensor, dt) FIELD(tensor, trap) /* (batch, head, step) */ \
    FIELD(tensor, rates) /* (batch, step, head): `angles` elements */ \
    FIELD(tensor, q_bias) FIELD(tensor, k_bias) /* (head, rank): dstate elements */ \
    FIELD(tensor, D) /* (head,) */ \
    FIELD(tensor, mimo_v) FIELD(tensor, mimo_z) FIELD(tensor, mimo_out) /* (head, rank): head_dim elements */ \
    FIELD(tensor, first_angle) FIELD(tensor, first_v) /* (sequence, head): `angles` and head_dim elements */ \
    FIELD(tensor, first_state) /* (sequence, head, head_dim): dstate elements */ \
    FIELD(tensor, first_k) /* (sequence, rank, head): dstate elements */ \
    FIELD(indices, bounds) /* (sequences + 1,): sequences of one batch entry; NULL: a sequence is a batch entry */

#define MAMBA3_RESULT_FIELDS(FIELD) \
    FIELD(tensor, out) /* (batch, step or step * rank, head): head_dim elements */ \
    FIELD(tensor, last_angle) FIELD(tensor, last_state) FIELD(tensor, last_k) /* like the first; float32 */

#define MAMBA3_FORWARD_FIELDS(FIELD) MAMBA3_FIELDS(FIELD) MAMBA3_RESULT_FIELDS(FIELD)

/* The gradient, of rank 1 and without mimo_v. float32, contiguous: sums over heads are stored per part of the heads of
   a group, sums over sequences per sequence; the caller adds them up. All of them must be zero before the call. */
#define MAMBA3_GRADIENT_FIELDS(FIELD) \
    FIELD(tensor, grad_out) FIELD(tensor, grad_v) FIELD(tensor, grad_z) /* like v */ \
    FIELD(tensor, grad_last_angle) FIELD(tensor, grad_last_state) FIELD(tensor, grad_last_k) /* like the first */ \
    FIELD(floats, grad_q) FIELD(floats, grad_k) /* (part, batch, step, group, dstate) */ \
    FIELD(floats, grad_adt) FIELD(floats, grad_dt) FIELD(floats, grad_trap) /* (batch, head, step) */ \
    FIELD(floats, grad_rates) /* (batch, step, head, angle) */ \
    FIELD(floats, grad_q_bias) FIELD(floats, grad_k_bias) /* (sequence, head, dstate) */ \
    FIELD(floats, grad_D) /* (sequence, head) */ \
    FIELD(floats, grad_first_angle) FIELD(floats, grad_first_state) /* (sequence, head, angle), like first_state */ \
    FIELD(floats, grad_first_k) FIELD(floats, grad_first_v) /* (sequence, head, dstate), (sequence, head, head_dim) */ \
    FIELD(integer, batch) FIELD(integer, parts)

#define MAMBA3_BACKWARD_FIELDS(FIELD) MAMBA3_FIELDS(FIELD) MAMBA3_GRADIENT_FIELDS(FIELD)

struct mamba3_args { MAMBA3_FIELDS(MEMBER) };
struct mamba3_forward_args { struct mamba3_args scan; MAMBA3_RESULT_FIELDS(MEMBER) };
struct mamba3_backward_args { struct mamba3_args scan; MAMBA3_GRADIENT_FIELDS(MEMBER) };
// clang-format on
