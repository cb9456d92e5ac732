/* Depthwise causal convolution of width 2 to 4 over (batch, dim, seqlen), optionally followed by silu:

       out[t] = silu(bias + weight[0] x[t - width + 1] + ... + weight[width - 1] x[t]) */
#pragma once

#include "interface.h"

enum { MAX_WIDTH = 4 };

// clang-format off
#define CONV_FIELDS(FIELD) \
    FIELD(integer, batch) FIELD(integer, dim) FIELD(integer, seqlen) FIELD(integer, width) \
    FIELD(flag, silu) FIELD(integer, threads) \
    FIELD(tensor, x) FIELD(tensor, out) /* (batch, dim, seqlen) */ \
    FIELD(tensor, weight) FIELD(tensor, bias) /* (dim, width), (dim,) */ \
    FIELD(tensor, initial_states) /* (batch, dim, width - 1): the inputs before x; zeros where absent */ \
    FIELD(tensor, final_states) /* (batch, dim, width - 1): the last inputs; not stored where absent */ \
    FIELD(indices, seq_idx) /* (batch, seqlen): a tap reads no input of another index. States: index of step 0 */

/* Sums over the batch are stored in float32, contiguous. */
#define CONV_GRADIENT_FIELDS(FIELD) \
    FIELD(tensor, grad_out) FIELD(tensor, grad_x) /* (batch, dim, seqlen) */ \
    FIELD(tensor, grad_initial_states) FIELD(tensor, grad_final_states) /* (batch, dim, width - 1) */ \
    FIELD(floats, grad_weight) FIELD(floats, grad_bias) /* (dim, width), (dim,) */

/* A few steps, where the inputs before them are in a state that is advanced in place. */
#define CONV_UPDATE_FIELDS(FIELD) \
    FIELD(integer, batch) FIELD(integer, dim) FIELD(integer, seqlen) FIELD(integer, width) \
    FIELD(flag, silu) FIELD(integer, threads) FIELD(integer, state_len) \
    FIELD(tensor, x) FIELD(tensor, out) /* (batch, dim, seqlen) */ \
    FIELD(tensor, weight) FIELD(tensor, bias) /* (dim, width), (dim,) */ \
    FIELD(tensor, state) /* (entries, dim, state_len), state_len >= width - 1 */ \
    FIELD(indices, cache_seqlens) /* (batch,): the state is a ring buffer that received so many inputs before */ \
    FIELD(indices, state_indices) /* (batch,): the entry of each row; negative: no entry, and the output is zero */

#define CONV_BACK_FIELDS(FIELD) CONV_FIELDS(FIELD) CONV_GRADIENT_FIELDS(FIELD)

struct conv_args { CONV_FIELDS(MEMBER) };
struct conv_back_args { struct conv_args conv; CONV_GRADIENT_FIELDS(MEMBER) };
struct conv_update_args { CONV_UPDATE_FIELDS(MEMBER) };

#define CONV_KERNELS(KERNEL) \
    KERNEL(causal_conv1d_forward, conv_forward, conv_args, CONV_FIELDS) \
    KERNEL(causal_conv1d_backward, conv_backward, conv_back_args, CONV_BACK_FIELDS) \
    KERNEL(causal_conv1d_update, conv_update, conv_update_args, CONV_UPDATE_FIELDS)
CONV_KERNELS(DECLARE_KERNEL)
// clang-format on
