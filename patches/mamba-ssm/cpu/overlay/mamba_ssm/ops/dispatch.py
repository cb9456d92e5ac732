"""Which code runs for which tensor.

CUDA code, compiled or triton, for a CUDA tensor; the compiled kernel for a CPU tensor; plain PyTorch for
all else, and for everything where SELECTIVE_SCAN_FORCE_FALLBACK is set. Under torch.onnx.export, `exporting`
for all.
"""

import os
import warnings

import torch
from torch.autograd import forward_ad

from mamba_ssm.ops import exporting, fallback
from mamba_ssm.ops.cuda_extension import selective_scan_cuda
from mamba_ssm.utils.triton_compat import HAS_TRITON

try:
    import selective_scan_cpu
except ModuleNotFoundError:  # a wheel without compiled kernels
    selective_scan_cpu = None
except ImportError as error:
    warnings.warn(
        f"selective_scan_cpu is installed but does not load; PyTorch computes in its place: {error}", stacklevel=2
    )
    selective_scan_cpu = None


def force_fallback():
    """True where SELECTIVE_SCAN_FORCE_FALLBACK asks for plain PyTorch. Read at each call."""
    word = os.environ.get("SELECTIVE_SCAN_FORCE_FALLBACK")
    return word is not None and word.strip().upper() in ("TRUE", "1", "YES", "ON")


def use_cuda(x):
    """True where selective_scan_cuda takes x: not an empty sequence, which has no last state."""
    return _on_gpu(x) and bool(selective_scan_cuda)


def use_triton(x):
    """True where triton kernels take x: not an empty sequence."""
    return _on_gpu(x) and HAS_TRITON


def _on_gpu(x):
    # In a graph, a comparison of the number of elements would fix it.
    there = x.is_cuda and (torch.compiler.is_compiling() or x.numel() > 0)
    return there and not (force_fallback() or exporting.form())


def check_triton(x, instead):
    """Raise RuntimeError for a tensor that no triton kernel takes; `instead` names the function that takes any."""
    if not (x.is_cuda and HAS_TRITON):
        raise RuntimeError(f"this launches triton kernels, for tensors on a GPU with triton; {instead} takes any")


def use_cpu_kernel(x):
    """True where the compiled kernels may be asked whether they support a call with x."""
    return x.is_cpu and selective_scan_cpu is not None and not (force_fallback() or _transformed() or exporting.form())


def prefers_rows(x):
    """True where the steps after x are quicker with the features of a step innermost."""
    return use_cpu_kernel(x) or exporting.form() is not None


def _transformed():
    """True within torch.func's transforms and forward-mode gradients: they follow PyTorch, not a kernel."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def selective_scan(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    reverse=False,
):
    """`selective_scan_fn` for a tensor that selective_scan_cuda does not take.

    reverse: time runs from the last step to the first, as if all inputs and out were flipped.
    """
    delta_softplus = bool(delta_softplus)
    if exporting.form():
        return exporting.selective_scan(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, reverse
        )
    if use_cpu_kernel(u) and selective_scan_cpu.supports(u, delta, A, B, C, D, z, delta_bias):
        return selective_scan_cpu.selective_scan(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, reverse
        )
    if not reverse:
        return fallback.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    flipped = flip(u, delta, A, B, C, D, z)
    result = fallback.selective_scan(*flipped, delta_bias, delta_softplus, return_last_state)
    return (result[0].flip([-1]), result[1]) if return_last_state else result.flip([-1])


def projected_scan(
    u,
    projected,
    delta_weight,
    A,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    onto=None,
    scale=1.0,
    reverse=False,
):
    """scale * (onto + the scan with delta, B and C still in one tensor), for a tensor that CUDA does not take.

    projected: (batch, delta_rank + 2 * dstate, seqlen); delta_weight: (dim, delta_rank); A: (dim, dstate), real
    onto: like the result, whose memory it may become
    """
    tensors = (u, projected, delta_weight, A, D, z, delta_bias)
    if use_cpu_kernel(u) and selective_scan_cpu.supports_projected_scan(*tensors, onto):
        return selective_scan_cpu.projected_scan(*tensors, bool(delta_softplus), onto, scale, reverse=reverse)
    rank, dstate = delta_weight.shape[1], A.shape[1]
    delta, B, C = projected.split([rank, dstate, dstate], dim=1)
    y = selective_scan(u, delta_weight @ delta, A, B, C, D, z, delta_bias, delta_softplus, reverse=reverse)
    return added(y, onto, scale)


def added(y, onto, scale):
    """scale * (onto + y); onto may be None."""
    y = y if onto is None else onto + y
    return y if scale == 1 else y * scale


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None
):
    """`selective_state_update` for a tensor that triton does not take."""
    arguments = (state, x, dt, A, B, C, D, z, dt_bias, bool(dt_softplus), state_batch_indices)
    if exporting.form() == "fused" and state_batch_indices is None:
        return exporting.selective_state_update(*arguments[:-1])
    if use_cpu_kernel(x) and selective_scan_cpu.supports_state_update(*arguments):
        return selective_scan_cpu.selective_state_update(*arguments)
    return fallback.selective_state_update(*arguments)


def layer_norm(
    x,
    weight,
    bias,
    residual=None,
    x1=None,
    weight1=None,
    bias1=None,
    eps=1e-6,
    dropout_p=0.0,
    rowscale=None,
    prenorm=False,
    residual_in_fp32=False,
    is_rms_norm=False,
    return_dropout_mask=False,
):
    """`layer_norm_fn` for a tensor that triton does not take."""
    plain = x1 is None and weight1 is None and rowscale is None and not dropout_p and not return_dropout_mask
    if plain and exporting.form() == "fused":
        return exporting.layer_norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm)
    if plain and use_cpu_kernel(x) and selective_scan_cpu.supports_norm(x, weight, bias, residual):
        return selective_scan_cpu.layer_norm(
            x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm
        )
    return fallback.layer_norm(
        x,
        weight,
        bias,
        residual,
        x1,
        weight1,
        bias1,
        eps,
        dropout_p,
        rowscale,
        prenorm,
        residual_in_fp32,
        is_rms_norm,
        return_dropout_mask,
    )


def gated_norm(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True, is_rms_norm=False):
    """`layernorm_fn` of layernorm_gated for a tensor that triton does not take."""
    if exporting.form() == "fused":
        return exporting.gated_norm(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm)
    run = fallback.gated_norm
    if use_cpu_kernel(x) and selective_scan_cpu.supports_norm(x, weight, bias, z=z):
        run = selective_scan_cpu.gated_norm
    return run(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm)


def mamba_chunk_scan_combined(
    x,
    dt,
    A,
    B,
    C,
    chunk_size,
    D=None,
    z=None,
    dt_bias=None,
    initial_states=None,
    seq_idx=None,
    cu_seqlens=None,
    dt_softplus=False,
    dt_limit=(0.0, float("inf")),
    return_final_states=False,
    return_varlen_states=False,
):
    """`mamba_chunk_scan_combined` for a tensor that triton does not take."""
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx)
    if exporting.form() and not return_varlen_states:
        return exporting.mamba_chunk_scan_combined(*tensors, dt_softplus, dt_limit, return_final_states)
    if not return_varlen_states and use_cpu_kernel(x) and selective_scan_cpu.supports_chunk_scan(*tensors):
        result = selective_scan_cpu.chunk_scan(*tensors, dt_softplus, dt_limit, return_final_states)
        if not return_final_states or seq_idx is None or seq_idx.shape[1] == 0:
            return result
        padded = (seq_idx[:, -1] < 0)[:, None, None, None]  # a row that ends in padding leaves no state
        return result[0], result[1].masked_fill(padded, 0.0)
    return fallback.mamba_chunk_scan_combined(
        x,
        dt,
        A,
        B,
        C,
        chunk_size,
        D,
        z,
        dt_bias,
        initial_states,
        seq_idx,
        cu_seqlens,
        dt_softplus,
        dt_limit,
        return_final_states,
        return_varlen_states,
    )


def flip(u, delta, A, B, C, D, z):
    """The scan's inputs with time reversed."""
    u, delta, z = (None if t is None else t.flip([-1]) for t in (u, delta, z))
    B, C = (t if t.dim() == 2 else _flip_coefficient(t, A.is_complex()) for t in (B, C))
    return u, delta, A, B, C, D, z


def _flip_coefficient(coefficient, is_complex):
    """B or C in reverse; real and imaginary parts stay in order."""
    if is_complex:
        return coefficient.unflatten(-1, (-1, 2)).flip([-2]).flatten(-2)
    return coefficient.flip([-1])


def quantized_linear(x, packed, scales, bias, rows):
    """weight x + bias for weights of 8 or 4 bits, as `fallback.quantized.pack` makes them; x: (..., columns)."""
    if use_cpu_kernel(x) and selective_scan_cpu.supports_quantized_linear(x, packed, scales, bias):
        return selective_scan_cpu.quantized_linear(x, packed, scales, bias, rows)
    if exporting.form():
        return exporting.quantized_linear(x, packed, scales, bias, rows)
    return fallback.quantized.quantized_linear(x, packed, scales, bias, rows)
