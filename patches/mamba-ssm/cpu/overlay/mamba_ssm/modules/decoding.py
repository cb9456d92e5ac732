"""A language model's step of decoding in one compiled call, where every layer is plain or quantised.

The plan of a model and its states is kept with the states. Before each token the plan's modules, tensors and functions
are compared with those of the model, so a hook, a replaced layer, weight or method is respected from the next token on.
A plan without a decoder is kept for a model that has to be called, so that the model is examined once for a sequence.
"""

import ctypes
import operator
from collections import namedtuple

import torch
from torch import nn

from mamba_ssm.modules import submodules
from mamba_ssm.modules.block import Block
from mamba_ssm.modules.mamba_simple import Mamba
from mamba_ssm.modules.quantized import QuantizedEmbedding, QuantizedLinear
from mamba_ssm.ops import dispatch
from mamba_ssm.ops.triton.layer_norm import RMSNorm

_PLAIN = (torch.Tensor, nn.Parameter)
_LAYERS = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
_KINDS = (Block, Mamba, RMSNorm, nn.LayerNorm, nn.Linear, nn.Conv1d, nn.Embedding, QuantizedLinear, QuantizedEmbedding)
_METHODS = [(kind, name, getattr(kind, name)) for kind in _KINDS for name in ("forward", "step") if hasattr(kind, name)]
_PLAN = "_mambaport_plan"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SETTINGS = ("eps", "activation", "layer_idx", "bimamba_type", "init_layer_scale")  # attributes that a plan copies
_LAYOUT = (torch.Tensor.data_ptr, operator.attrgetter("dtype"), torch.Tensor.size, torch.Tensor.stride)
CausalLMOutput = namedtuple("CausalLMOutput", ["logits"])


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Plan:
    """A decoder or None, and the model and states it is for: hundreds of objects, compared by functions in C."""

    def __init__(self, model, states, decoder=None, logs=()):
        self.model, self.decoder, self.embedding = model, decoder, model.backbone.embedding
        self.kind, self.method = type(model.backbone), type(model.backbone).forward
        self.modules = list(model.modules())
        self.kinds = list(map(type, self.modules))
        dictionaries = [module.__dict__ for module in self.modules]
        hooks = [getattr(module, name) for module in self.modules for name in _HOOKS]
        owners = [getattr(m, name) for m in self.modules for name in ("_parameters", "_buffers", "_modules")]
        self.sized = [*hooks, *owners]
        self.sizes = list(map(len, self.sized))
        found = [(owner, name, value) for owner in owners for name, value in owner.items()]
        found += [(owner, "forward", owner.get("forward")) for owner in dictionaries]
        found += [(owner, name, owner[name]) for owner in dictionaries for name in _SETTINGS if name in owner]
        self.owners, self.names, self.values = map(list, zip(*found))
        self.tensors = [value for value in self.values if isinstance(value, torch.Tensor)]
        self.keys, self.states = list(states), _flat(states)
        self.tensors += [state for state in self.states if isinstance(state, torch.Tensor)]
        self.layout = _layout(self.tensors)
        # The decoder has -exp(A_log), which costs a fifth of a token's time, so the numbers of A_log are compared. A
        # change of other numbers needs no new decoder.
        self.copies = [log.detach().clone() for log in logs]
        self.logs = [log.data_ptr() for log in logs], [copy.data_ptr() for copy in self.copies]
        self.bytes = [copy.nbytes for copy in self.copies]

    def is_for(self, model, states):
        """Whether the model and the states are those of the plan, without a change."""
        return (
            self.model is model
            and list(states) == self.keys
            and _are(_flat(states), self.states)
            and list(map(len, self.sized)) == self.sizes
            and _are(map(type, self.modules), self.kinds)
            and _are(map(dict.get, self.owners, self.names), self.values)
            and _layout(self.tensors) == self.layout
            and not any(map(_memcmp, *self.logs, self.bytes))
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
    return plan.decoder(plan.embedding(tokens)).view(1, 1, -1)


def _are(objects, others):
    objects, others = list(objects), list(others)
    return len(objects) == len(others) and all(map(operator.is_, objects, others))


def _flat(states):
    """All states in one list; a layer's entry is a pair, or a single tensor for attention."""
    return [state for entry in states.values() for state in (entry if isinstance(entry, (tuple, list)) else (entry,))]


def _layout(tensors):
    return [list(map(function, tensors)) for function in _LAYOUT]


def _make(model, states):
    """A plan, without a decoder where the model has to be called; None where the model's tensors have no address."""
    decoder, logs = _decoder(model, states) or (None, [])
    try:
        return _Plan(model, states, decoder, logs)
    except (AttributeError, TypeError, RuntimeError, NotImplementedError):  # a scripted module, a tensor of a subclass
        return None


def _decoder(model, states):
    """A decoder and its A_logs; None where a part of the model is more than its weights, or of another kind or dtype."""
    kernels, backbone = dispatch.selective_scan_cpu, model.backbone
    if type(backbone).forward.__qualname__ != "MixerModel.forward":
        return None
    try:
        blocks, logs = [], []
        for index, block in enumerate(backbone.layers):
            mixer = block.mixer
            layers = [getattr(mixer, name) for name in _LAYERS]
            plain = type(block) is Block and type(mixer) is Mamba and block.mlp is None and not _changed(block, mixer)
            if not plain or mixer.layer_idx != index or index not in states or mixer.activation not in ("silu", "swish"):
                return None
            if getattr(mixer, "bimamba_type", "none") != "none" or getattr(mixer, "init_layer_scale", None) is not None:
                return None
            in_proj, conv, x_proj, dt_proj, out_proj = layers
            if not _tensor(mixer.A_log).is_contiguous():
                return None
            logs.append(mixer.A_log)
            blocks.append(
                kernels.Block(
                    _norm(kernels, block.norm), _weights(kernels, in_proj), _tensor(conv.weight), _tensor(conv.bias),
                    _weights(kernels, x_proj), _weights(kernels, dt_proj), -torch.exp(mixer.A_log), _tensor(mixer.D),
                    _weights(kernels, out_proj), *states[index],
                )  # fmt: skip
            )
            if not submodules.are_plain(conv):
                return None
        if _changed(backbone, backbone.layers, backbone.embedding) or type(backbone.embedding) not in _KINDS:
            return None
        decoder = kernels.MambaDecoder(blocks, _norm(kernels, backbone.norm_f), _weights(kernels, model.lm_head))
    except (AttributeError, TypeError, ValueError):  # another kind of model, or tensors that the kernel does not take
        return None
    return decoder, logs


def _changed(*modules):
    return any("forward" in module.__dict__ or submodules._has_hooks(module) for module in modules)


def _tensor(tensor):
    if tensor is not None and (type(tensor) not in _PLAIN or tensor.dtype is not torch.float32):
        raise TypeError("a tensor of a subclass, or of another dtype than float32")
    return tensor


def _norm(kernels, norm):
    if type(norm) not in (RMSNorm, nn.LayerNorm) or _changed(norm) or getattr(norm, "drop", None) is not None:
        raise TypeError("a norm of another kind, or one with hooks")
    return kernels.Norm(_tensor(norm.weight), _tensor(norm.bias), norm.eps, type(norm) is RMSNorm)


def _weights(kernels, layer):
    if type(layer) is QuantizedLinear and not _changed(layer):
        return kernels.Weights(layer.rows, layer.columns, layer.scales, layer.packed, layer.bias)
    if not submodules.are_plain(layer):
        raise TypeError("a layer that is more than its weights")
    return kernels.Weights(*layer.weight.shape, layer.weight, None, layer.bias)
