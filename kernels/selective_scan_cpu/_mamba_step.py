"""A whole Mamba-1 mixer on one token, as decoding wants it: one call instead of a dozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")


def supports_mamba_step(x: Tensor, conv_state: Tensor, ssm_state: Tensor, *parameters: Any) -> bool:
    """Whether `mamba_step` takes these tensors: one token, on the CPU, of 16 or 32 bits, no gradient wanted."""
    in_weight, _, _, _, x_weight, dt_weight, _, _, _, out_weight, _ = parameters
    return (
        _library.readable(x, conv_state, ssm_state, *parameters)
        and x.numel() == x.shape[-1]
        and in_weight.stride(1) == x_weight.stride(1) == dt_weight.stride(1) == out_weight.stride(1) == 1
        and not _library.wants_grad(x, *parameters)
    )


def mamba_step(
    x: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
) -> Tensor:
    """Mamba's projections, convolution and state update for one token, computed in float32. Not differentiable.

    Args:
        x: (..., d_model), all axes but the last of length 1
        conv_state: (1, dim, width), the last inputs of the convolution; moved on in place
        ssm_state: (1, dim, dstate); moved on in place
        in_weight: (2 * dim, d_model); in_bias: (2 * dim,)
        conv_weight: (dim, 1, width); conv_bias: (dim,)
        x_weight: (dt_rank + 2 * dstate, dim)
        dt_weight: (dim, dt_rank); dt_bias: (dim,)
        A_log: (dim, dstate), of which A is -exp(A_log); D: (dim,)
        out_weight: (d_model, dim); out_bias: (d_model,)

    Returns:
        (..., d_model) in x's dtype.

    Raises:
        RuntimeError: a state has elements that share memory.
        ValueError: shapes that do not fit each other.
    """
    args = (
        x, conv_state, ssm_state, in_weight, in_bias, conv_weight, conv_bias,
        x_weight, dt_weight, dt_bias, A_log, D, out_weight, out_bias,
    )  # fmt: skip
    if _library.is_plain_call(*args):
        return _step(*args)
    with torch.no_grad():
        return torch.ops.selective_scan_cpu.mamba_step(*args)


def _step(
    x: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor | None,
    A_log: Tensor,
    D: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
) -> Tensor:
    (dim, rank), dstate, width, features = dt_weight.shape, A_log.shape[1], conv_weight.shape[-1], in_weight.shape[1]
    for name, tensor, shape in (
        ("x", x, (*(1,) * (x.dim() - 1), features)),
        ("conv_state", conv_state, (1, dim, width)),
        ("ssm_state", ssm_state, (1, dim, dstate)),
        ("in_weight", in_weight, (2 * dim, features)),
        ("in_bias", in_bias, (2 * dim,)),
        ("conv_weight", conv_weight, (dim, 1, width)),
        ("conv_bias", conv_bias, (dim,)),
        ("x_weight", x_weight, (rank + 2 * dstate, dim)),
        ("dt_bias", dt_bias, (dim,)),
        ("A_log", A_log, (dim, dstate)),
        ("D", D, (dim,)),
        ("out_weight", out_weight, (features, dim)),
        ("out_bias", out_bias, (features,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    x = _library.apart("ssm_state", ssm_state, _library.apart("conv_state", conv_state, x))
    # The kernel reads rows whose elements are next to each other.
    x, in_bias, out_bias = x.contiguous(), _library.contiguous(in_bias), _library.contiguous(out_bias)
    in_weight, x_weight, dt_weight, out_weight = [
        weight if weight.stride(1) == 1 else weight.contiguous()
        for weight in (in_weight, x_weight, dt_weight, out_weight)
    ]
    out = torch.empty_like(x)
    _lib.mamba_mixer_step(
        inner=dim, dstate=dstate, rank=rank, width=width, features=features, threads=torch.get_num_threads(),
        x=view(x, -1), out=view(out, -1), in_weight=view(in_weight), in_bias=view(in_bias),
        conv_weight=view(conv_weight, 0, 2), conv_bias=view(conv_bias), conv_state=view(conv_state, 1, 2),
        x_weight=view(x_weight), dt_weight=view(dt_weight), dt_bias=view(dt_bias), A_log=view(A_log), D=view(D),
        state=view(ssm_state, 1, 2), out_weight=view(out_weight), out_bias=view(out_bias),
    )  # fmt: skip
    _library.written(conv_state, ssm_state)
    return out


def _fake_step(x: Tensor) -> Tensor:
    return torch.empty_like(x)


_library.register(_ops, "mamba_step", _step, _fake_step, writes=(1, 2))
