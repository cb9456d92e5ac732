"""The operations as torch.onnx.export takes them: in ONNX's own operators, or each as one operator of mambaport's.

The environment variable MAMBAPORT_ONNX_FORM says which: ``standard``, the default, or ``fused``.

`standard` has the functions of the standard form. The functions here import that module themselves: where no graph is
made, this module is enough.
"""

import os

import torch
import torch.nn.functional as F

# As in causal_conv1d.exporting: each package works without the other. A unit test compares form().
VARIABLE = "MAMBAPORT_ONNX_FORM"
FORMS = ("standard", "fused")
DOMAIN = "ai.mambaport"


def form():
    """``standard`` or ``fused`` while torch.onnx.export makes a graph; None at all other times.

    Raises ValueError where MAMBAPORT_ONNX_FORM is another word.
    """
    if not (torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()):
        return None
    word = os.environ.get(VARIABLE, "").strip().lower() or FORMS[0]
    if word not in FORMS:
        raise ValueError(f"{VARIABLE} is {word!r}; set it to {' or '.join(FORMS)}, or unset it")
    return word


def linear(x, weight, bias=None):
    """F.linear, in the fused form as an operator that reads the weights at memory's speed where x has one row or two.

    x: (..., in_features); weight: (out_features, in_features); bias: (out_features,)
    """
    if form() != "fused":
        return F.linear(x, weight, bias)
    return node("Linear", (x, weight, bias), [(*x.shape[:-1], weight.shape[0])], {})[0].to(x.dtype)


def quantized_linear(x, packed, scales, bias, rows):
    """`dispatch.quantized_linear` for weights of 8 bits: one operator, or in the standard form a product in float32.

    Raises NotImplementedError for weights of 4 bits.
    """
    if packed.dtype != torch.int8:
        raise NotImplementedError("weights of 4 bits are not exported to ONNX: call quantize(model, bits=8)")
    if form() == "standard":
        from .fallback.quantized import quantized_linear as in_float32

        return in_float32(x, packed, scales, bias, rows)
    inputs = (x, packed, scales[:rows], bias)
    return node("QuantizedLinear", inputs, [(*x.shape[:-1], rows)], {})[0].to(x.dtype)


def convolve(rows, first, weight, bias, state=None, reverse=False):
    """The causal convolution with silu of adjacent features of rows, the first of which is number `first`.

    rows: (batch, seqlen, features); weight: (dim, width); bias: (dim,); state: (batch, dim, width - 1)

    Returns out: (batch, seqlen, dim), float32, and the next state, or None without a state.
    """
    (batch, seqlen, _), (dim, width) = rows.shape, weight.shape
    if form() == "standard":
        from .standard import convolve as standard_convolve

        return standard_convolve(rows[..., first : first + dim], weight, bias, state, reverse)
    shapes = [(batch, seqlen, dim), (batch, dim, width - 1)][: 1 + (state is not None)]
    flags = {"silu": 1, "reverse": int(reverse), "channels_last": 1, "x_offset": first}
    out, *next_state = node("CausalConv", (rows, weight, bias, state), shapes, flags)
    return out, next_state[0] if next_state else None


def inner(
    rows, conv_weight, conv_bias, x_proj_weight, delta_proj_weight, A, D=None, delta_bias=None, delta_softplus=True,
    reverse=False, onto=None, scale=1.0, conv_state=None, ssm_state=None, project=None,
):  # fmt: skip
    """Mamba-1 between its input and output projections, with the features of a step innermost.

    rows: (batch, seqlen, 2 * dim)
    conv_weight: (dim, width); x_proj_weight: (delta_rank + 2 * dstate, dim); delta_proj_weight: (dim, delta_rank)
    A: (dim, dstate), real; onto: (batch, seqlen, dim); the result is scale * (onto + out)
    conv_state: (batch, dim, width - 1), ssm_state: (batch, dim, dstate): both or neither
    project: computes the projection by x_proj_weight in the fused form, from its input; None for F.linear

    Returns out: (batch, seqlen, dim), or (out, conv_state, ssm_state) with the states after the last step.
    """
    if form() == "standard":
        from .standard import inner as standard_inner

        return standard_inner(
            rows, conv_weight, conv_bias, x_proj_weight, delta_proj_weight, A, D, delta_bias, delta_softplus, reverse,
            onto, scale, conv_state, ssm_state,
        )  # fmt: skip
    dtype, stateful = rows.dtype, ssm_state is not None
    (batch, seqlen, _), (dim, dstate) = rows.shape, A.shape
    u, conv_state = convolve(rows, 0, conv_weight, conv_bias, conv_state, reverse)
    u_cast = u.to(dtype)
    projected = F.linear(u_cast, x_proj_weight) if project is None else project(u_cast)
    flags = {"delta_softplus": int(delta_softplus), "reverse": int(reverse), "scale": float(scale)}
    flags |= {"channels_last": 1, "z_offset": dim}
    inputs = (u, projected, delta_proj_weight, A, D, rows, delta_bias, onto, ssm_state)
    shapes = [(batch, seqlen, dim), (batch, dim, dstate)][: 1 + stateful]
    out, *ssm_state = node("ProjectedScan", inputs, shapes, flags)
    return (out.to(dtype), conv_state, *ssm_state) if stateful else out.to(dtype)


def both_directions(rows, forward, backward, scale):
    """`inner` without states, in both directions: scale * (the sum of both).

    rows: (batch, seqlen, 2 * dim)
    forward, backward: the arguments conv_weight to delta_bias of `inner` as a tuple, conv_weight (dim, 1, width)

    Returns out: (batch, seqlen, dim).
    """
    forward, backward = ((weights[0].squeeze(1), *weights[1:]) for weights in (forward, backward))
    if form() == "standard":
        from .standard import both_directions as in_one_scan

        return in_one_scan(rows, forward, backward, scale)
    out = inner(rows, *forward)
    return inner(rows, *backward, reverse=True, onto=out, scale=scale)


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, reverse):
    """`dispatch.selective_scan` for a real A.

    Raises NotImplementedError for a complex A.
    """
    if A.is_complex():
        raise NotImplementedError("ONNX has no complex numbers: a scan with a complex A cannot be exported")
    batch, dim, seqlen = u.shape
    if form() == "fused":
        flags = {"delta_softplus": int(delta_softplus), "reverse": int(reverse)}
        inputs = (u, delta, A, B, C, D, z, delta_bias)
        shapes = [(batch, dim, seqlen), (batch, dim, A.shape[1])][: 1 + return_last_state]
        out, *last = node("SelectiveScan", inputs, shapes, flags)
        return (out.to(u.dtype), last[0]) if return_last_state else out.to(u.dtype)
    from .standard import scan_steps

    steps, deltas = (t.float().permute(2, 0, 1) for t in (u, delta))
    B, C = (t if t.dim() == 2 else (t if t.dim() == 4 else t.unsqueeze(1)).permute(3, 0, 1, 2) for t in (B, C))
    out, last = scan_steps(steps, deltas, A, B, C, D, delta_bias, delta_softplus, reverse)
    out = out.permute(1, 2, 0)
    out = (out if z is None else out * F.silu(z.float())).to(u.dtype)
    return (out, last) if return_last_state else out


def selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus):
    """`dispatch.selective_state_update` as one operator; state moves on in place."""
    flags = {"dt_softplus": int(dt_softplus)}
    inputs = (state, x, dt, A, B, C, D, z, dt_bias)
    out, next_state = node("StateUpdate", inputs, [tuple(x.shape), tuple(state.shape)], flags)
    state.copy_(next_state)
    return out.to(x.dtype)


def layer_norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm):
    """`dispatch.layer_norm` as one operator."""
    shapes = [tuple(x.shape)] * (1 + prenorm)
    flags = {"eps": float(eps), "rms": int(is_rms_norm)}
    y, *total = node("Norm", (x, weight, bias, residual), shapes, flags)
    if not prenorm:
        return y.to(x.dtype)
    total_dtype = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
    return y.to(x.dtype), total[0].to(total_dtype)


def gated_norm(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm):
    """`dispatch.gated_norm` as one operator."""
    gate = 0 if z is None else 1 if norm_before_gate else 2
    flags = {"eps": float(eps), "rms": int(is_rms_norm), "group": int(group_size or 0), "gate": gate}
    return node("Norm", (x, weight, bias, None, z), [tuple(x.shape)], flags)[0].to(x.dtype)


def mamba_chunk_scan_combined(
    x, dt, A, B, C, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, dt_softplus=False,
    dt_limit=(0.0, float("inf")), return_final_states=False,
):  # fmt: skip
    """`dispatch.mamba_chunk_scan_combined`, whose result does not depend on its chunk_size.

    Raises NotImplementedError for packed sequences in the standard form.
    """
    batch, seqlen, heads, width = x.shape
    dstate = B.shape[3]
    if form() == "fused":
        flags = {"dt_softplus": int(dt_softplus), "dt_min": float(dt_limit[0]), "dt_max": float(dt_limit[1])}
        seq_idx = None if seq_idx is None else seq_idx.to(torch.int32)
        inputs = (x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx)
        shapes = [(batch, seqlen, heads, width), (batch, heads, width, dstate)][: 1 + return_final_states]
        out, *last = node("ChunkScan", inputs, shapes, flags)
        if return_final_states and seq_idx is not None:  # a row that ends in padding leaves no state
            last[0] = last[0].masked_fill((seq_idx[:, -1] < 0)[:, None, None, None], 0.0)
        return (out.to(x.dtype), last[0]) if return_final_states else out.to(x.dtype)
    if seq_idx is not None:
        raise NotImplementedError(
            f"seq_idx, the packed sequences of Mamba-2, is exported in the fused form alone: set {VARIABLE}=fused"
        )
    from .standard import scan_chunks, softplus

    dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    dt = softplus(dt) if dt_softplus else dt
    if tuple(dt_limit) != (0.0, float("inf")) or not dt_softplus:
        dt = dt.clamp(*dt_limit)
    y, last = scan_chunks(x.float(), dt, A.float(), B.float(), C.float(), initial_states)
    if D is not None:
        y = y + x.float() * (D if D.dim() == 2 else D[:, None]).float()
    y = (y if z is None else y * F.silu(z.float())).to(x.dtype)
    return (y, last) if return_final_states else y


def node(name, inputs, shapes, attributes):
    """The outputs of a node, of these shapes, in float32, as all of mambaport's operators have."""
    inputs = [t.float() if t is not None and t.is_floating_point() else t for t in inputs]
    dtypes = [torch.float32] * len(shapes)
    return torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{name}", inputs, attributes, dtypes=dtypes, shapes=shapes, version=1
    )
