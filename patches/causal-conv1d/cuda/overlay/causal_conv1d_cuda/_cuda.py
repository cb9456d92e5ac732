"""The CUDA code: the three functions of causal-conv1d 1.6.0, with its arguments, as torch operators.

Each writes into tensors that the caller made, and returns nothing. x: (batch, dim, seqlen) in float32, float16 or
bfloat16; weight: (dim, width) and bias: (dim,), of one dtype, which need not be x's; all on one CUDA device.

causal_conv1d_fwd(x, weight, bias, seq_idx, initial_states, out, final_states_out, silu_activation)
    writes out, like x, and final_states_out, (batch, dim, width - 1)
causal_conv1d_bwd(x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, dweight, dbias,
                  dinitial_states, silu_activation)
    writes dx and dinitial_states, like x and initial_states, and adds to dweight and dbias, which are float32
causal_conv1d_update(x, conv_state, weight, bias, out, silu_activation, cache_seqlens, conv_state_indices)
    writes out, like x, and moves conv_state, (batch, dim, state_len) of x's dtype, on
"""

import torch

from causal_conv1d_cuda import _library

__all__ = ["causal_conv1d_bwd", "causal_conv1d_fwd", "causal_conv1d_update"]


def _nothing(*args):
    """An operator that returns nothing has no result to describe."""


_library.load("causal_conv1d_cuda", dict.fromkeys(__all__, _nothing))

causal_conv1d_fwd = torch.ops.causal_conv1d_cuda.causal_conv1d_fwd.default
causal_conv1d_bwd = torch.ops.causal_conv1d_cuda.causal_conv1d_bwd.default
causal_conv1d_update = torch.ops.causal_conv1d_cuda.causal_conv1d_update.default
