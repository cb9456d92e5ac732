"""The kernels of libcausal_conv1d_cpu.so. csrc/causal_conv1d_cpu/conv.h says what each field means."""

from __future__ import annotations

from ._interface import ABSENT, Floats, Indices, View, load

library = load("causal_conv1d_cpu")


@library.kernel
def causal_conv1d_forward(
    *, batch: int, dim: int, seqlen: int, width: int, silu: bool, threads: int, x: View, out: View, weight: View,
    bias: View, initial_states: View, final_states: View, seq_idx: Indices,
) -> None:  # fmt: skip
    """Stores the convolution of x in out."""


@library.kernel
def causal_conv1d_backward(
    *, batch: int, dim: int, seqlen: int, width: int, silu: bool, threads: int, x: View, out: View = ABSENT,
    weight: View, bias: View, initial_states: View, final_states: View = ABSENT, seq_idx: Indices,
    grad_out: View, grad_x: View, grad_initial_states: View, grad_final_states: View,
    grad_weight: Floats, grad_bias: Floats,
) -> None:  # fmt: skip
    """Stores the gradients of the inputs."""


@library.kernel
def causal_conv1d_update(
    *, batch: int, dim: int, seqlen: int, width: int, silu: bool, threads: int, state_len: int, x: View, out: View,
    weight: View, bias: View, state: View, cache_seqlens: Indices, state_indices: Indices,
) -> None:  # fmt: skip
    """Stores the convolution of the state followed by x in out, and advances the state."""
