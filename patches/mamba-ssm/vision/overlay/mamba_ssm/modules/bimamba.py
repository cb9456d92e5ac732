"""What bimamba_type adds to Mamba: the parameters of the other direction, and running both.

"v1" has one more A, and shares all else between the directions. "v2" has its own convolution and projections
for the way back, and sums the two, or averages them with if_divide_out. Parameter names are Vision Mamba's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from mamba_ssm.ops.bimamba import bimamba_inner_fn, mamba_inner_fn_no_out_proj

TYPES = ("none", "v1", "v2")


def add_parameters(mamba, bimamba_type, conv_bias, device=None, dtype=None):
    """Give a Mamba that has its forward parameters those of the other direction."""
    if bimamba_type not in TYPES:
        raise ValueError(f"bimamba_type must be one of {', '.join(TYPES)}, not {bimamba_type!r}")
    if bimamba_type == "none":
        return
    factory_kwargs = {"device": device, "dtype": dtype}
    d_inner = mamba.d_inner
    mamba.A_b_log = nn.Parameter(mamba.A_log.detach().clone())
    mamba.A_b_log._no_weight_decay = True
    if bimamba_type == "v1":
        return
    mamba.conv1d_b = nn.Conv1d(
        in_channels=d_inner,
        out_channels=d_inner,
        bias=conv_bias,
        kernel_size=mamba.d_conv,
        groups=d_inner,
        padding=mamba.d_conv - 1,
        **factory_kwargs,
    )
    mamba.x_proj_b = nn.Linear(d_inner, mamba.dt_rank + mamba.d_state * 2, bias=False, **factory_kwargs)
    mamba.dt_proj_b = nn.Linear(mamba.dt_rank, d_inner, bias=True, **factory_kwargs)
    mamba.D_b = nn.Parameter(torch.ones(d_inner, device=device))  # Keep in fp32
    mamba.D_b._no_weight_decay = True


def forward(mamba, xz):
    """Both directions over xz, (batch, 2 * d_inner, seqlen), and the output projection.

    out: (batch, seqlen, d_model)
    """
    A = -torch.exp(mamba.A_log.float())
    A_b = -torch.exp(mamba.A_b_log.float())
    if mamba.bimamba_type == "v1":
        return bimamba_inner_fn(
            xz,
            mamba.conv1d.weight,
            mamba.conv1d.bias,
            mamba.x_proj.weight,
            mamba.dt_proj.weight,
            mamba.out_proj.weight,
            mamba.out_proj.bias,
            A,
            A_b,
            D=mamba.D.float(),
            delta_bias=mamba.dt_proj.bias.float(),
        )
    there = mamba_inner_fn_no_out_proj(
        xz,
        mamba.conv1d.weight,
        mamba.conv1d.bias,
        mamba.x_proj.weight,
        mamba.dt_proj.weight,
        A,
        D=mamba.D.float(),
        delta_bias=mamba.dt_proj.bias.float(),
    )
    out = mamba_inner_fn_no_out_proj(
        xz,
        mamba.conv1d_b.weight,
        mamba.conv1d_b.bias,
        mamba.x_proj_b.weight,
        mamba.dt_proj_b.weight,
        A_b,
        D=mamba.D_b.float(),
        delta_bias=mamba.dt_proj_b.bias.float(),
        reverse=True,
        onto=there,
        scale=0.5 if mamba.if_divide_out else 1.0,
    )
    return F.linear(out.transpose(1, 2), mamba.out_proj.weight, mamba.out_proj.bias)
