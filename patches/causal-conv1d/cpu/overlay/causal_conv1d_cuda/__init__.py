"""The module causal_conv1d_cuda: upstream's three functions, for CUDA tensors and for all others.

Other repositories import the extension by this name. They call the functions with the arguments of the release that
they were written for, and the number of arguments tells the release. A CUDA tensor goes to the compiled extension of
a CUDA wheel. Every other tensor is computed by causal_conv1d_cpu or by PyTorch.

This module does not import causal_conv1d: another repository's copy of causal_conv1d may come first on the path.
"""

import functools
import importlib.util
import os
import warnings
from pathlib import Path

import torch

try:
    import causal_conv1d_cpu
except ModuleNotFoundError:  # a wheel without compiled kernels
    causal_conv1d_cpu = None
except ImportError as error:
    warnings.warn(
        f"causal_conv1d_cpu is installed but does not load; PyTorch computes in its place: {error}", stacklevel=2
    )
    causal_conv1d_cpu = None

__all__ = ["HAS_CUDA", "causal_conv1d_bwd", "causal_conv1d_fwd", "causal_conv1d_update"]

_SITE = Path(__file__).resolve().parents[1]

# Number of arguments -> the arguments' names. Since 1.5.1, the caller gives the result tensors, and no tensor
# is returned.
FWD = {
    4: ("x", "weight", "bias", "silu"),  # 1.0
    5: ("x", "weight", "bias", "seq_idx", "silu"),  # 1.1
    7: ("x", "weight", "bias", "seq_idx", "initial_states", "final_states_out", "silu"),  # 1.2 to 1.5.0
    8: ("x", "weight", "bias", "seq_idx", "initial_states", "out", "final_states_out", "silu"),  # since 1.5.1
}
_STATES = ("initial_states", "dfinal_states")
BWD = {
    6: ("x", "weight", "bias", "dout", "dx", "silu"),
    7: ("x", "weight", "bias", "dout", "seq_idx", "dx", "silu"),
    10: ("x", "weight", "bias", "dout", "seq_idx", *_STATES, "dx", "return_dinitial_states", "silu"),
    12: ("x", "weight", "bias", "dout", "seq_idx", *_STATES, "dx", "dweight", "dbias", "dinitial_states", "silu"),
}
UPDATE = {
    5: ("x", "conv_state", "weight", "bias", "silu"),  # 1.0 to 1.3
    6: ("x", "conv_state", "weight", "bias", "silu", "cache_seqlens"),  # 1.4
    7: ("x", "conv_state", "weight", "bias", "silu", "cache_seqlens", "conv_state_indices"),  # 1.5.0
    8: ("x", "conv_state", "weight", "bias", "out", "silu", "cache_seqlens", "conv_state_indices"),
}


def _compiled():
    """The module with the compiled functions of release 1.6.0, or None in a CPU wheel, which has no CUDA library."""
    if not Path(__file__).with_name("libcausal_conv1d_cuda.so").is_file():
        return None
    return importlib.import_module(f"{__name__}._cuda")


_cuda = _compiled()
HAS_CUDA = _cuda is not None
"""Whether CUDA tensors are computed by compiled CUDA code. False in a CPU wheel."""


def causal_conv1d_fwd(*arguments):
    """The convolution; FWD names the arguments.

    x, out: (batch, dim, seqlen); weight: (dim, width); bias: (dim,); seq_idx: (batch, seqlen)
    initial_states, final_states_out: (batch, dim, width - 1); final_states_out receives the last inputs
    silu: whether SiLU is applied to the result

    Returns out, or None where the caller gives a tensor for out.
    """
    call = _named(FWD, arguments, "causal_conv1d_fwd")
    if _use_cuda(call["x"]):
        out = torch.empty_like(call["x"]) if call.get("out") is None else call["out"]
        _cuda.causal_conv1d_fwd(*_in_order(FWD[8], {**call, "out": out}))
        _written(call.get("final_states_out"))
    else:
        out = _forward(call)
    return None if "out" in call else out


def causal_conv1d_bwd(*arguments):
    """The gradients; BWD names the arguments.

    dout: like x, the gradient of the result; dfinal_states: (batch, dim, width - 1)
    dx, dweight, dbias, dinitial_states: tensors that receive the gradients

    Returns [dx, dweight, dbias], and dinitial_states in releases that have this gradient. A gradient has the shape and
    dtype of its tensor, and is None where the tensor is None. Returns None where the caller gives all tensors.
    """
    call = _named(BWD, arguments, "causal_conv1d_bwd")
    given = len(arguments) == 12
    wants_states = call.get("dinitial_states") is not None or call.get("return_dinitial_states", False)
    if _use_cuda(call["x"]):
        result = _cuda_backward(call, wants_states)
    else:
        result = _pytorch().causal_conv1d_bwd(
            *(call.get(name) for name in ("x", "weight", "bias", "dout", "seq_idx", *_STATES, "dx")),
            wants_states,
            bool(call["silu"]),
        )
        if given:
            for name, grad in zip(("dweight", "dbias", "dinitial_states"), result[1:], strict=True):
                if call[name] is not None and grad is not None:
                    call[name].add_(grad) if name != "dinitial_states" else call[name].copy_(grad)
    if given:
        return None
    return list(result[:4] if len(arguments) == 10 else result[:3])


def causal_conv1d_update(*arguments):
    """The convolution of the next inputs; updates conv_state in place. UPDATE names the arguments.

    x, out: (batch, dim), or (batch, dim, seqlen) in later releases
    conv_state: (batch, dim, state_len), state_len of at least width - 1
    cache_seqlens: (batch,), the position in conv_state at which each row continues; conv_state_indices: (batch,)

    Returns out, or None where the caller gives a tensor for out.
    """
    call = _named(UPDATE, arguments, "causal_conv1d_update")
    x = call["x"]
    if x.dim() == 2:
        call |= {"x": x.unsqueeze(-1)}
        if call.get("out") is not None:
            call |= {"out": call["out"].unsqueeze(-1)}
    if _use_cuda(x):
        out = torch.empty_like(call["x"]) if call.get("out") is None else call["out"]
        _cuda.causal_conv1d_update(*_in_order(UPDATE[8], {**call, "out": out}))
        _written(call["conv_state"])
    else:
        out = _update(call)
    if "out" in call:
        return None
    return out.squeeze(-1) if x.dim() == 2 else out


def _named(releases, arguments, function):
    names = releases.get(len(arguments))
    if names is None:
        counts = ", ".join(str(count) for count in releases)
        raise TypeError(f"{function}() takes {counts} arguments in its releases, and was given {len(arguments)}")
    return dict(zip(names, arguments, strict=True))


def _in_order(names, call):
    return [call.get(name) for name in names]


def _force_fallback():
    word = os.environ.get("CAUSAL_CONV1D_FORCE_FALLBACK")
    return word is not None and word.strip().upper() in ("TRUE", "1", "YES", "ON")


def _use_cuda(x):
    # In a graph, a comparison of the number of elements would fix it.
    return HAS_CUDA and x.is_cuda and (torch.compiler.is_compiling() or x.numel() > 0) and not _force_fallback()


def _written(tensor):
    """Lets autograd know that a kernel wrote to a tensor of the caller. In a compiled graph, torch does so."""
    if tensor is not None and not torch.compiler.is_compiling() and not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def _cuda_backward(call, wants_states):
    """[dx, dweight, dbias, dinitial_states] of the compiled extension, which adds to weight gradients in float32."""
    x, weight, bias = call["x"], call["weight"], call["bias"]
    if "dweight" in call:
        _cuda.causal_conv1d_bwd(*_in_order(BWD[12], call))
        return None
    dx = torch.empty_like(x) if call["dx"] is None else call["dx"]
    dweight = torch.zeros_like(weight, dtype=torch.float32)
    dbias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
    batch, dim, width = x.shape[0], x.shape[1], weight.shape[1]
    dstates = x.new_empty(batch, width - 1, dim).transpose(1, 2) if wants_states else None
    filled = {**call, "dx": dx, "dweight": dweight, "dbias": dbias, "dinitial_states": dstates}
    _cuda.causal_conv1d_bwd(*_in_order(BWD[12], filled))
    return [dx, dweight.to(weight.dtype), None if bias is None else dbias.to(bias.dtype), dstates]


@torch.no_grad()
def _forward(call):
    words = _in_order(("x", "weight", "bias", "seq_idx", "initial_states"), call)
    states, activation = call.get("final_states_out"), "silu" if call["silu"] else None
    if causal_conv1d_cpu is not None and not _force_fallback() and causal_conv1d_cpu.supports(*words):
        result = causal_conv1d_cpu.causal_conv1d(*words, states is not None, activation, False)
    else:
        result = _pytorch().causal_conv1d_fn(*words, states is not None, None, activation)
    if states is not None:
        result, last = result
        states.copy_(last)
    return result if call.get("out") is None else call["out"].copy_(result)


@torch.no_grad()
def _update(call):
    words = _in_order(("x", "conv_state", "weight", "bias"), call)
    places = _in_order(("cache_seqlens", "conv_state_indices"), call)
    run = _pytorch().causal_conv1d_update
    if causal_conv1d_cpu is not None and not _force_fallback() and causal_conv1d_cpu.supports_update(*words, *places):
        run = causal_conv1d_cpu.causal_conv1d_update
    result = run(*words, "silu" if call["silu"] else None, *places)
    return result if call.get("out") is None else call["out"].copy_(result)


@functools.cache
def _pytorch():
    """causal_conv1d.fallback of this wheel, by file path: the name causal_conv1d may be another repository's copy."""
    spec = importlib.util.spec_from_file_location(f"{__name__}._pytorch", _SITE / "causal_conv1d" / "fallback.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
