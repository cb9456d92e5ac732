"""The causal convolution: its forward, backward and update kernels as torch operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _lib, _library
from ._interface import DTYPES, View
from ._library import view

_ops = torch.library.Library("causal_conv1d_cpu", "FRAGMENT")


def supports(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
) -> bool:
    """Whether `causal_conv1d` takes these tensors: on the CPU, float32, bfloat16 or float16, width 2 to 4."""
    return (
        _library.readable(x, weight, bias, initial_states)
        and x.dim() == 3
        and 2 <= weight.shape[-1] <= 4
        and _library.countable(seq_idx)
        and (initial_states is None or initial_states.dtype == x.dtype)
    )


def supports_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> bool:
    """Whether `causal_conv1d_update` takes these tensors, and no gradient is wanted."""
    return (
        _library.readable(x, conv_state, weight, bias)
        and x.dim() in (2, 3)
        and 2 <= weight.shape[-1] <= 4
        and conv_state.dtype == x.dtype
        and _library.countable(cache_seqlens)
        and _library.countable(conv_state_indices)
        and not _library.wants_grad(x, weight, bias)
    )


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: str | None = None,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolves each channel of x with its own `width` taps, looking back only; differentiable.

    Args:
        x: (batch, dim, seqlen), float32, bfloat16 or float16
        weight: (dim, width), width 2 to 4
        bias: (dim,)
        seq_idx: (batch, seqlen), integer: sequences packed in one row do not see each other; negative is padding
        initial_states: (batch, dim, width - 1) of x's dtype, what came before x; with seq_idx, these inputs belong to
            the sequence of the first step
        return_final_states: whether to return the last width - 1 inputs as well
        activation: None, "silu" or "swish"
        reverse: whether time runs from the last step to the first; only without seq_idx and states

    Returns:
        out of x's shape and dtype; with `return_final_states` the pair (out, final_states), the latter
        (batch, dim, width - 1) in x's dtype.

    Raises:
        NotImplementedError: another activation.
        IndexError: seq_idx holds a number that int32 does not hold.
        ValueError: shapes that do not fit each other.
    """
    silu = _wants_silu(activation)
    seq_idx = _library.indices("seq_idx", seq_idx)
    args = (x, weight, bias, seq_idx, initial_states, bool(return_final_states), silu, bool(reverse))
    if _library.is_plain_call(x, weight, bias, seq_idx, initial_states):
        out, final_states = _forward(*args, direct=True)
    else:
        out, final_states = torch.ops.causal_conv1d_cpu.conv(*args)
    return (out, final_states) if return_final_states else out


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Convolves the state followed by x, and moves the state on, in place; not differentiable.

    Args:
        x: (batch, dim) or (batch, dim, seqlen)
        conv_state: (entries, dim, state_len) of x's dtype, state_len >= width - 1
        weight: (dim, width), width 2 to 4
        bias: (dim,)
        activation: None, "silu" or "swish"
        cache_seqlens: (batch,), integer: the state is a ring, and this many inputs have gone in
        conv_state_indices: (batch,), integer: the entry of each batch row; negative is padding, which gives zeros

    Returns:
        out of x's shape and dtype.

    Raises:
        NotImplementedError: another activation.
        IndexError: an entry past the end of conv_state, or a number of cache_seqlens that int32 does not hold.
        RuntimeError: conv_state has elements that share memory.
        ValueError: shapes that do not fit each other.
    """
    cache_seqlens = _library.indices("cache_seqlens", cache_seqlens)
    conv_state_indices = _library.indices("conv_state_indices", conv_state_indices)
    args = (x, conv_state, weight, bias, cache_seqlens, conv_state_indices, _wants_silu(activation))
    if _library.is_plain_call(*args[:6]):
        return _update(*args)
    return torch.ops.causal_conv1d_cpu.update(*args)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    return_final_states: bool,
    silu: bool,
    reverse: bool,
    direct: bool = False,
) -> tuple[Tensor, Tensor]:
    """direct: not called as an operator of torch, so without final states, `out` may be both results."""
    batch, dim, seqlen = x.shape
    _check_weights(dim, weight, bias)
    _check_shape("seq_idx", seq_idx, (batch, seqlen))
    _check_shape("initial_states", initial_states, (batch, dim, weight.shape[1] - 1))
    if reverse and (seq_idx is not None or initial_states is not None or return_final_states):
        raise ValueError("reverse goes with neither seq_idx nor states")
    out = _library.output_like(x)
    final_states = out if direct and not return_final_states else _final_states(x, weight, return_final_states)
    _lib.causal_conv1d_forward(
        batch=batch, dim=dim, seqlen=seqlen, width=weight.shape[1], silu=silu, threads=torch.get_num_threads(),
        x=_in_time(x, reverse), out=_in_time(out, reverse), weight=view(weight), bias=view(bias),
        initial_states=view(initial_states), final_states=view(final_states if return_final_states else None),
        seq_idx=_address(seq_idx),
    )  # fmt: skip
    return out, final_states


def _final_states(x: Tensor, weight: Tensor, wanted: bool) -> Tensor:
    # Channels are innermost, as in the CUDA extension's result.
    width = weight.shape[1]
    return x.new_empty(x.shape[0], width - 1, x.shape[1]).transpose(1, 2) if wanted else x.new_empty(0)


def _backward(
    grad_out: Tensor,
    grad_final_states: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, dim, seqlen = x.shape
    grad_x = _library.output_like(x)
    grad_initial = None if initial_states is None else torch.empty_like(initial_states)
    grad_weight = torch.zeros_like(weight, dtype=torch.float32, memory_format=torch.contiguous_format)
    grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
    _lib.causal_conv1d_backward(
        batch=batch, dim=dim, seqlen=seqlen, width=weight.shape[1], silu=silu, threads=torch.get_num_threads(),
        x=_in_time(x, reverse), weight=view(weight), bias=view(bias), initial_states=view(initial_states),
        seq_idx=_address(seq_idx), grad_out=_in_time(grad_out, reverse), grad_x=_in_time(grad_x, reverse),
        grad_initial_states=view(grad_initial), grad_final_states=view(grad_final_states),
        grad_weight=grad_weight.data_ptr(), grad_bias=_address(grad_bias),
    )  # fmt: skip
    empty = x.new_empty(0)
    return (
        grad_x,
        grad_weight.to(weight.dtype),
        empty if bias is None or grad_bias is None else grad_bias.to(bias.dtype),
        empty if initial_states is None else grad_initial,
    )


def _update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
    silu: bool,
) -> Tensor:
    rows = x.unsqueeze(-1) if x.dim() == 2 else x
    batch, dim, seqlen = rows.shape
    entries, _, state_len = conv_state.shape
    width = weight.shape[1]
    _check_weights(dim, weight, bias)
    _check_shape("cache_seqlens", cache_seqlens, (batch,))
    _check_shape("conv_state_indices", conv_state_indices, (batch,))
    if conv_state.shape[1] != dim or state_len < width - 1 or (conv_state_indices is None and entries != batch):
        raise ValueError(f"conv_state has shape {tuple(conv_state.shape)}, which does not fit x {tuple(rows.shape)}")
    if conv_state_indices is not None and batch and int(conv_state_indices.max()) >= entries:
        raise IndexError(f"conv_state_indices names entry {int(conv_state_indices.max())} of {entries}")
    rows = _library.apart("conv_state", conv_state, rows)
    out = torch.empty_like(rows)
    _lib.causal_conv1d_update(
        batch=batch, dim=dim, seqlen=seqlen, width=width, silu=silu, threads=torch.get_num_threads(),
        state_len=state_len, x=view(rows), out=view(out), weight=view(weight), bias=view(bias), state=view(conv_state),
        cache_seqlens=_address(cache_seqlens), state_indices=_address(conv_state_indices),
    )  # fmt: skip
    _library.written(conv_state)
    return out.squeeze(-1) if x.dim() == 2 else out


def _in_time(tensor: Tensor | None, reverse: bool) -> View:
    """(batch, dim, seqlen), running backwards from the last step where `reverse` says so."""
    if tensor is None or not reverse:
        return view(tensor)
    batch, dim, step = tensor.stride()
    last = max(0, tensor.shape[-1] - 1) * step * tensor.element_size()
    return (_library.address(tensor) + last, DTYPES[tensor.dtype], batch, dim, -step, 0)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else _library.address(tensor)


def _wants_silu(activation: str | None) -> bool:
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError(f"activation must be None, silu or swish, not {activation!r}")
    return activation is not None


def _check_weights(dim: int, weight: Tensor, bias: Tensor | None) -> None:
    if weight.dim() != 2 or weight.shape[0] != dim or not 2 <= weight.shape[1] <= 4:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected ({dim}, 2 to 4)")
    _check_shape("bias", bias, (dim,))


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def _fake_forward(x: Tensor, weight: Tensor, return_final_states: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _final_states(x, weight, return_final_states)


def _fake_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_states: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(t: Tensor | None) -> Tensor:
        return x.new_empty(0) if t is None else torch.empty_like(t)

    weight_like = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return torch.empty_like(x), weight_like, like(bias), like(initial_states)


def _fake_update(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, ctx.return_final_states, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_out: Tensor | None, grad_final_states: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, seq_idx, initial_states = ctx.saved_tensors
    if not ctx.return_final_states:
        grad_final_states = None
    if grad_out is None:
        if grad_final_states is None:
            return (None,) * 8
        grad_out = torch.zeros_like(x)
    grads = torch.ops.causal_conv1d_cpu.conv_backward(
        grad_out, grad_final_states, x, weight, bias, seq_idx, initial_states, ctx.silu, ctx.reverse
    )
    grad_bias = None if bias is None else grads[2]
    grad_initial = None if initial_states is None else grads[3]
    return grads[0], grads[1], grad_bias, None, grad_initial, None, None, None


_library.register(_ops, "conv", _forward, _fake_forward)
_library.register(_ops, "conv_backward", _backward, _fake_backward)
_library.register(_ops, "update", _update, _fake_update, writes=(1,))
_library.differentiable(_ops, "conv", _autograd, _setup_context, "CAUSAL_CONV1D_FORCE_FALLBACK")
