/* One step of the scan for each of (batch, head, head_dim) channels. Their states are advanced in place. */
#pragma once

#include "interface.h"

// clang-format off
#define STATE_UPDATE_FIELDS(FIELD) \
    FIELD(integer, batch) FIELD(integer, heads) FIELD(integer, head_dim) FIELD(integer, dstate) \
    FIELD(integer, groups) FIELD(flag, dt_softplus) \
    FIELD(flag, A_is_log) /* the tensor A has the values log(-A) */ \
    FIELD(integer, threads) \
    FIELD(tensor, state) /* (entry, head, head_dim, dstate) */ \
    FIELD(tensor, x) FIELD(tensor, dt) FIELD(tensor, z) FIELD(tensor, out) /* (batch, head, head_dim) */ \
    FIELD(tensor, A) /* (head, head_dim, dstate); a stride of 0 in dstate: one exponential serves all states */ \
    FIELD(tensor, B) FIELD(tensor, C) /* (batch, group, dstate) */ \
    FIELD(tensor, D) FIELD(tensor, dt_bias) /* (head, head_dim) */ \
    FIELD(indices, state_indices) /* (batch,): the entry of each row; negative: no entry, and the output is zero */

struct state_update_args { STATE_UPDATE_FIELDS(MEMBER) };
// clang-format on
