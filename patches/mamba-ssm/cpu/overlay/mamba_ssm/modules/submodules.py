"""Decides which submodules of a mixer may be computed from their weights, and computes mixers that must call them.

A kernel reads the weight of a linear layer or a convolution without calling the layer. The result equals that of a call
only for unchanged layers of torch: no replaced forward, no hook, and no weight that is a tensor subclass, is computed
for each call (pruning, weight norm, parametrisation), or is quantised.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module

from mamba_ssm.modules.quantized import QuantizedLinear
from mamba_ssm.ops import dispatch, unfused
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.layernorm_gated import RMSNorm
from mamba_ssm.ops.triton.selective_state_update import selective_state_update

try:
    from causal_conv1d import causal_conv1d_update
except ImportError:
    causal_conv1d_update = None

_PLAIN = (torch.Tensor, nn.Parameter)
_CALL = nn.Module.__call__
# torch's own dictionaries of hooks that run for every module; torch 2.4 has them too.
_GLOBAL_HOOKS = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)
_FORWARDS = {kind: kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Embedding, RMSNorm)}


def are_plain(*modules):
    """Whether a call of each module only computes torch's function of the module's weight and bias.

    modules: linear layers, convolutions, gated norms; None for an absent module
    """
    exporting = dispatch.exporting.form() is not None  # torch.export replaces nn.Module.__call__ and every weight
    if any(_GLOBAL_HOOKS) or not (exporting or nn.Module.__call__ is _CALL):
        return False
    for module in modules:
        if module is None:
            continue
        forward = _FORWARDS.get(type(module))
        if forward is None or getattr(module.forward, "__func__", None) is not forward:
            return False
        if _has_hooks(module):
            return False
        parameters = module._parameters
        bias = parameters.get("bias")
        for tensor in (parameters.get("weight"), *([] if bias is None else [bias])):
            if type(tensor) not in _PLAIN and not (exporting and _stands_in(tensor)):
                return False
    return True


def _stands_in(tensor):
    """Whether a tensor is one of torch's own without numbers, which stand for plain tensors in an exported graph."""
    return type(tensor).__module__.startswith("torch._subclasses.")


def may_fuse(x, *modules):
    """Whether one fused function may read the weights of the modules: always on a GPU, as upstream does."""
    return x.is_cuda or are_plain(*modules)


def may_fuse_mamba(mixer, x):
    """may_fuse for all layers of a Mamba. False for an empty sequence, which einops refuses: `forward` computes it."""
    if x.shape[1] == 0:
        return False
    layers = [mixer.in_proj, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.out_proj]
    projections = [layer for name, layer in mixer._modules.items() if name.startswith("x_proj")]
    if not x.is_cuda and any(getattr(layer, "bias", None) is not None for layer in projections):
        return False  # mamba_inner_fn takes no bias of x_proj
    if getattr(mixer, "bimamba_type", "none") in ("v2", "v3"):  # defined by the vision patch set
        names = [name for name in mixer._modules if name.endswith(("_b", "_s"))]
        layers += [getattr(mixer, name) for name in names]
    return may_fuse(x, *layers)


def _has_hooks(module):
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def kernel_may_take(x):
    """Whether a kernel may replace torch's linear: x is a single row, without autocast or torch function mode."""
    return (
        dispatch.use_cpu_kernel(x)  # first: a comparison of shapes would fix them in an exported graph
        and x.numel() == x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._is_torch_function_mode_enabled()
    )


def linear(layer, x):
    """layer(x). The compiled kernel, which reads the weights faster, computes a single row."""
    if kernel_may_take(x) and are_plain(layer):
        weight, bias = layer._parameters["weight"], layer._parameters["bias"]
        if x.dtype == weight.dtype and dispatch.selective_scan_cpu.supports_linear(x, weight, bias):
            return dispatch.selective_scan_cpu.linear(x, weight, bias)
    return layer(x)


def one_call_step(mixer, hidden_states, conv_state, ssm_state):
    """One token through a Mamba in one kernel, with the states updated in place; None where no kernel supports it."""
    if not kernel_may_take(hidden_states):
        return None
    layers = (mixer.in_proj, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.out_proj)
    if not are_plain(*layers) or mixer.activation not in ("silu", "swish"):
        return None
    if getattr(mixer, "init_layer_scale", None) is not None or getattr(mixer.x_proj, "bias", None) is not None:
        return None
    in_proj, conv, x_proj, dt_proj, out_proj = [layer._parameters for layer in layers]
    tensors = (
        hidden_states,
        conv_state,
        ssm_state,
        in_proj["weight"],
        in_proj["bias"],
        conv["weight"],
        conv["bias"],
        x_proj["weight"],
        dt_proj["weight"],
        dt_proj["bias"],
        mixer.A_log,
        mixer.D,
        out_proj["weight"],
        out_proj["bias"],
    )
    kernels, dtype = dispatch.selective_scan_cpu, hidden_states.dtype
    if not dtype == tensors[3].dtype == tensors[7].dtype == tensors[8].dtype == tensors[12].dtype:
        return None  # torch's linear refuses mixed dtypes
    return kernels.mamba_step(*tensors) if kernels.supports_mamba_step(*tensors) else None


def one_call_forward(mixer, hidden_states, conv_state=None, ssm_state=None):
    """A short sequence through a Mamba in one kernel, both states filled where given; None where no kernel takes it."""
    kind = getattr(mixer, "bimamba_type", "none")
    if (
        kind not in ("none", "v2")
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not dispatch.use_cpu_kernel(hidden_states)
        or mixer.activation not in ("silu", "swish")
        or torch.is_autocast_enabled("cpu")
        or torch._C._is_torch_function_mode_enabled()
    ):
        return None
    kernels = dispatch.selective_scan_cpu
    suffixes = ("", "_b") if kind == "v2" else ("",)
    projections = [weights(mixer.in_proj), weights(mixer.out_proj)]
    directions = [_one_direction(mixer, suffix) for suffix in suffixes]
    if any(part is None for part in (*projections, *directions)):
        return None
    scale = 0.5 if kind == "v2" and mixer.if_divide_out else 1.0
    out = kernels.mamba_forward(hidden_states, *projections, directions, scale, conv_state, ssm_state)
    if out is None or getattr(mixer, "init_layer_scale", None) is None:
        return out
    return out * mixer.gamma


def _one_direction(mixer, suffix):
    """The parameters of one direction for the kernel; None where a layer is more than its weights."""
    conv, x_proj, dt_proj = (getattr(mixer, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj"))
    x_weights = weights(x_proj)
    if x_weights is None or not are_plain(conv, dt_proj):
        return None
    conv, dt_proj = conv._parameters, dt_proj._parameters
    A_log, D = getattr(mixer, f"A{suffix}_log"), getattr(mixer, f"D{suffix}")
    return dispatch.selective_scan_cpu.Direction(
        conv["weight"], conv["bias"], x_weights, dt_proj["weight"], dt_proj["bias"], A_log, D
    )


def weights(layer):
    """The weights of a linear layer, plain or quantised, for a kernel; None where a layer is more than its weights."""
    kernels = dispatch.selective_scan_cpu
    if type(layer) is QuantizedLinear and not _has_hooks(layer) and "forward" not in layer.__dict__:
        return kernels.Weights(layer.rows, layer.columns, layer.scales, layer.packed, layer.bias)
    if not are_plain(layer):
        return None
    weight = layer._parameters["weight"]
    return kernels.Weights(*weight.shape, weight, None, layer._parameters["bias"])


def forward(mixer, hidden_states, conv_state=None, ssm_state=None):
    """Mamba's forward where a submodule must be called.

    hidden_states: (batch, seqlen, d_model)
    conv_state: (batch, d_inner, d_conv), ssm_state: (batch, d_inner, d_state); both are updated where given

    Returns out: (batch, seqlen, d_model)
    """
    x, z = mixer.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
    if conv_state is not None:
        conv_state.copy_(F.pad(x, (mixer.d_conv - x.shape[-1], 0)))
    kind = getattr(mixer, "bimamba_type", "none")
    if ssm_state is None and kind != "v1":
        y = scan_direction(mixer, x, z)
    else:
        inputs = scan_inputs(x, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.d_state, mixer.activation)
        u, delta, B, C, delta_bias = inputs
        y = selective_scan_fn(
            u, delta, -torch.exp(mixer.A_log.float()), B, C, mixer.D.float(), z=z, delta_bias=delta_bias,
            delta_softplus=True, return_last_state=ssm_state is not None,
        )  # fmt: skip
        if ssm_state is not None:
            y, last_state = y
            ssm_state.copy_(last_state)
    if kind != "none":
        from mamba_ssm.modules import bimamba  # of the vision patch set

        y = bimamba.add_other_directions(mixer, y, x, z, inputs if kind == "v1" else None)
    out = mixer.out_proj(y.transpose(1, 2))
    return out if getattr(mixer, "init_layer_scale", None) is None else out * mixer.gamma


def step(mixer, hidden_states, conv_state, ssm_state):
    """Mamba's step where a submodule must be called. hidden_states and the result: (batch, 1, d_model)."""
    x, z = mixer.in_proj(hidden_states.squeeze(1)).chunk(2, dim=-1)
    u = convolve_step(mixer.conv1d, x, conv_state, mixer.activation)
    projected = mixer.x_proj(u)
    dt, B, C = projected.split([projected.shape[-1] - 2 * mixer.d_state, mixer.d_state, mixer.d_state], dim=-1)
    delta, delta_bias = _delta(mixer.dt_proj, dt)
    A = -torch.exp(mixer.A_log.float())
    y = selective_state_update(
        ssm_state, u, delta, A, B, C, mixer.D, z=z, dt_bias=delta_bias, dt_softplus=True
    )
    out = mixer.out_proj(y)
    out = out if getattr(mixer, "init_layer_scale", None) is None else out * mixer.gamma
    return out.unsqueeze(1)


def scan_direction(mixer, x, z, suffix="", reverse=False, onto=None, scale=1.0):
    """scale * (onto + one direction before the output projection); x, z and the result: (batch, d_inner, seqlen)."""
    conv, x_proj, dt_proj = (getattr(mixer, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj"))
    A, D = -torch.exp(getattr(mixer, f"A{suffix}_log").float()), getattr(mixer, f"D{suffix}").float()
    if are_plain(dt_proj) and not dispatch.use_cuda(x):
        u = convolve(conv, x, mixer.activation, reverse=reverse)
        projected = x_proj(u.transpose(1, 2)).transpose(1, 2)
        bias = None if dt_proj.bias is None else dt_proj.bias.float()
        return dispatch.projected_scan(u, projected, dt_proj.weight, A, D, z, bias, True, onto, scale, reverse)
    u, delta, B, C, bias = scan_inputs(x, conv, x_proj, dt_proj, mixer.d_state, mixer.activation, reverse)
    return dispatch.added(unfused.scan(u, delta, A, B, C, D, z, bias, True, reverse), onto, scale)


def scan_inputs(x, conv, x_proj, dt_proj, d_state, activation="silu", reverse=False):
    """u, delta, B, C and delta's bias in the form of the scan's arguments, from x: (batch, dim, seqlen)."""
    u = convolve(conv, x, activation, reverse=reverse)
    projected = x_proj(u.transpose(1, 2))
    dt, B, C = projected.split([projected.shape[-1] - 2 * d_state, d_state, d_state], dim=-1)
    delta, delta_bias = _delta(dt_proj, dt)
    return u, delta.transpose(1, 2), B.transpose(1, 2), C.transpose(1, 2), delta_bias


def _delta(dt_proj, dt):
    """dt_proj(dt) without its bias, and the bias, which the scan adds in float32; or dt_proj(dt), and None."""
    if are_plain(dt_proj):
        bias = dt_proj.bias
        return F.linear(dt, dt_proj.weight), None if bias is None else bias.float()
    return dt_proj(dt), None


def convolve(conv, x, activation=None, seq_idx=None, reverse=False):
    """The causal convolution of x, (batch, dim, seqlen), by a layer whose padding is its width - 1."""
    if are_plain(conv) or (seq_idx is not None and _is_of_its_weight(conv)):
        return unfused.causal_conv1d(x, conv.weight.squeeze(1), conv.bias, seq_idx, activation, reverse)
    if seq_idx is not None:
        raise NotImplementedError(
            f"seq_idx keeps packed sequences apart in a torch.nn.Conv1d without hooks, not in {type(conv).__name__}"
        )
    if reverse:
        return convolve(conv, x.flip([-1]), activation).flip([-1])
    out = conv(x)[..., : x.shape[-1]]
    return out if activation is None else F.silu(out)


def convolve_step(conv, x, conv_state, activation=None):
    """The convolution of the next input x, (batch, dim); conv_state, (batch, dim, width), is updated in place."""
    if causal_conv1d_update is not None and are_plain(conv):
        return causal_conv1d_update(x, conv_state, conv.weight.squeeze(1), conv.bias, activation)
    conv_state.copy_(torch.cat([conv_state[..., 1:], x.unsqueeze(-1).to(conv_state.dtype)], dim=-1))
    out = conv(conv_state.to(x.dtype))[..., conv_state.shape[-1] - 1]  # depends on all of conv_state
    return out if activation is None else F.silu(out)


def _is_of_its_weight(conv):
    """Whether a call is torch's convolution with layer.weight; the weight may be computed at each access."""
    known = isinstance(conv, nn.Conv1d) and getattr(conv.forward, "__func__", None) is _FORWARDS[nn.Conv1d]
    return known and not _has_hooks(conv) and type(conv.weight) in _PLAIN


def dtype_of(layer, otherwise):
    """The dtype of a layer's weight; the dtype of `otherwise` where the layer has an integer weight or no weight."""
    weight = getattr(layer, "weight", None)
    return (weight if isinstance(weight, torch.Tensor) and weight.is_floating_point() else otherwise).dtype


def device_of(layer):
    """The device of a layer's weight; the CPU where the layer has no weight tensor, as torch's quantised layers."""
    weight = getattr(layer, "weight", None)
    return weight.device if isinstance(weight, torch.Tensor) else torch.device("cpu")
