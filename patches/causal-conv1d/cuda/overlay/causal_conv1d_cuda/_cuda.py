"""The compiled CUDA functions: the three functions of causal-conv1d 1.6.0, with the same arguments, as torch operators.

Each function writes into tensors that the caller gives, and returns nothing. x: (batch, dim, seqlen) in float32,
float16 or bfloat16. weight: (dim, width) and bias: (dim,) have one dtype, which may differ from the dtype of x. All
tensors are on one CUDA device.

causal_conv1d_fwd(x, weight, bias, seq_idx, initial_states, out, final_states_out, silu_activation)
    writes out, of the shape and dtype of x, and final_states_out, (batch, dim, width - 1)
causal_conv1d_bwd(x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, dweight, dbias,
                  dinitial_states, silu_activation)
    writes dx and dinitial_states, of the shapes and dtypes of x and initial_states; adds to dweight and dbias, which
    are float32
causal_conv1d_update(x, conv_state, weight, bias, out, silu_activation, cache_seqlens, conv_state_indices)
    writes out, of the shape and dtype of x, and updates conv_state, (batch, dim, state_len) of x's dtype, in place
"""

import torch

from causal_conv1d_cuda import _library

__all__ = ["causal_conv1d_bwd", "causal_conv1d_fwd", "causal_conv1d_update"]


def _nothing(*args):
    """The fake of an operator without results: there is no shape or dtype to describe."""


_library.load("causal_conv1d_cuda", dict.fromkeys(__all__, _nothing))

causal_conv1d_fwd = torch.ops.causal_conv1d_cuda.causal_conv1d_fwd.default
causal_conv1d_bwd = torch.ops.causal_conv1d_cuda.causal_conv1d_bwd.default
causal_conv1d_update = torch.ops.causal_conv1d_cuda.causal_conv1d_update.default
