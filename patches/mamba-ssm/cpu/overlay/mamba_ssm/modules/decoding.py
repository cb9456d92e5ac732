"""A language model's step of decoding in one compiled call, where every layer is plain or quantised.

The plan of a model and its states is kept with the states. Before each token the plan's modules, tensors and functions
are compared with those of the model, so a hook, a replaced layer, weight or method is respected from the next token on.
"""

import itertools
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
_FORWARD = itertools.repeat("forward")
CausalLMOutput = namedtuple("CausalLMOutput", ["logits"])


class _Plan:
    """A decoder, and what it was made of: hundreds of objects, compared by functions in C for each token."""

    def __init__(self, decoder, model, modules):
        self.decoder, self.embedding = decoder, model.backbone.embedding
        self.kind, self.method = type(model.backbone), type(model.backbone).forward
        self.modules, self.kinds = modules, [type(module) for module in modules]
        self.hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        self.dictionaries = [module.__dict__ for module in modules]
        owners = [model._modules]
        owners += [getattr(m, name) for m in modules for name in ("_parameters", "_buffers", "_modules")]
        found = [(owner, name, value) for owner in owners for name, value in owner.items()]
        self.owners, self.names, self.values = map(list, zip(*found))
        self.tensors = [value for value in self.values if isinstance(value, torch.Tensor)]
        self.addresses = list(map(torch.Tensor.data_ptr, self.tensors))
        # The plan holds -exp(A_log), so a change of the numbers matters; other numbers are read for each token.
        mixers = [module for module in modules if type(module) is Mamba and not module.A_log.is_inference()]
        self.logs = [mixer.A_log for mixer in mixers]
        self.versions = [log._version for log in self.logs]

    def is_current(self):
        return (
            not any(self.hooks)
            and not any(map(dict.__contains__, self.dictionaries, _FORWARD))
            and all(map(operator.is_, map(type, self.modules), self.kinds))
            and all(map(operator.is_, map(dict.get, self.owners, self.names), self.values))
            and list(map(torch.Tensor.data_ptr, self.tensors)) == self.addresses
            and [log._version for log in self.logs] == self.versions
            and self.kind.forward is self.method
            and self.decoder.is_current
        )


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
    known = inference_params.__dict__.get(_PLAN)
    if known is None or known[0] is not model or not _same(known[1], states) or not known[2].is_current():
        plan = _make(model, states)
        if plan is None:
            return None
        known = model, {index: tuple(pair) for index, pair in states.items()}, plan
        inference_params.__dict__[_PLAN] = known
    plan = known[2]
    return plan.decoder(plan.embedding(tokens)).view(1, 1, -1)


def _same(known, states):
    if len(known) != len(states):
        return False
    for index, pair in states.items():
        before = known.get(index)
        if before is None or before[0] is not pair[0] or before[1] is not pair[1]:
            return False
    return True


def _make(model, states):
    """A plan for the model, or None where a part of it is more than its weights, or of another kind or dtype."""
    kernels, backbone = dispatch.selective_scan_cpu, model.backbone
    if type(backbone).forward.__qualname__ != "MixerModel.forward":
        return None
    try:
        modules = [backbone, backbone.layers, backbone.embedding, backbone.norm_f, model.lm_head]
        blocks = []
        for index, block in enumerate(backbone.layers):
            mixer = block.mixer
            layers = [getattr(mixer, name) for name in _LAYERS]
            plain = type(block) is Block and type(mixer) is Mamba and block.mlp is None and not _changed(block, mixer)
            if not plain or mixer.layer_idx != index or index not in states or mixer.activation not in ("silu", "swish"):
                return None
            if getattr(mixer, "bimamba_type", "none") != "none" or getattr(mixer, "init_layer_scale", None) is not None:
                return None
            in_proj, conv, x_proj, dt_proj, out_proj = layers
            A, A_is_log = _tensor(mixer.A_log), mixer.A_log.is_inference()  # such a tensor has no version
            blocks.append(
                kernels.Block(
                    _norm(kernels, block.norm), _weights(kernels, in_proj), _tensor(conv.weight), _tensor(conv.bias),
                    _weights(kernels, x_proj), _weights(kernels, dt_proj), A if A_is_log else -torch.exp(A), _tensor(mixer.D),
                    _weights(kernels, out_proj), *states[index], A_is_log,
                )  # fmt: skip
            )
            modules += [block, mixer, block.norm, *layers]
            if not submodules.are_plain(conv):
                return None
        if _changed(backbone, backbone.layers, backbone.embedding) or type(backbone.embedding) not in _KINDS:
            return None
        decoder = kernels.MambaDecoder(blocks, _norm(kernels, backbone.norm_f), _weights(kernels, model.lm_head))
    except (AttributeError, TypeError, ValueError):  # another kind of model, or tensors that the kernel does not take
        return None
    return _Plan(decoder, model, modules)


def _changed(*modules):
    return any("forward" in module.__dict__ or submodules._has_hooks(module) for module in modules)


def _tensor(tensor):
    if tensor is not None and type(tensor) not in _PLAIN:
        raise TypeError("a tensor of a subclass")
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
