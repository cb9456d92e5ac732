"""Which code runs for which tensor.

The CUDA extension for a CUDA tensor, the compiled kernel for a CPU tensor, plain PyTorch for all else,
and for everything where CAUSAL_CONV1D_FORCE_FALLBACK is set. Under torch.onnx.export, `exporting` for all.
"""

import os
import warnings

import torch
from torch.autograd import forward_ad

from causal_conv1d import exporting, fallback

try:
    import causal_conv1d_cuda

    if not getattr(causal_conv1d_cuda, "HAS_CUDA", True):  # the module of a CPU wheel, for code that imports it
        causal_conv1d_cuda = None
except ModuleNotFoundError:
    causal_conv1d_cuda = None
except ImportError as error:  # there, but for another torch: say so, or nobody learns why it is slow
    warnings.warn(f"causal_conv1d_cuda is installed but does not load, and is not used: {error}", stacklevel=2)
    causal_conv1d_cuda = None

try:
    import causal_conv1d_cpu
except ModuleNotFoundError:  # a wheel without compiled kernels
    causal_conv1d_cpu = None
except ImportError as error:
    warnings.warn(
        f"causal_conv1d_cpu is installed but does not load; PyTorch computes in its place: {error}", stacklevel=2
    )
    causal_conv1d_cpu = None


def force_fallback():
    """True where CAUSAL_CONV1D_FORCE_FALLBACK asks for plain PyTorch. Read at each call."""
    word = os.environ.get("CAUSAL_CONV1D_FORCE_FALLBACK")
    return word is not None and word.strip().upper() in ("TRUE", "1", "YES", "ON")


def use_cuda(x):
    """True where the CUDA extension takes x: not an empty sequence."""
    return (
        x.is_cuda
        and (torch.compiler.is_compiling() or x.numel() > 0)  # in a graph, the comparison would fix the number
        and causal_conv1d_cuda is not None
        and not (force_fallback() or exporting.form())
    )


def use_cpu_kernel(x):
    """True where the compiled kernel may be asked whether it supports a call with x."""
    return x.is_cpu and causal_conv1d_cpu is not None and not (force_fallback() or _transformed() or exporting.form())


def _transformed():
    """True within torch.func's transforms and forward-mode gradients: they follow PyTorch, not a kernel."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def causal_conv1d_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
    reverse=False,
):
    """`causal_conv1d.causal_conv1d_fn` for a tensor that the CUDA extension does not take.

    reverse: time runs from the last input to the first, as if x and out were flipped; not with seq_idx or states.
    """
    _check(x, weight, bias, activation)
    batch, dim, seqlen = x.shape
    assert not reverse or (seq_idx is None and initial_states is None and not return_final_states)
    if seq_idx is not None:
        assert not return_final_states, "If seq_idx is not None, we don't return final_states_out"
        _check_shape("seq_idx", seq_idx, (batch, seqlen))
    if initial_states is not None:
        _check_shape("initial_states", initial_states, (batch, dim, weight.shape[1] - 1))
    if exporting.form() and seq_idx is None:
        result = exporting.causal_conv1d_fn(
            x, weight, bias, initial_states, return_final_states, activation, reverse
        )
        if return_final_states and final_states_out is not None:
            return result[0], final_states_out.copy_(result[1])
        return result
    if use_cpu_kernel(x) and causal_conv1d_cpu.supports(x, weight, bias, seq_idx, initial_states):
        result = causal_conv1d_cpu.causal_conv1d(
            x, weight, bias, seq_idx, initial_states, return_final_states, activation, reverse
        )
        if return_final_states and final_states_out is not None:
            return result[0], final_states_out.copy_(result[1])
        return result
    if reverse:
        return fallback.causal_conv1d_fn(x.flip([-1]), weight, bias, activation=activation).flip([-1])
    return fallback.causal_conv1d_fn(
        x, weight, bias, seq_idx, initial_states, return_final_states, final_states_out, activation
    )


def causal_conv1d_update(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices):
    """The update of a 3-d x that the CUDA extension does not take; see fallback.causal_conv1d_update."""
    if torch.is_grad_enabled():
        with torch.no_grad():
            return _update(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
    return _update(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)


def _update(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices):
    _check(x, weight, bias, activation)
    if conv_state.shape[2] < weight.shape[1] - 1:
        raise RuntimeError(
            f"conv_state holds {conv_state.shape[2]} inputs, and a width of {weight.shape[1]} "
            f"needs at least {weight.shape[1] - 1}"
        )
    rows = x.shape[0] if conv_state_indices is None else conv_state.shape[0]
    _check_shape("conv_state", conv_state, (rows, x.shape[1], conv_state.shape[2]))
    if exporting.form() and cache_seqlens is None and conv_state_indices is None:
        return exporting.causal_conv1d_update(x, conv_state, weight, bias, activation)
    run = fallback.causal_conv1d_update
    if use_cpu_kernel(x) and causal_conv1d_cpu.supports_update(
        x, conv_state, weight, bias, cache_seqlens, conv_state_indices
    ):
        run = causal_conv1d_cpu.causal_conv1d_update
    return run(x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)


def _check(x, weight, bias, activation):
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError("activation must be None, silu, or swish")
    if x.dim() != 3:
        raise RuntimeError(f"x must have shape (batch, dim, seqlen), and has {tuple(x.shape)}")
    if not (x.is_floating_point() and weight.is_floating_point()):
        raise RuntimeError(f"x and weight must be floating point, and are {x.dtype} and {weight.dtype}")
    _check_shape("weight", weight, (x.shape[1], weight.shape[-1]))
    if bias is not None:
        _check_shape("bias", bias, (x.shape[1],))


def _check_shape(name, tensor, shape):
    if tensor.shape != shape:
        raise RuntimeError(f"{name} must have shape {tuple(shape)}, and has {tuple(tensor.shape)}")
