"""The functions of Vision Mamba, which scans an image's patches in both directions.

The functions call the convolution and the scan, so they work on every device that both support. autograd
differentiates the functions.
"""

import torch.nn.functional as F

from mamba_ssm.ops import dispatch, unfused
from mamba_ssm.ops import selective_scan_interface as interface


def mamba_inner_fn_no_out_proj(
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
    reverse=False,
    onto=None,
    scale=1.0,
):
    """mamba_inner_fn before its output projection: one direction of Vision Mamba's second version.

    xz: (batch, 2 * dim, seqlen)
    conv1d_weight: (dim, 1, width); conv1d_bias: (dim,)
    x_proj_weight: (delta_rank + 2 * dstate, dim); delta_proj_weight: (dim, delta_rank)
    A: (dim, dstate); B, C: as for selective_scan_fn, or None where x_proj_weight computes them from the input
    D, delta_bias: (dim,); B_proj_bias, C_proj_bias: (dstate,)
    reverse: time runs from the last step to the first, as if xz and out were flipped
    onto, scale: the result is scale * (onto + out); the result may overwrite onto

    Returns out: (batch, dim, seqlen)
    """
    return unfused.inner(
        xz,
        conv1d_weight,
        conv1d_bias,
        x_proj_weight,
        delta_proj_weight,
        A,
        B,
        C,
        D,
        delta_bias,
        B_proj_bias,
        C_proj_bias,
        delta_softplus,
        reverse=reverse,
        onto=onto,
        scale=scale,
    )


def bimamba_inner_fn(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    out_proj_weight,
    out_proj_bias,
    A,
    A_b,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
):
    """Vision Mamba's first version: one convolution, scanned forward with A and backward with A_b.

    The other arguments are those of mamba_inner_fn. A, A_b: (dim, dstate), real.

    Returns out: (batch, seqlen, out_dim)
    """
    assert not A.is_complex() and not A_b.is_complex(), "A and A_b must be real"
    u, delta, B, C, z = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    y = unfused.scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y_b = unfused.scan(u, delta, A_b, B, C, D, z, delta_bias, delta_softplus, reverse=True)
    return F.linear((y + y_b).transpose(1, 2), out_proj_weight, out_proj_bias)


def bimamba_inner_ref(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    out_proj_weight,
    out_proj_bias,
    A,
    A_b,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
):
    """The reference of bimamba_inner_fn: selective_scan_ref, with flipped tensors for the backward direction."""
    u, delta, B, C, z = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    y = interface.selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    flipped = dispatch.flip(u, delta, A_b, B, C, D, z)
    y_b = interface.selective_scan_ref(*flipped, delta_bias, delta_softplus).flip([-1])
    return F.linear((y + y_b).transpose(1, 2), out_proj_weight, out_proj_bias)


def _scan_inputs(xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, *given):
    x, z = xz.chunk(2, dim=1)
    u = unfused.causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias)
    delta, B, C = unfused.split_projected(unfused.project(u, x_proj_weight), delta_proj_weight, A, *given)
    return u, delta, B, C, z
