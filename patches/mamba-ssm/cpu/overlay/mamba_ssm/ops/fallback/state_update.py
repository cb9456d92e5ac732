"""One step of the selective scan, for decoding."""

import torch
import torch.nn.functional as F

from mamba_ssm.ops.fallback.precision import cast, working_dtype


@torch.no_grad()
def selective_state_update(
    state,
    x,
    dt,
    A,
    B,
    C,
    D=None,
    z=None,
    dt_bias=None,
    dt_softplus=False,
    state_batch_indices=None,
):
    """Move state on by one step, in place, and return the step's output. No gradient, as in CUDA.

    The nheads dimension may be left out of all tensors.

    state: (batch or more, nheads, dim, dstate)
    x, dt, z: (batch, nheads, dim)
    A: (nheads, dim, dstate)
    B, C: (batch, ngroups, dstate)
    D, dt_bias: (nheads, dim)
    state_batch_indices: (batch,), the row of state for each row of x. A negative one marks padding: its output is
        0 and no state changes.

    out: (batch, nheads, dim) in the dtype of x
    """
    x_shape, x_dtype = x.shape, x.dtype
    dtype = working_dtype(x, state)
    if state.dim() == 3:
        state = state.unsqueeze(1)
    x, dt, B, C, z = (t if t is None or t.dim() == 3 else t.unsqueeze(1) for t in (x, dt, B, C, z))
    if A.dim() == 2:
        A = A.unsqueeze(0)
    D, dt_bias = (t if t is None or t.dim() == 2 else t.unsqueeze(0) for t in (D, dt_bias))
    _check(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices)
    x, dt, A, B, C, D, z, dt_bias = cast(dtype, x, dt, A, B, C, D, z, dt_bias)
    rows, padding = slice(None), None
    if state_batch_indices is not None:
        rows = state_batch_indices.long()
        padding = rows < 0
        rows = rows.clamp(min=0)

    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    heads_per_group = x.shape[1] // B.shape[1]
    B = B.repeat_interleave(heads_per_group, dim=1)  # neighbouring heads share a group
    C = C.repeat_interleave(heads_per_group, dim=1)
    dt = dt.unsqueeze(-1)
    new_state = state[rows].to(dtype) * torch.exp(dt * A) + dt * B.unsqueeze(2) * x.unsqueeze(-1)
    if padding is None:
        state.copy_(new_state)
    else:
        state[rows[~padding]] = new_state[~padding].to(state.dtype)
    out = (new_state * C.unsqueeze(2)).sum(dim=-1)
    if D is not None:
        out = out + D * x
    if z is not None:
        out = out * F.silu(z)
    if padding is not None:
        out = out.masked_fill(padding[:, None, None], 0.0)
    return out.to(x_dtype).reshape(x_shape)


def _check(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices):
    rows, nheads, dim, dstate = state.shape
    batch, ngroups = x.shape[0], B.shape[1]
    expected = [
        ("x", x, (batch, nheads, dim)),
        ("dt", dt, (batch, nheads, dim)),
        ("A", A, (nheads, dim, dstate)),
        ("B", B, (batch, ngroups, dstate)),
        ("C", C, (batch, ngroups, dstate)),
        ("D", D, (nheads, dim)),
        ("z", z, (batch, nheads, dim)),
        ("dt_bias", dt_bias, (nheads, dim)),
        ("state_batch_indices", state_batch_indices, (batch,)),
    ]
    for name, tensor, shape in expected:
        assert tensor is None or tensor.shape == shape, (
            f"{name} must have shape {shape}, and has {tuple(tensor.shape)}"
        )
    assert state_batch_indices is not None or rows == batch, f"state has {rows} rows and x has {batch}"
    assert nheads % ngroups == 0, "nheads must be divisible by ngroups"
