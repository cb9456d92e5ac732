"""A language model's step of decoding in one compiled call, where every layer is plain or quantised.

The plan of a model and its states is kept with the states. Before each token the plan's modules, tensors and functions
are compared with those of the model, so a hook, a replaced layer, weight or method is respected from the next token on.
A plan without a decoder is kept for a model that has to be called, so that the model is examined once for a sequence.
"""

import operator
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from mamba_ssm.modules import submodules
from mamba_ssm.modules.block import Block
from mamba_ssm.modules.mamba2 import Mamba2
from mamba_ssm.modules.mamba_simple import Mamba
from mamba_ssm.modules.mlp import GatedMLP
from mamba_ssm.modules.quantized import QuantizedEmbedding, QuantizedLinear
from mamba_ssm.ops import dispatch
from mamba_ssm.ops.triton.layer_norm import RMSNorm
from mamba_ssm.ops.triton.layernorm_gated import RMSNorm as RMSNormGated

try:
    from mamba_ssm.modules.mamba3 import Mamba3
except ImportError:  # a release without Mamba-3

    class Mamba3:
        """In place of a kind of mixer that no model has."""


_PLAIN = (torch.Tensor, nn.Parameter)
_KINDS = (
    Block, Mamba, Mamba2, Mamba3, GatedMLP, RMSNorm, RMSNormGated, nn.LayerNorm, nn.SiLU, nn.Linear, nn.Conv1d,
    nn.Embedding, QuantizedLinear, QuantizedEmbedding,
)  # fmt: skip
_REPLACEABLE = ("forward", "step")  # methods that an instance may have of its own
_METHODS = [(kind, name, getattr(kind, name)) for kind in _KINDS for name in _REPLACEABLE if hasattr(kind, name)]
_PLAN = "_mambaport_plan"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # those that run where no gradient is wanted
_SETTINGS = (  # attributes that a plan copies
    "eps", "activation", "layer_idx", "bimamba_type", "init_layer_scale", "d_ssm", "d_state", "headdim", "nheads",
    "ngroups", "rmsnorm", "norm_before_gate", "group_size", "D_has_hdim", "dt_limit", "d_inner", "num_bc_heads",
    "num_rope_angles", "mimo_rank", "is_mimo", "is_outproj_norm", "A_floor", "max_norm", "rows", "columns", "dtype",
)  # fmt: skip
_LAYOUT = (torch.Tensor.data_ptr, operator.attrgetter("dtype"), torch.Tensor.size, torch.Tensor.stride)
CausalLMOutput = namedtuple("CausalLMOutput", ["logits"])


class _Plan:
    """A decoder or None, and the model and states it is for: thousands of objects, compared by functions in C.

    No list of sizes or strides is made for a comparison: so many new tuples would start Python's garbage collector.
    """

    def __init__(self, model, states, decoder=None):
        self.model, self.decoder = model, decoder
        self.kind, self.method = type(model.backbone), type(model.backbone).forward
        self.modules = list(model.modules())
        self.kinds = list(map(type, self.modules))
        dictionaries = [module.__dict__ for module in self.modules]
        hooks = [getattr(module, name) for module in self.modules for name in _HOOKS]
        owners = [getattr(m, name) for m in self.modules for name in ("_parameters", "_buffers", "_modules")]
        self.sized = [*hooks, *owners]
        self.sizes = list(map(len, self.sized))
        found = [(owner, name, value) for owner in owners for name, value in owner.items()]
        found += [(owner, name, owner.get(name)) for owner in dictionaries for name in _REPLACEABLE]
        found += [(owner, name, owner[name]) for owner in dictionaries for name in _SETTINGS if name in owner]
        self.owners, self.names, self.values = map(list, zip(*found))
        self.tensors = [value for value in self.values if isinstance(value, torch.Tensor)]
        self.keys, self.states = list(states), _flat(states)
        self.tensors += [state for state in self.states if isinstance(state, torch.Tensor)]
        self.layout = [list(map(function, self.tensors)) for function in _LAYOUT]

    def is_for(self, model, states):
        """Whether the model and the states are those of the plan, without a change."""
        return (
            self.model is model
            and list(states) == self.keys
            and _are(_flat(states), self.states)
            and all(map(operator.eq, map(len, self.sized), self.sizes))
            and all(map(operator.is_, map(type, self.modules), self.kinds))
            and all(map(operator.is_, map(dict.get, self.owners, self.names), self.values))
            and all(all(map(operator.eq, map(f, self.tensors), found)) for f, found in zip(_LAYOUT, self.layout))
            and self.kind.forward is self.method
            and (self.decoder is None or self.decoder.is_current)
        )

    def __reduce__(self):
        """None for a copy of the states, also a pickled one: addresses are those of one process and its tensors."""
        return type(None), ()


def step(model, tokens, inference_params):
    """The logits (1, 1, vocabulary) of one token, the states advanced; None where the model must be called."""
    if (
        inference_params is None
        or tokens.numel() != 1
        or tokens.dim() != 2
        or tokens.dtype not in (torch.int64, torch.int32)
        or inference_params.seqlen_offset == 0
        or torch.is_grad_enabled()
        or not submodules.kernel_may_take(tokens)
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not submodules.are_plain()
        or not all(getattr(kind, name) is method for kind, name, method in _METHODS)
    ):
        return None
    states = inference_params.key_value_memory_dict
    plan = inference_params.__dict__.get(_PLAN)
    if plan is None or not plan.is_for(model, states):
        plan = inference_params.__dict__[_PLAN] = _make(model, states)
    if plan is None or plan.decoder is None:
        return None
    return plan.decoder(int(tokens)).view(1, 1, -1)


def _are(objects, others):
    return len(objects) == len(others) and all(map(operator.is_, objects, others))


def _flat(states):
    """All states in one list; a layer's entry is a pair, or a single tensor for attention."""
    return [state for entry in states.values() for state in (entry if isinstance(entry, (tuple, list)) else (entry,))]


def _make(model, states):
    """A plan, without a decoder where the model has to be called; None where the model's tensors have no address."""
    try:
        return _Plan(model, states, _decoder(model, states))
    except (AttributeError, TypeError, RuntimeError, NotImplementedError):  # a scripted module, a tensor of a subclass
        return None


def _decoder(model, states):
    """A decoder; None where a part of the model is more than its weights, or is of another kind or dtype."""
    kernels, backbone = dispatch.selective_scan_cpu, model.backbone
    if type(backbone).forward.__qualname__ != "MixerModel.forward":
        return None
    try:
        if _changed(backbone, backbone.layers):
            return None
        blocks = []
        for index, block in enumerate(backbone.layers):
            mixer = block.mixer
            if type(block) is not Block or mixer.layer_idx != index or _changed(block, mixer):
                return None
            layer = _MIXERS[type(mixer)](kernels, mixer, tuple(map(_tensor, states[index])))
            blocks.append(kernels.Block(_norm(kernels, block.norm), layer))
            if block.mlp is not None:
                blocks.append(kernels.Block(_norm(kernels, block.norm2), _mlp(kernels, block.mlp)))
        embedding, head = _embedding(kernels, backbone.embedding), _weights(kernels, model.lm_head)
        return kernels.MambaDecoder(embedding, blocks, _norm(kernels, backbone.norm_f), head)
    except (AttributeError, LookupError, TypeError, ValueError):  # another model, or tensors that no kernel takes
        return None


def _mamba(kernels, mixer, states):
    if getattr(mixer, "bimamba_type", "none") != "none" or getattr(mixer, "init_layer_scale", None) is not None:
        raise TypeError("a mixer of the vision patches")
    return kernels.MambaMixer(
        _weights(kernels, mixer.in_proj), *_convolution(mixer), _weights(kernels, mixer.x_proj),
        _weights(kernels, mixer.dt_proj), _tensor(mixer.A_log), _tensor(mixer.D),
        _weights(kernels, mixer.out_proj), *states,
    )  # fmt: skip


def _mamba2(kernels, mixer, states):
    if type(mixer.act) is not nn.SiLU or _changed(mixer.act) or type(mixer.dt_limit) is not tuple:
        raise TypeError("another activation, or limits of dt that may change in place")
    in_proj, out_proj = _weights(kernels, mixer.in_proj), _weights(kernels, mixer.out_proj)
    heads, inner, channels = mixer.nheads, mixer.d_ssm, mixer.d_ssm + 2 * mixer.ngroups * mixer.d_state
    _expect(states[1].shape[1:], (heads, mixer.headdim, mixer.d_state))
    _expect(inner, heads * mixer.headdim)
    _expect(mixer.conv1d.weight.shape[0], channels)
    _expect(in_proj.rows, 2 * (out_proj.columns - inner) + inner + channels + heads)
    _expect(mixer.D.shape, (inner if mixer.D_has_hdim else heads,))
    norm, group, gate = None, inner, "before"
    if mixer.rmsnorm:
        norm = _gated_norm(kernels, mixer.norm)
        group = mixer.norm.group_size or inner
        gate = "after" if mixer.norm.norm_before_gate else "before"
    return kernels.Mamba2Mixer(
        in_proj, *_convolution(mixer), _tensor(mixer.dt_bias), _tensor(mixer.A_log), _tensor(mixer.D), norm, group, gate,
        mixer.dt_limit, out_proj, *states,
    )  # fmt: skip


def _mamba3(kernels, mixer, states):
    heads, rank = mixer.nheads, mixer.mimo_rank
    _expect(states[1].shape[1:], (heads, mixer.headdim, mixer.d_state))
    _expect(states[2].shape[1], rank)
    _expect(mixer.d_inner, heads * mixer.headdim)
    _expect(states[0].shape[2], mixer.num_rope_angles)
    mimo = tuple(map(_tensor, (mixer.mimo_x, mixer.mimo_z, mixer.mimo_o))) if mixer.is_mimo else None
    norm = None
    if mixer.is_outproj_norm:
        norm = _gated_norm(kernels, mixer.norm)
        _expect((mixer.norm.group_size, mixer.norm.norm_before_gate), (mixer.headdim, True))
    for small in (mixer.B_norm, mixer.C_norm):
        _expect(small.group_size or mixer.d_state, mixer.d_state)
    return kernels.Mamba3Mixer(
        _weights(kernels, mixer.in_proj), _weights(kernels, mixer.out_proj), _tensor(mixer.dt_bias), _tensor(mixer.D),
        _gated_norm(kernels, mixer.B_norm), _gated_norm(kernels, mixer.C_norm), _tensor(mixer.B_bias),
        _tensor(mixer.C_bias), mimo, norm, mixer.num_bc_heads, mixer.A_floor, *states,
    )  # fmt: skip


_MIXERS = {Mamba: _mamba, Mamba2: _mamba2, Mamba3: _mamba3}


def _mlp(kernels, mlp):
    if type(mlp) is not GatedMLP or _changed(mlp) or mlp.activation is not F.silu:
        raise TypeError("another kind of MLP")
    return kernels.GatedMLP(_weights(kernels, mlp.fc1), _weights(kernels, mlp.fc2))


def _convolution(mixer):
    """The weight and the bias of a mixer's convolution."""
    if mixer.activation not in ("silu", "swish") or not submodules.are_plain(mixer.conv1d):
        raise TypeError("a convolution that is more than its weights, or another activation")
    return _tensor(mixer.conv1d.weight), _tensor(mixer.conv1d.bias)


def _expect(found, wanted):
    """Settings of a module that its tensors do not fit: the module says what is wrong, or computes something else."""
    if found != wanted:
        raise ValueError(f"{found}, expected {wanted}")


def _gated_norm(kernels, norm):
    if not submodules.are_plain(norm):
        raise TypeError("a gated norm that is more than its weight")
    return kernels.Norm(_tensor(norm.weight), _tensor(norm.bias), norm.eps, True)


def _changed(*modules):
    return any(
        any(name in module.__dict__ for name in _REPLACEABLE) or submodules._has_hooks(module) for module in modules
    )


def _tensor(tensor):
    if tensor is not None and (type(tensor) not in _PLAIN or tensor.dtype is not torch.float32):
        raise TypeError("a tensor of a subclass, or of another dtype than float32")
    return tensor


def _embedding(kernels, table):
    if type(table) is QuantizedEmbedding and not _changed(table) and table.dtype is torch.float32:
        return kernels.Weights(table.rows, table.columns, table.scales, table.packed)
    if type(table) is not nn.Embedding or not submodules.are_plain(table) or table.max_norm is not None:
        raise TypeError("an embedding that is more than its table, or of another dtype than float32")
    return kernels.Weights(*table.weight.shape, table.weight)


def _norm(kernels, norm):
    if type(norm) not in (RMSNorm, nn.LayerNorm) or _changed(norm) or getattr(norm, "drop", None) is not None:
        raise TypeError("a norm of another kind, or one with hooks")
    return kernels.Norm(_tensor(norm.weight), _tensor(norm.bias), norm.eps, type(norm) is RMSNorm)


def _weights(kernels, layer):
    weights = submodules.weights(layer)
    if weights is None:
        raise TypeError("a layer that is more than its weights")
    return weights
