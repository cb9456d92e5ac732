"""The convolution as torch.onnx.export takes it: in ONNX's own operators, or as one operator of mambaport's.

The environment variable MAMBAPORT_ONNX_FORM says which: ``standard``, the default, or ``fused``.
"""

import os

import torch
import torch.nn.functional as F

# As in mamba_ssm.ops.exporting: each package works without the other. A unit test compares form().
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


def causal_conv1d_fn(x, weight, bias, initial_states, return_final_states, activation, reverse):
    """The convolution without seq_idx.

    x: (batch, dim, seqlen); weight: (dim, width); bias: (dim,); initial_states: (batch, dim, width - 1)

    Returns out: (batch, dim, seqlen), or (out, final_states), final_states of the shape of initial_states.
    """
    batch, dim, seqlen = x.shape
    width = weight.shape[1]
    if form() == "fused":
        flags = {"silu": int(activation is not None), "reverse": int(reverse)}
        shapes = [(batch, dim, seqlen), (batch, dim, width - 1)][: 1 + return_final_states]
        outs = _node("CausalConv", (x, weight, bias, initial_states), shapes, flags)
        outs = [out.to(x.dtype) for out in outs]
        return tuple(outs) if return_final_states else outs[0]
    if reverse:
        window, weight = F.pad(x, (0, width - 1)), weight.flip(1)
    elif initial_states is None:
        window = F.pad(x, (width - 1, 0))
    else:
        window = torch.cat([initial_states.to(x.dtype), x], dim=2)
    # An image one row high, because ONNX Runtime's fast kernels are for images.
    out = F.conv2d(window.float().unsqueeze(2), weight.float()[:, None, None], _float(bias), groups=dim).squeeze(2)
    out = (out if activation is None else F.silu(out)).to(x.dtype)
    return (out, window[:, :, -(width - 1) :]) if return_final_states else out


def causal_conv1d_update(x, conv_state, weight, bias, activation):
    """The convolution of the next inputs; conv_state, which must hold at least width - 1 inputs, moves on in place.

    x: (batch, dim, seqlen); conv_state: (batch, dim, state_len)

    Returns out: (batch, dim, seqlen).
    """
    if form() == "fused":
        flags = {"silu": int(activation is not None)}
        shapes = [tuple(x.shape), tuple(conv_state.shape)]
        out, state = _node("CausalConvUpdate", (x, conv_state, weight, bias), shapes, flags)
        conv_state.copy_(state)
        return out.to(x.dtype)
    width, state_len = weight.shape[1], conv_state.shape[2]
    line = torch.cat([conv_state.to(x.dtype), x], dim=2)
    conv_state.copy_(line[:, :, -state_len:])
    window = line[:, :, state_len - (width - 1) :].float()
    out = F.conv1d(window, weight.float().unsqueeze(1), _float(bias), groups=x.shape[1])
    return (out if activation is None else F.silu(out)).to(x.dtype)


def _node(name, inputs, shapes, attributes):
    """The outputs of a node, of these shapes, in float32, as all of mambaport's operators have."""
    inputs = [_float(tensor) for tensor in inputs]
    dtypes = [torch.float32] * len(shapes)
    return torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{name}", inputs, attributes, dtypes=dtypes, shapes=shapes, version=1
    )


def _float(tensor):
    return None if tensor is None else tensor.float()
