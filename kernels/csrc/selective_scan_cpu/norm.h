/* LayerNorm and RMSNorm of rows, with the operations next to them: adding a residual, multiplying by a gate. */
#pragma once

#include "interface.h"

enum gate { NO_GATE, GATE_AFTER, GATE_BEFORE }; /* silu(z) multiplies the norm's output, or its input */

// clang-format off
#define NORM_FIELDS(FIELD) \
    FIELD(integer, rows) FIELD(integer, dim) \
    FIELD(integer, group) /* the number of adjacent features that are normalized together */ \
    FIELD(flag, rms) FIELD(integer, gate) FIELD(integer, threads) FIELD(real, eps) \
    FIELD(tensor, x) FIELD(tensor, residual) FIELD(tensor, z) FIELD(tensor, out) /* (rows, dim), features adjacent */ \
    FIELD(tensor, total) /* (rows, dim): x + residual; not stored where absent */ \
    FIELD(tensor, weight) FIELD(tensor, bias) /* (dim,) */

struct norm_args { NORM_FIELDS(MEMBER) };
// clang-format on
