"""A whole Mamba-3 mixer on one token, as decoding wants it: one call instead of some forty."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")


def supports_mamba3_step(
    x: Tensor,
    angle_state: Tensor,
    ssm_state: Tensor,
    k_state: Tensor,
    v_state: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    dt_bias: Tensor,
    D: Tensor | None,
    B_weight: Tensor,
    C_weight: Tensor,
    B_bias: Tensor,
    C_bias: Tensor,
    mimo_v: Tensor | None,
    mimo_z: Tensor | None,
    mimo_out: Tensor | None,
    norm_weight: Tensor | None,
) -> bool:
    """Whether `mamba3_step` takes these tensors: one token, on the CPU, of 16 or 32 bits, no gradient wanted."""
    parameters = (
        in_weight, in_bias, out_weight, out_bias, dt_bias, D, B_weight, C_weight, B_bias, C_bias, mimo_v, mimo_z,
        mimo_out, norm_weight,
    )  # fmt: skip
    return (
        _library.readable(x, angle_state, ssm_state, k_state, v_state, *parameters)
        and x.numel() == x.shape[-1]
        and angle_state.shape[0] == 1
        and ssm_state.stride(3) == in_weight.stride(1) == out_weight.stride(1) == 1
        and not _library.wants_grad(x, *parameters)
    )


def mamba3_step(
    x: Tensor,
    angle_state: Tensor,
    ssm_state: Tensor,
    k_state: Tensor,
    v_state: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    dt_bias: Tensor,
    D: Tensor | None,
    B_weight: Tensor,
    C_weight: Tensor,
    B_bias: Tensor,
    C_bias: Tensor,
    mimo_v: Tensor | None,
    mimo_z: Tensor | None,
    mimo_out: Tensor | None,
    norm_weight: Tensor | None,
    groups: int,
    neighbours: bool,
    A_floor: float,
    B_eps: float,
    C_eps: float,
    norm_eps: float,
) -> Tensor:
    """A Mamba-3 mixer's projections, norms, rotation and state for one token, in float32. Not differentiable.

    Args:
        x: (..., d_model), all axes but the last of length 1
        angle_state: (1, heads, angles); moved on in place, as all states
        ssm_state: (1, heads, head_dim, dstate), its last axis with stride 1
        k_state: (1, rank, heads, dstate); v_state: (1, heads, head_dim)
        in_weight: (2 * heads * head_dim + 2 * rank * groups * dstate + 3 * heads + angles, d_model), the rows of z, v,
            B, C, dt, A, trap and the angles; in_bias: its rows
        out_weight: (d_model, heads * head_dim); out_bias: (d_model,)
        dt_bias, D: (heads,)
        B_weight, C_weight: (dstate,), of the norms of B and C; B_bias, C_bias: (heads, rank, dstate)
        mimo_v, mimo_z, mimo_out: (heads, rank, head_dim), or None for a rank of 1
        norm_weight: (heads * head_dim,), of the norm of each head's output; None: no norm
        neighbours: whether elements 2 i and 2 i + 1 of B and C are rotated, not elements i and i + dstate // 2
        A_floor: the least that -A may be

    Returns:
        (..., d_model) in x's dtype.

    Raises:
        RuntimeError: a state has elements that share memory.
        ValueError: shapes that do not fit each other.
    """
    tensors = (
        x, angle_state, ssm_state, k_state, v_state, in_weight, in_bias, out_weight, out_bias, dt_bias, D, B_weight,
        C_weight, B_bias, C_bias, mimo_v, mimo_z, mimo_out, norm_weight,
    )  # fmt: skip
    rest = (groups, bool(neighbours), float(A_floor), float(B_eps), float(C_eps), float(norm_eps))
    if _library.is_plain_call(*tensors):
        return _step(*tensors, *rest)
    with torch.no_grad():
        return torch.ops.selective_scan_cpu.mamba3_step(*tensors, *rest)


def _step(
    x: Tensor,
    angle_state: Tensor,
    ssm_state: Tensor,
    k_state: Tensor,
    v_state: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    dt_bias: Tensor,
    D: Tensor | None,
    B_weight: Tensor,
    C_weight: Tensor,
    B_bias: Tensor,
    C_bias: Tensor,
    mimo_v: Tensor | None,
    mimo_z: Tensor | None,
    mimo_out: Tensor | None,
    norm_weight: Tensor | None,
    groups: int,
    neighbours: bool,
    A_floor: float,
    B_eps: float,
    C_eps: float,
    norm_eps: float,
) -> Tensor:
    (heads, rank, dstate), head_dim, angles = B_bias.shape, ssm_state.shape[2], angle_state.shape[2]
    inner, features = heads * head_dim, in_weight.shape[1]
    rows = 2 * inner + 2 * rank * groups * dstate + 3 * heads + angles
    if groups <= 0 or heads % groups:
        raise ValueError(f"{heads} heads are not a multiple of {groups} groups")
    if 2 * angles > dstate:
        raise ValueError(f"{angles} angles rotate {2 * angles} elements, and B and C have {dstate}")
    weights = [weight is None for weight in (mimo_v, mimo_z, mimo_out)]
    if any(weights) and not (all(weights) and rank == 1):
        raise ValueError("mimo_v, mimo_z and mimo_out are given together, and for a rank above 1")
    for name, tensor, shape in (
        ("x", x, (*(1,) * (x.dim() - 1), features)),
        ("angle_state", angle_state, (1, heads, angles)),
        ("ssm_state", ssm_state, (1, heads, head_dim, dstate)),
        ("k_state", k_state, (1, rank, heads, dstate)),
        ("v_state", v_state, (1, heads, head_dim)),
        ("in_weight", in_weight, (rows, features)),
        ("in_bias", in_bias, (rows,)),
        ("out_weight", out_weight, (features, inner)),
        ("out_bias", out_bias, (features,)),
        ("dt_bias", dt_bias, (heads,)),
        ("D", D, (heads,)),
        ("B_weight", B_weight, (dstate,)),
        ("C_weight", C_weight, (dstate,)),
        ("B_bias", B_bias, (heads, rank, dstate)),
        ("C_bias", C_bias, (heads, rank, dstate)),
        ("mimo_v", mimo_v, (heads, rank, head_dim)),
        ("mimo_z", mimo_z, (heads, rank, head_dim)),
        ("mimo_out", mimo_out, (heads, rank, head_dim)),
        ("norm_weight", norm_weight, (inner,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    states = (("angle_state", angle_state), ("ssm_state", ssm_state), ("k_state", k_state), ("v_state", v_state))
    for name, state in states:
        x = _library.apart(name, state, x)
    x, in_bias, out_bias = x.contiguous(), _library.contiguous(in_bias), _library.contiguous(out_bias)
    in_weight, out_weight = (w if w.stride(1) == 1 else w.contiguous() for w in (in_weight, out_weight))
    kept = ssm_state
    if ssm_state.stride(3) != 1:
        ssm_state = ssm_state.contiguous()
    out = torch.empty_like(x)
    _lib.mamba3_mixer_step(
        heads=heads, groups=groups, rank=rank, head_dim=head_dim, dstate=dstate, angles=angles, features=features,
        neighbours=neighbours, threads=torch.get_num_threads(), A_floor=A_floor, B_eps=B_eps, C_eps=C_eps,
        norm_eps=norm_eps, x=view(x, -1), out=view(out, -1), in_weight=view(in_weight), in_bias=view(in_bias),
        dt_bias=view(dt_bias), D=view(D), B_weight=view(B_weight), C_weight=view(C_weight), B_bias=view(B_bias),
        C_bias=view(C_bias), mimo_v=view(mimo_v), mimo_z=view(mimo_z), mimo_out=view(mimo_out),
        norm_weight=view(norm_weight), out_weight=view(out_weight), out_bias=view(out_bias),
        angle=view(angle_state, 1, 2), state=view(ssm_state, 1, 2, 3), k=view(k_state, 1, 2, 3), v=view(v_state, 1, 2),
    )  # fmt: skip
    if kept is not ssm_state:
        kept.copy_(ssm_state)
    _library.written(angle_state, kept, k_state, v_state)
    return out


def _fake_step(x: Tensor) -> Tensor:
    return torch.empty_like(x)


_library.register(_ops, "mamba3_step", _step, _fake_step, writes=(1, 2, 3, 4))
