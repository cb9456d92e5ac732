"""The selective scan, step by step over time.

h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
y[t] = C[t] . h[t] + D u[t],  times silu(z[t]) where z is given
"""

import torch
import torch.nn.functional as F

from .precision import cast, outside_autocast, untraced, working_dtype

# What does not depend on the state is computed for this many steps at once: enough to make the loop cheap,
# few enough that (batch, dim, steps, dstate) stays small beside the inputs.
CHUNK = 64


@untraced
@outside_autocast
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
):
    """Differentiable in every tensor, but for the gradient of the last state, as in CUDA.

    u, delta, z: (batch, dim, seqlen)
    A: (dim, dstate), real or complex
    B, C: (dim, dstate), constant, complex where A is; or (batch, dstate, seqlen) or
        (batch, ngroups, dstate, seqlen), with a complex A of length 2 * seqlen: real and imaginary in turn
    D, delta_bias: (dim,)

    out: (batch, dim, seqlen) in the dtype of u, or (out, last_state) with last_state (batch, dim, dstate) in
        float32 or complex64, wider where an argument is
    """
    batch, dim, seqlen = u.shape
    dtype_in = u.dtype
    dtype = working_dtype(u, delta, A.real, B.real, C.real, D, delta_bias)
    u, delta, D, z, delta_bias = cast(dtype, u, delta, D, z, delta_bias)
    A = A.to(dtype.to_complex() if A.is_complex() else dtype)
    B, C = _over_time(B, A), _over_time(C, A)

    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)

    state = A.new_zeros(batch, dim, A.shape[1])
    ys = [u.new_zeros(batch, dim, 0)]
    for start in range(0, seqlen, CHUNK):
        now = slice(start, start + CHUNK)
        decay = torch.exp(delta[:, :, now, None] * A[:, None])  # (batch, dim, steps, dstate)
        inflow = (delta[:, :, now] * u[:, :, now])[..., None] * _steps(B, now, dim)
        states = []
        for t in range(decay.shape[2]):
            state = decay[:, :, t] * state + inflow[:, :, t]
            states.append(state)
        y = (torch.stack(states, dim=2) * _steps(C, now, dim)).sum(dim=-1)
        # Complex states come in conjugate pairs, of which only one is kept.
        ys.append(2 * y.real if y.is_complex() else y)
    out = torch.cat(ys, dim=2)
    if D is not None:
        out = out + D[:, None] * u
    if z is not None:
        out = out * F.silu(z)
    out = out.to(dtype_in)
    return (out, state.detach()) if return_last_state else out


def _over_time(coefficient, A):
    """B or C as (batch, groups, dstate, seqlen), or as (1, dim, dstate, 1) where it is constant."""
    if coefficient.dim() == 2:
        return coefficient.to(A.dtype)[None, :, :, None]
    if coefficient.dim() == 3:
        coefficient = coefficient.unsqueeze(1)
    if A.is_complex():
        pairs = coefficient.to(A.real.dtype).unflatten(-1, (-1, 2)).contiguous()
        return torch.view_as_complex(pairs)
    return coefficient.to(A.dtype)


def _steps(coefficient, now, dim):
    """These steps of B or C, (batch, dim, steps, dstate): neighbouring channels share a group."""
    if coefficient.shape[-1] != 1:
        coefficient = coefficient[..., now]
    return coefficient.transpose(2, 3).repeat_interleave(dim // coefficient.shape[1], dim=1)
