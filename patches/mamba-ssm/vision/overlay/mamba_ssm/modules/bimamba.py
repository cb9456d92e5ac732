"""The parts of Mamba that bimamba_type adds: the parameters of the other directions, and the forward pass of all.

"v1" has a second A for the backward direction; the directions share the other parameters. "v2" has a separate
convolution and separate projections for the backward direction, and sums both directions, or averages them with
if_divide_out. "v3" is SegMamba's: "v2" without the average, and a third direction across nslices equal parts of the
sequence. Parameters have the names of Vision Mamba and SegMamba, so that released checkpoints load.
"""

import torch
import torch.nn.functional as F
from torch import nn

from mamba_ssm.modules import submodules
from mamba_ssm.ops import exporting, unfused
from mamba_ssm.ops.bimamba import bimamba_inner_fn, mamba_inner_fn_no_out_proj

TYPES = ("none", "v1", "v2", "v3")


def type_of(bimamba_type, bimamba):
    """The bimamba_type that both arguments mean: VideoMamba's bimamba=True means "v2".

    Raises ValueError for an unknown bimamba_type, and where the arguments contradict each other.
    """
    if bimamba_type not in TYPES:
        raise ValueError(f"bimamba_type must be one of {', '.join(TYPES)}, not {bimamba_type!r}")
    if bimamba and bimamba_type not in ("none", "v2"):
        raise ValueError(f"bimamba=True is bimamba_type 'v2', and bimamba_type is {bimamba_type!r}")
    return "v2" if bimamba else bimamba_type


def add_parameters(mamba, conv_bias, device=None, dtype=None):
    """Add the parameters of the other directions to a Mamba that has the forward parameters."""
    if mamba.bimamba_type == "v1":
        _add_decay(mamba, "_b")
    if mamba.bimamba_type in ("v2", "v3"):
        _add_direction(mamba, "_b", conv_bias, device, dtype)
    if mamba.bimamba_type == "v3":
        _add_direction(mamba, "_s", conv_bias, device, dtype)


def _add_decay(mamba, suffix):
    decay = nn.Parameter(mamba.A_log.detach().clone())
    decay._no_weight_decay = True
    mamba.register_parameter(f"A{suffix}_log", decay)


def _add_direction(mamba, suffix, conv_bias, device, dtype):
    factory_kwargs = {"device": device, "dtype": dtype}
    d_inner = mamba.d_inner
    _add_decay(mamba, suffix)
    conv = nn.Conv1d(
        in_channels=d_inner,
        out_channels=d_inner,
        bias=conv_bias,
        kernel_size=mamba.d_conv,
        groups=d_inner,
        padding=mamba.d_conv - 1,
        **factory_kwargs,
    )
    mamba.add_module(f"conv1d{suffix}", conv)
    x_proj = nn.Linear(d_inner, mamba.dt_rank + mamba.d_state * 2, bias=False, **factory_kwargs)
    mamba.add_module(f"x_proj{suffix}", x_proj)
    mamba.add_module(f"dt_proj{suffix}", nn.Linear(mamba.dt_rank, d_inner, bias=True, **factory_kwargs))
    skip = nn.Parameter(torch.ones(d_inner, device=device))  # Keep in fp32
    skip._no_weight_decay = True
    mamba.register_parameter(f"D{suffix}", skip)


def forward(mamba, xz):
    """All directions over xz, (batch, 2 * d_inner, seqlen), and the output projection.

    out: (batch, seqlen, d_model)

    Raises ValueError where bimamba_type is "v3" and seqlen is no multiple of nslices.
    """
    if mamba.bimamba_type == "v1":
        return bimamba_inner_fn(
            xz,
            mamba.conv1d.weight,
            mamba.conv1d.bias,
            mamba.x_proj.weight,
            mamba.dt_proj.weight,
            mamba.out_proj.weight,
            mamba.out_proj.bias,
            -torch.exp(mamba.A_log.float()),
            -torch.exp(mamba.A_b_log.float()),
            D=mamba.D.float(),
            delta_bias=mamba.dt_proj.bias.float(),
        )
    scale = 0.5 if mamba.if_divide_out else 1.0
    if mamba.bimamba_type == "v2" and exporting.form():
        out = exporting.both_directions(xz.transpose(1, 2), _weights(mamba, ""), _weights(mamba, "_b"), scale)
        return F.linear(out, mamba.out_proj.weight, mamba.out_proj.bias)
    out = _direction(mamba, "", xz)
    if mamba.bimamba_type == "v2":
        out = _direction(mamba, "_b", xz, reverse=True, onto=out, scale=scale)
    else:
        out = _direction(mamba, "_b", xz, reverse=True, onto=out) + _across_slices(mamba, xz)
    return F.linear(out.transpose(1, 2), mamba.out_proj.weight, mamba.out_proj.bias)


def _direction(mamba, suffix, xz, **options):
    """One direction before the output projection, (batch, d_inner, seqlen)."""
    *weights, D, delta_bias = _weights(mamba, suffix)
    return mamba_inner_fn_no_out_proj(xz, *weights, D=D, delta_bias=delta_bias, **options)


def _weights(mamba, suffix):
    """conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, D and delta_bias of a direction."""
    conv1d, x_proj, dt_proj, D, A_log = (
        getattr(mamba, name)
        for name in (f"conv1d{suffix}", f"x_proj{suffix}", f"dt_proj{suffix}", f"D{suffix}", f"A{suffix}_log")
    )
    A = -torch.exp(A_log.float())
    return conv1d.weight, conv1d.bias, x_proj.weight, dt_proj.weight, A, D.float(), dt_proj.bias.float()


def _across_slices(mamba, xz):
    """The third direction: the first step of every slice, then the second step of every slice, and so on."""
    return _uncrossed(mamba, _direction(mamba, "_s", _crossed(mamba, xz)))


def _crossed(mamba, x):
    """The steps of x, (..., seqlen), in the order of the third direction."""
    nslices, seqlen = mamba.nslices, x.shape[-1]
    if seqlen % nslices:
        raise ValueError(
            f"bimamba_type 'v3' cuts the sequence into nslices equal parts: {seqlen} steps do not divide by "
            f"nslices={nslices}; give Mamba an nslices that divides the number of steps"
        )
    return x.unflatten(-1, (nslices, seqlen // nslices)).transpose(-1, -2).flatten(-2)


def _uncrossed(mamba, x):
    """The steps of x, (..., seqlen), in order again."""
    return x.unflatten(-1, (x.shape[-1] // mamba.nslices, mamba.nslices)).transpose(-1, -2).flatten(-2)


def add_other_directions(mamba, y, x, z, inputs):
    """y and the scans of the other directions, averaged with if_divide_out, where a submodule must be called.

    y, x, z: (batch, d_inner, seqlen); inputs: for "v1", those of the forward scan, as `submodules.scan_inputs` gives them
    """
    if mamba.bimamba_type == "v1":
        u, delta, B, C, delta_bias = inputs
        A_b = -torch.exp(mamba.A_b_log.float())
        return y + unfused.scan(u, delta, A_b, B, C, mamba.D.float(), z, delta_bias, True, reverse=True)
    scale = 0.5 if mamba.if_divide_out and mamba.bimamba_type == "v2" else 1.0
    y = submodules.scan_direction(mamba, x, z, "_b", reverse=True, onto=y, scale=scale)
    if mamba.bimamba_type == "v3":
        return y + _uncrossed(mamba, submodules.scan_direction(mamba, _crossed(mamba, x), _crossed(mamba, z), "_s"))
    return y
