"""The separate steps of functions that CUDA computes as one fused function, for tensors that CUDA does not support.

Each step uses the fastest function for its tensors, and autograd differentiates the result.
"""

import warnings

import torch
import torch.nn.functional as F

from mamba_ssm.ops import dispatch, exporting, fallback
from mamba_ssm.ops.fallback.norm import normalize
from mamba_ssm.ops.fallback.precision import cast, working_dtype

try:
    from causal_conv1d import causal_conv1d_fn
    from causal_conv1d import dispatch as conv_dispatch
except ImportError:
    causal_conv1d_fn, conv_dispatch = None, None

DT_NORM = (
    "mamba_inner_fn normalizes dt after dt's projection. transformers' FalconMamba calls mamba_inner_fn while it trains, "
    "and normalizes dt before the projection at all other times: the two give different numbers. To fine-tune with the "
    "formula of inference, call model.eval() before the training loop; FalconMamba has no dropout."
)


def causal_conv1d(x, weight, bias=None, seq_idx=None, activation="silu", reverse=False):
    """x: (batch, dim, seqlen); weight: (dim, width); bias: (dim,); seq_idx: (batch, seqlen).

    Returns a tensor of the shape and dtype of x.

    reverse: time runs from the last input to the first, as if x and out were flipped; seq_idx must be None.
    """
    if reverse:
        if conv_dispatch is not None and not x.is_cuda:
            return conv_dispatch.causal_conv1d_fn(x, weight, bias, activation=activation, reverse=True)
        return causal_conv1d(x.flip([-1]), weight, bias, activation=activation).flip([-1])
    if causal_conv1d_fn is not None:
        return causal_conv1d_fn(x, weight, bias, seq_idx=seq_idx, activation=activation)
    assert seq_idx is None, "varlen conv1d requires the causal_conv1d package"
    dim, width = weight.shape
    weight, bias = cast(x.dtype, weight.unsqueeze(1), bias)
    out = F.conv1d(x, weight, bias, padding=width - 1, groups=dim)[..., : x.shape[-1]]
    return (out if activation is None else F.silu(out)).to(x.dtype)


def inner(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    A,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
    b_rms_weight=None,
    c_rms_weight=None,
    dt_rms_weight=None,
    b_c_dt_rms_eps=1e-6,
    reverse=False,
    onto=None,
    scale=1.0,
):
    """Mamba-1 between its input and output projections: convolution, projection to delta, B and C, scan and gate.

    xz: (batch, 2 * dim, seqlen)
    conv1d_weight: (dim, 1, width); conv1d_bias: (dim,)
    x_proj_weight: (delta_rank + 2 * dstate, dim), twice the dstate where A is complex
    delta_proj_weight: (dim, delta_rank)
    A: (dim, dstate); B, C: as for the scan, or None where x_proj_weight computes them from the input
    reverse: time runs from the last step to the first, as if xz and out were flipped
    onto, scale: the result is scale * (onto + out); the result may overwrite onto

    Returns out: (batch, dim, seqlen), differentiable.
    """
    given = (B, C, B_proj_bias, C_proj_bias, b_rms_weight, c_rms_weight, dt_rms_weight)
    plain = not A.is_complex() and all(tensor is None for tensor in given)
    if plain and exporting.form():
        rows = None if onto is None else onto.transpose(1, 2)
        weights = (conv1d_weight.squeeze(1), conv1d_bias, x_proj_weight, delta_proj_weight, A, D, delta_bias)
        out = exporting.inner(xz.transpose(1, 2), *weights, bool(delta_softplus), reverse, rows, scale)
        return out.transpose(1, 2)
    x, z = xz.chunk(2, dim=1)
    u = causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, reverse=reverse)
    projected = project(u, x_proj_weight)
    if plain and not dispatch.use_cuda(u):
        return dispatch.projected_scan(
            u, projected, delta_proj_weight, A, D, z, delta_bias, delta_softplus, onto, scale, reverse
        )
    delta, B, C = split_projected(projected, delta_proj_weight, A, *given, b_c_dt_rms_eps)
    return dispatch.added(scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse), onto, scale)


def scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse=False):
    """selective_scan_fn in either direction. The CUDA kernel scans forward only; reverse gives it flipped copies."""
    if not dispatch.use_cuda(u):
        return dispatch.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse=reverse)
    # Imported here, because selective_scan_interface imports this module.
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if not reverse:
        return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    flipped = dispatch.flip(u, delta, A, B, C, D, z)
    return selective_scan_fn(*flipped, delta_bias, delta_softplus).flip([-1])


def project(u, weight):
    """u: (batch, dim, seqlen); weight: (features, dim). Returns (batch, features, seqlen), features innermost."""
    return F.linear(u.transpose(1, 2), weight).transpose(1, 2)


def split_projected(
    projected,
    delta_proj_weight,
    A,
    B=None,
    C=None,
    B_proj_bias=None,
    C_proj_bias=None,
    b_rms_weight=None,
    c_rms_weight=None,
    dt_rms_weight=None,
    b_c_dt_rms_eps=1e-6,
):
    """delta, B and C in the form of the scan's arguments, from projected: (batch, delta_rank + 2 * dstate, seqlen).

    projected has dstate fewer features where B is given, and dstate fewer where C is given.
    """
    rank = delta_proj_weight.shape[1]
    d_state = A.shape[-1] * (2 if A.is_complex() else 1)
    delta = delta_proj_weight @ projected[:, :rank]
    if dt_rms_weight is not None:
        warnings.warn(DT_NORM, stacklevel=2)
        delta = _rms_norm(delta.transpose(1, 2), dt_rms_weight, b_c_dt_rms_eps).transpose(1, 2)
    if B is None:
        rows = projected[:, rank : rank + d_state]
        B = _coefficient(rows, B_proj_bias, b_rms_weight, b_c_dt_rms_eps, A.is_complex())
    if C is None:
        rows = projected[:, projected.shape[1] - d_state :]  # directly after delta's rows where B is given
        C = _coefficient(rows, C_proj_bias, c_rms_weight, b_c_dt_rms_eps, A.is_complex())
    return delta, B, C


def mamba_split_conv1d_scan_combined(
    zxbcdt,
    conv1d_weight,
    conv1d_bias,
    dt_bias,
    A,
    D,
    chunk_size,
    initial_states=None,
    seq_idx=None,
    dt_limit=(0.0, float("inf")),
    return_final_states=False,
    activation="silu",
    rmsnorm_weight=None,
    rmsnorm_eps=1e-6,
    outproj_weight=None,
    outproj_bias=None,
    headdim=None,
    ngroups=1,
    norm_before_gate=True,
):
    """Mamba-2 after its input projection: convolution, scan, gated norm, and the output projection where given.

    zxbcdt: (b, L, 2 * d_nonssm + 2 * dim + 2 * g * n + h) with dim = h * p
    conv1d_weight: (dim + 2 * g * n, width); conv1d_bias: (dim + 2 * g * n,)
    D: (h,) with headdim given, or (h, p); rmsnorm_weight: (dim,)

    Returns out (b, L, d_nonssm + dim), or (b, L, out_dim) after the projection; and the final states where
    return_final_states.
    """
    if D.dim() == 1:
        assert headdim is not None
        nheads = D.shape[0]
    else:
        nheads, headdim = D.shape
    dim = nheads * headdim
    assert nheads % ngroups == 0
    dstate = (conv1d_weight.shape[0] - dim) // ngroups // 2
    d_nonssm = (zxbcdt.shape[-1] - 2 * dim - 2 * ngroups * dstate - nheads) // 2
    assert d_nonssm >= 0
    assert zxbcdt.shape[-1] == 2 * d_nonssm + 2 * dim + 2 * ngroups * dstate + nheads
    zx0, z, xBC, dt = zxbcdt.split([2 * d_nonssm, dim, dim + 2 * ngroups * dstate, nheads], dim=-1)
    xBC = causal_conv1d(xBC.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx, activation).transpose(1, 2)
    x, B, C = xBC.split([dim, ngroups * dstate, ngroups * dstate], dim=-1)
    out, final_states = dispatch.mamba_chunk_scan_combined(
        x.unflatten(-1, (nheads, headdim)),
        dt,
        A,
        B.unflatten(-1, (ngroups, dstate)),
        C.unflatten(-1, (ngroups, dstate)),
        chunk_size,
        D=D,
        z=z.unflatten(-1, (nheads, headdim)) if rmsnorm_weight is None else None,
        dt_bias=dt_bias,
        initial_states=initial_states,
        seq_idx=seq_idx,
        dt_softplus=True,
        dt_limit=dt_limit,
        return_final_states=True,
    )
    out = out.flatten(2)
    if rmsnorm_weight is not None:
        out = dispatch.gated_norm(
            out, rmsnorm_weight, None, z, rmsnorm_eps, dim // ngroups, norm_before_gate, is_rms_norm=True
        )
    if d_nonssm > 0:
        out = torch.cat([fallback.swiglu(zx0), out], dim=-1)
    if outproj_weight is not None:
        out = F.linear(out, outproj_weight, outproj_bias)
    else:
        assert outproj_bias is None
    return (out, final_states) if return_final_states else out


def _coefficient(rows, bias, rms_weight, eps, is_complex):
    """B or C in the form of the scan's argument, from the projected rows (batch, d_state, seqlen)."""
    if bias is not None:
        rows = rows + bias.to(rows.dtype).unsqueeze(-1)
    if rms_weight is not None:
        rows = _rms_norm(rows.transpose(1, 2), rms_weight, eps).transpose(1, 2)
    if is_complex:  # (batch, dstate, 2 * seqlen), real and imaginary parts alternating
        rows = rows.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)
    return rows.contiguous()


def _rms_norm(x, weight, eps):
    return normalize(x.to(working_dtype(x)), weight, None, eps, is_rms_norm=True).to(x.dtype)
