"""The kernels of libselective_scan_cpu.so. The headers of csrc/selective_scan_cpu/ say what each field means."""

from __future__ import annotations

import math

from ._interface import ABSENT, Bytes, Floats, Indices, View, load

library = load("selective_scan_cpu")


@library.kernel
def selective_scan_forward(
    *, batch: int, heads: int, head_dim: int, seqlen: int, dstate: int, groups: int, delta_softplus: bool,
    tied_A: bool, variable_B: bool, variable_C: bool, threads: int, u: View, delta: View, z: View, out: View, A: View,
    D: View, delta_bias: View, B: View, C: View, first_state: View = ABSENT, last_state: View = ABSENT,
    delta_min: float = -math.inf, delta_max: float = math.inf, seq_idx: Indices = 0, rank: int = 0,
    delta_weight: View = ABSENT, onto: View = ABSENT, scale: float = 1.0,
) -> None:  # fmt: skip
    """Stores the scan of u in out."""


@library.kernel
def selective_scan_backward(
    *, batch: int, heads: int, head_dim: int, seqlen: int, dstate: int, groups: int, delta_softplus: bool,
    tied_A: bool, variable_B: bool, variable_C: bool, threads: int, u: View, delta: View, z: View, out: View = ABSENT,
    A: View, D: View, delta_bias: View, B: View, C: View, first_state: View = ABSENT, last_state: View = ABSENT,
    delta_min: float = -math.inf, delta_max: float = math.inf, seq_idx: Indices = 0, rank: int = 0,
    delta_weight: View = ABSENT, onto: View = ABSENT, scale: float = 1.0,
    grad_out: View, grad_u: View, grad_delta: View, grad_z: View,
    grad_A: Floats, grad_D: Floats, grad_bias: Floats, grad_B: Floats, grad_C: Floats,
    batch_parts: int, channel_parts: int,
) -> None:  # fmt: skip
    """Stores the gradients of the inputs, and adds those of B and C."""


@library.kernel
def selective_state_update(
    *, batch: int, heads: int, head_dim: int, dstate: int, groups: int, dt_softplus: bool, A_is_log: bool,
    threads: int, state: View, x: View, dt: View, z: View, out: View, A: View, B: View, C: View, D: View,
    dt_bias: View, state_indices: Indices,
) -> None:  # fmt: skip
    """Stores one step of the scan in out, and advances the state."""


@library.kernel
def layer_norm(
    *, rows: int, dim: int, group: int, rms: bool, gate: int, threads: int, eps: float, x: View, residual: View,
    z: View, out: View, total: View, weight: View, bias: View,
) -> None:  # fmt: skip
    """Stores the norm in out, and x + residual in total."""


@library.kernel
def linear_step(*, rows: int, columns: int, threads: int, weight: View, x: View, bias: View, out: View) -> None:
    """Stores weight x + bias in out."""


@library.kernel
def linear_rows(
    *, rows: int, columns: int, depth: int, threads: int, x: View, weight: View, bias: View, out: View
) -> None:  # fmt: skip
    """Stores x weight^T + bias in out."""


@library.kernel
def quantized_linear(
    *, rows: int, columns: int, tokens: int, bits: int, threads: int, weight: Bytes, scales: View, x: View, bias: View,
    out: View,
) -> None:  # fmt: skip
    """Stores weight x + bias in out, for each token."""


@library.kernel
def mamba_mixer_step(
    *, inner: int, dstate: int, rank: int, width: int, features: int, threads: int, x: View, out: View,
    in_weight: View, in_bias: View, conv_weight: View, conv_bias: View, conv_state: View, x_weight: View,
    dt_weight: View, dt_bias: View, A_log: View, D: View, state: View, out_weight: View, out_bias: View,
    in_packed: Bytes = 0, x_packed: Bytes = 0, out_packed: Bytes = 0,
) -> None:  # fmt: skip
    """Stores the mixer's result for one token in out, and advances both states."""


@library.kernel
def mamba2_mixer_step(
    *, heads: int, head_dim: int, dstate: int, groups: int, mlp: int, width: int, features: int, threads: int,
    dt_min: float, dt_max: float, x: View, out: View, in_weight: View, in_bias: View, in_packed: Bytes,
    conv_weight: View, conv_bias: View, conv_state: View, dt_bias: View, A_log: View, D: View, state: View,
    norm_weight: View, norm_bias: View, norm_group: int, norm_gate: int, norm_eps: float, out_weight: View,
    out_bias: View, out_packed: Bytes,
) -> None:  # fmt: skip
    """Stores the mixer's result for one token in out, and advances both states."""


@library.kernel
def mamba_mixer_forward(
    *, batch: int, seqlen: int, inner: int, dstate: int, rank: int, width: int, features: int, threads: int, x: View,
    out: View, in_weight: View, in_packed: Bytes = 0, in_bias: View = ABSENT, out_weight: View, out_packed: Bytes = 0,
    out_bias: View = ABSENT, conv_weight: View, conv_bias: View = ABSENT, x_weight: View, x_packed: Bytes = 0,
    dt_weight: View, dt_bias: View = ABSENT, A_log: View, D: View = ABSENT, back_conv_weight: View = ABSENT,
    back_conv_bias: View = ABSENT, back_x_weight: View = ABSENT, back_x_packed: Bytes = 0,
    back_dt_weight: View = ABSENT, back_dt_bias: View = ABSENT, back_A_log: View = ABSENT, back_D: View = ABSENT,
    scale: float = 1.0, conv_state: View = ABSENT, state: View = ABSENT,
) -> None:  # fmt: skip
    """Stores the mixer's result for whole sequences in out, and the states after the last step."""


@library.kernel
def mamba3_scan_forward(
    *, sequences: int, seqlen: int, heads: int, groups: int, rank: int, head_dim: int, dstate: int, angles: int,
    neighbours: bool, threads: int, q: View, k: View, v: View, z: View, adt: View, dt: View, trap: View, rates: View,
    q_bias: View, k_bias: View, D: View, mimo_v: View, mimo_z: View, mimo_out: View, first_angle: View, first_v: View,
    first_state: View, first_k: View, bounds: Indices, out: View, last_angle: View, last_state: View, last_k: View,
) -> None:  # fmt: skip
    """Stores Mamba-3's scan of v in out, and the states after the last steps."""


@library.kernel
def mamba3_scan_backward(
    *, sequences: int, seqlen: int, heads: int, groups: int, rank: int, head_dim: int, dstate: int, angles: int,
    neighbours: bool, threads: int, q: View, k: View, v: View, z: View, adt: View, dt: View, trap: View, rates: View,
    q_bias: View, k_bias: View, D: View, mimo_v: View, mimo_z: View, mimo_out: View, first_angle: View, first_v: View,
    first_state: View, first_k: View, bounds: Indices, grad_out: View, grad_v: View, grad_z: View,
    grad_last_angle: View, grad_last_state: View, grad_last_k: View, grad_q: Floats, grad_k: Floats, grad_adt: Floats,
    grad_dt: Floats, grad_trap: Floats, grad_rates: Floats, grad_q_bias: Floats, grad_k_bias: Floats, grad_D: Floats,
    grad_first_angle: Floats, grad_first_state: Floats, grad_first_k: Floats, grad_first_v: Floats, batch: int,
    parts: int,
) -> None:  # fmt: skip
    """Stores the gradients of the inputs of Mamba-3's scan, and adds those of q and k."""


@library.kernel
def mamba3_mixer_step(
    *, heads: int, groups: int, rank: int, head_dim: int, dstate: int, angles: int, features: int, neighbours: bool,
    threads: int, A_floor: float, B_eps: float, C_eps: float, norm_eps: float, x: View, out: View, in_weight: View,
    in_bias: View, dt_bias: View, D: View, B_weight: View, C_weight: View, B_bias: View, C_bias: View, mimo_v: View,
    mimo_z: View, mimo_out: View, norm_weight: View, out_weight: View, out_bias: View, angle: View, state: View,
    k: View, v: View, in_packed: Bytes = 0, out_packed: Bytes = 0,
) -> None:  # fmt: skip
    """Stores the mixer's result for one token in out, and advances its states."""


@library.kernel
def gated_mlp_step(
    *, features: int, hidden: int, threads: int, x: View, out: View, in_weight: View, in_bias: View, in_packed: Bytes,
    out_weight: View, out_bias: View, out_packed: Bytes,
) -> None:  # fmt: skip
    """Stores the result for one token in out."""


@library.kernel
def model_block_step(
    *, mixer: int, arguments: int, features: int, threads: int, hidden: View, residual: View, normed: View,
    norm_weight: View, norm_bias: View, first: bool, rms: bool, eps: float,
) -> None:  # fmt: skip
    """Adds hidden to residual, and stores in hidden what the mixer computes of the sum's norm."""


@library.kernel
def mamba_model_step(
    *, count: int, features: int, vocabulary: int, threads: int, token: int, embedding: View, embedding_packed: Bytes,
    blocks: int, hidden: View, residual: View, norm_weight: View, norm_bias: View, rms: bool, eps: float,
    head_weight: View, head_bias: View, head_packed: Bytes, logits: View,
) -> None:  # fmt: skip
    """Stores a model's logits for the token, and advances the states of all blocks."""
