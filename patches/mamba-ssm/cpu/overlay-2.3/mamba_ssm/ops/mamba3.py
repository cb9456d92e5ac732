"""Mamba-3 for tensors that upstream's kernels do not take: the compiled kernel on a CPU, or PyTorch on any device."""

import torch
import torch.nn.functional as F

from mamba_ssm.ops import dispatch
from mamba_ssm.ops.fallback.mamba3 import mamba3 as fallback
from mamba_ssm.utils.triton_compat import tl


def use_triton(x, *sizes):
    """True where Mamba-3's triton kernels take x.

    The kernels read rows through descriptors, which older triton lacks. The sizes of a head and of a chunk must be
    powers of two, and at least 16. With others, triton refuses the kernel, or the GPU stops with a misaligned
    address, after which the process cannot use the GPU any more.
    """
    fit = all(size >= 16 and size & (size - 1) == 0 for size in sizes)
    return fit and dispatch.use_triton(x) and hasattr(tl, "make_tensor_descriptor")


def keep_states_of_empty(scan, cu_seqlens, before):
    """scan, with the last states of each sequence without steps as they were before: those given, or zeros.

    scan returns its output and the last states, each (sequences, ...); before: as many states, or None
    """

    def run(*arguments):
        out, *states = scan(*arguments)
        empty = cu_seqlens.diff() == 0
        kept = [torch.zeros_like(state) for state in states] if before is None else before
        return out, *(
            torch.where(empty.view(-1, *[1] * (state.dim() - 1)), own.to(state.dtype), state)
            for own, state in zip(kept, states, strict=True)
        )

    return run


def scan(
    q,
    k,
    v,
    adt,
    dt,
    trap,
    q_bias,
    k_bias,
    angles,
    D=None,
    z=None,
    mimo_v=None,
    mimo_z=None,
    mimo_out=None,
    states=None,
    cu_seqlens=None,
    neighbours=True,
    chunk_size=64,
):
    """The output and the last states. `mamba_ssm.ops.fallback.mamba3` says what the arguments are."""
    if z is None or mimo_v is None:
        mimo_z = None  # it would scale nothing
    tensors = (
        q,
        k,
        v,
        adt,
        dt,
        trap,
        q_bias,
        k_bias,
        angles,
        D,
        z,
        mimo_v,
        mimo_z,
        mimo_out,
        states,
        cu_seqlens,
    )
    if dispatch.exporting.form() and cu_seqlens is None and not isinstance(v.shape[1], int):
        from mamba_ssm.ops import mamba3_export  # of use in an export alone

        return mamba3_export.mamba3(*tensors[:-1], neighbours)
    kernels = dispatch.selective_scan_cpu
    if dispatch.use_cpu_kernel(v) and kernels.supports_mamba3(*tensors):
        return kernels.mamba3(*tensors, neighbours)
    return fallback(*tensors, neighbours, chunk_size)


def siso(
    Q,
    K,
    V,
    ADT,
    DT,
    Trap,
    Q_bias,
    K_bias,
    Angles,
    D,
    Z,
    Input_States,
    chunk_size,
    return_final_states,
    cu_seqlens,
):
    """`mamba3_siso_combined` for a tensor that triton does not take. Q, K: (batch, seqlen, groups, dstate)."""
    _check_states(Input_States)
    if Input_States is not None:
        angle, state, k, v = Input_States
        Input_States = (angle, state, k.unsqueeze(1), v)
    out, (angle, state, k, v) = scan(
        Q.unsqueeze(2), K.unsqueeze(2), V, ADT, DT, Trap, Q_bias.unsqueeze(1), K_bias.unsqueeze(1), Angles, D, Z,
        states=Input_States, cu_seqlens=cu_seqlens, chunk_size=chunk_size,
    )  # fmt: skip
    return (out, angle, state, k.squeeze(1), v) if return_final_states else out


def siso_step(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, Input_States):
    """`mamba3_siso_step` for a tensor that triton does not take: like `siso`, without the axis of steps."""
    Q, K, V, Angles = (t.unsqueeze(1) for t in (Q, K, V, Angles))
    ADT, DT, Trap = (t.unsqueeze(2) for t in (ADT, DT, Trap))
    Z = None if Z is None else Z.unsqueeze(1)
    out, *states = siso(Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, Input_States, 1, True, None)
    return out.squeeze(1), tuple(states)


def mimo(
    Q,
    K,
    V,
    ADT,
    DT,
    Trap,
    Q_bias,
    K_bias,
    MIMO_V,
    MIMO_Z,
    MIMO_Out,
    Angles,
    D,
    Z,
    chunk_size,
    return_state,
    cu_seqlens,
    Input_States=None,
):
    """`mamba3_mimo` for a tensor that tilelang does not take. Q, K: (batch, seqlen, rank, groups, dstate)."""
    _check_states(Input_States)
    out, states = scan(
        Q, K, V, ADT, DT, Trap, Q_bias, K_bias, Angles, D, Z, MIMO_V, MIMO_Z, MIMO_Out, Input_States, cu_seqlens,
        neighbours=False, chunk_size=chunk_size * Q.shape[2],
    )  # fmt: skip
    return (out, *states) if return_state else out


def _check_states(states):
    if states is not None and any(state is None for state in states):
        raise ValueError("Input_States are given together or not at all, and one of them is None")


def step(mixer, u, angle_state, ssm_state, k_state, v_state):
    """The next tokens through a Mamba3, with its states moved on in place.

    u: (batch, d_model), or (batch, steps, d_model)
    angle_state: (batch, heads, angles), ssm_state: (batch, heads, headdim, d_state)
    k_state: (batch, rank, heads, d_state), v_state: (batch, heads, headdim)

    Returns out, of u's shape, and the states.
    """
    states = (angle_state, ssm_state, k_state, v_state)
    out = one_call_step(mixer, u, states)
    if out is not None:
        return out, *states
    single = u.dim() == 2
    y, last = mixed(mixer, u.unsqueeze(1) if single else u, states)
    for state, new in zip(states, last, strict=True):
        state.copy_(new)
    return (y.squeeze(1) if single else y), *states


def mixed(mixer, u, states):
    """Mamba3's forward from the given states: (batch, steps, d_model), and the states after the last step."""
    from mamba_ssm.modules import submodules  # imports this package

    heads, rank, groups = mixer.nheads, mixer.mimo_rank, mixer.num_bc_heads
    width = mixer.d_state * groups * rank
    projected = submodules.linear(mixer.in_proj, u)
    z, x, B, C, dt, A, trap, angles = torch.split(
        projected,
        [mixer.d_inner, mixer.d_inner, width, width, heads, heads, heads, mixer.num_rope_angles],
        dim=-1,
    )
    z, x = (t.unflatten(-1, (heads, mixer.headdim)) for t in (z, x))
    B, C = (t.unflatten(-1, (rank, groups, mixer.d_state)) for t in (B, C))
    dt = F.softplus(dt + mixer.dt_bias)
    adt = -F.softplus(A.float()).clamp(min=mixer.A_floor) * dt
    angles = angles.unsqueeze(2).expand(-1, -1, heads, -1).float()
    norm, mimo_weights = mixer.is_outproj_norm, (None, None, None)
    if mixer.is_mimo:
        mimo_weights = (mixer.mimo_x, None if norm else mixer.mimo_z, None if norm else mixer.mimo_o)
    y, last = scan(
        mixer.C_norm(C), mixer.B_norm(B), x, adt.mT, dt.mT, trap.mT, mixer.C_bias, mixer.B_bias, angles, mixer.D,
        None if norm else z, *mimo_weights, states, neighbours=not mixer.is_mimo, chunk_size=mixer.chunk_size,
    )  # fmt: skip
    if norm and mixer.is_mimo:
        gate = z.float().unsqueeze(2) * mixer.mimo_z.transpose(0, 1)  # (batch, steps, rank, heads, headdim)
        y = mixer.norm(y.float().flatten(-2), gate.flatten(-2)).unflatten(-1, (heads, mixer.headdim))
        y = (y * mixer.mimo_o.transpose(0, 1)).sum(2)
    y = y.flatten(-2)
    if norm and not mixer.is_mimo:
        y = mixer.norm(y, z.flatten(-2))
    return submodules.linear(mixer.out_proj, y.to(x.dtype)), last


def one_call_step(mixer, u, states):
    """One token through a Mamba3 in one kernel, with the states updated in place; None where no kernel supports it."""
    from mamba_ssm.modules import submodules  # imports this package

    norms = [mixer.B_norm, mixer.C_norm, *([mixer.norm] if mixer.is_outproj_norm else [])]
    if not submodules.kernel_may_take(u) or not submodules.are_plain(mixer.in_proj, mixer.out_proj, *norms):
        return None
    in_proj, out_proj = mixer.in_proj._parameters, mixer.out_proj._parameters
    if not u.dtype == in_proj["weight"].dtype == out_proj["weight"].dtype:
        return None  # torch's linear refuses mixed dtypes
    mimo_weights = (mixer.mimo_x, mixer.mimo_z, mixer.mimo_o) if mixer.is_mimo else (None, None, None)
    norm = mixer.norm if mixer.is_outproj_norm else None
    tensors = (
        u, *states, in_proj["weight"], in_proj["bias"], out_proj["weight"], out_proj["bias"], mixer.dt_bias, mixer.D,
        mixer.B_norm.weight, mixer.C_norm.weight, mixer.B_bias, mixer.C_bias, *mimo_weights,
        None if norm is None else norm.weight,
    )  # fmt: skip
    kernels = dispatch.selective_scan_cpu
    if not kernels.supports_mamba3_step(*tensors):
        return None
    return kernels.mamba3_step(
        *tensors, mixer.num_bc_heads, not mixer.is_mimo, mixer.A_floor, mixer.B_norm.eps, mixer.C_norm.eps,
        0.0 if norm is None else norm.eps,
    )  # fmt: skip
