"""Weights of 8 or 4 bits for inference on a CPU: making them, saving them, loading them.

    model = MambaLMHeadModel.from_pretrained(...)
    quantize(model, bits=8)
    save_quantized(model, "mamba-130m-int8")
    model = MambaLMHeadModel.from_pretrained("mamba-130m-int8")

Linear layers, embeddings and the output layer are replaced. The projection to dt, convolutions, norms, the scan and its
states stay as they are: they are small, and errors of dt grow along the sequence.
"""

import contextlib
import json
import os
import pathlib
import warnings

import torch
from torch import nn

from mamba_ssm.modules import submodules
from mamba_ssm.modules.quantized import QuantizedEmbedding, QuantizedLinear

FILE = "model.safetensors"
SCHEMES = {8: "int8-rows", 4: "int4-blocks-of-32"}
"""Bits -> the scheme in a file's metadata, under "quantization"."""
KEPT = ("dt_proj", "dt_proj_b", "dt_proj_s")
LEAST = 32  # a layer with fewer inputs gains nothing
_KINDS = (QuantizedLinear, QuantizedEmbedding)


def quantize(model, bits=8):
    """Replaces the linear layers and embeddings of a model in place, and returns the model, for inference.

    bits: 8, with a scale for each row of the weights, or 4, with a scale for each row and 32 columns

    A layer that is more than its weight (hooks, LoRA, pruning, parametrisations) is left alone, with a warning.
    Raises ValueError, and leaves the model as it is, for other bits, for a model that is quantised already, for one
    without such layers, and for weights that are not finite or have no numbers (the device meta).
    """
    if type(bits) is not int or bits not in SCHEMES:
        raise ValueError(f"bits is {bits!r}, expected 8 or 4")
    if scheme_of(model) is not None:
        raise ValueError(f"the model's weights are quantised already: {scheme_of(model)}")
    chosen, skipped = [], []
    for parent, name, layer, path in list(_layers(model)):
        if name in KEPT or min(layer.weight.shape) < LEAST:
            continue
        if not _is_plain(layer):
            skipped.append(path)
            continue
        if layer.weight.is_meta:
            raise ValueError(f"{path}.weight is on the device meta, which has no numbers: load the weights first")
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"{path}.weight has elements that are not finite, which no scale can represent")
        chosen.append((parent, name, layer))
    if not chosen:
        raise ValueError(f"there is no linear layer or embedding to quantize in this {type(model).__name__}")
    if skipped:
        why = "these layers stay as they are, because they compute more than their weight"
        warnings.warn(f"{why}: {skipped}", stacklevel=2)
    made = {}
    for parent, name, layer in chosen:
        setattr(parent, name, _replaced(layer, bits, made))
    return model.eval().requires_grad_(False)


def scheme_of(model):
    """The name of the scheme of a model's weights, as in SCHEMES; None for a model that is not quantised."""
    bits = [layer.bits for layer in model.modules() if isinstance(layer, _KINDS)]
    return SCHEMES[min(bits)] if bits else None


def save_quantized(model, path):
    """Writes a quantised model.

    path: a file NAME.safetensors, or a folder, which gets model.safetensors and, for a model with a config, config.json

    Raises ValueError for a model that is not quantised, TypeError for a config that JSON cannot hold, ImportError
    without safetensors. An older file stays until the new file is whole.
    """
    scheme = scheme_of(model)
    if scheme is None:
        raise ValueError(f"this {type(model).__name__} is not quantised: call quantize(model) first")
    save_file = _safetensors().torch.save_file
    # Tied layers share their packed weights, which are written under the first name. Other tensors that share memory are
    # written under each name, because the model that they are loaded into has all the names.
    layers = [layer for layer in model.modules() if isinstance(layer, _KINDS)]
    shared = {tensor.data_ptr() for layer in layers for tensor in (layer.packed, layer.scales)}
    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in shared:
            state[name] = tensor.clone(memory_format=torch.contiguous_format)
        elif tensor.data_ptr() not in seen:
            state[name] = tensor.contiguous()
            seen.add(tensor.data_ptr())
    file, config, text = os.fspath(path), getattr(model, "config", None), None
    if not file.endswith(".safetensors"):
        if config is not None:
            text = json.dumps(config if isinstance(config, dict) else config.__dict__, indent=4)
        os.makedirs(file, exist_ok=True)
        file = os.path.join(file, FILE)
    _replace(file, lambda part: save_file(state, part, metadata={"format": "pt", "quantization": scheme}))
    if text is not None:
        _replace(os.path.join(path, "config.json"), lambda part: pathlib.Path(part).write_text(text))


def _replace(file, write):
    """Writes a file under another name, and then gives it its name."""
    part = f"{file}.part"
    try:
        write(part)
        os.replace(part, file)
    except BaseException:
        pathlib.Path(part).unlink(missing_ok=True)
        raise


def load_quantized(model, path):
    """Loads what `save_quantized` wrote into a new model of the same shape, in place, and returns the model.

    path: the file or the folder

    Tensors keep the devices of the model's; those on the device meta become tensors of the CPU.

    Raises FileNotFoundError; ValueError for a damaged file, for one of another scheme or none, and where tensors are
    missing, have another dtype or shape, scales that are not finite, or are unknown to the model; ImportError without
    safetensors.
    """
    file = os.fspath(path)
    if os.path.isdir(file):
        file = os.path.join(file, FILE)
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{path} has no {FILE}" if os.path.isdir(path) else f"there is no file {file}")
    scheme = scheme_of_file(file)
    if scheme is None:
        raise ValueError(f"{file} holds no quantised weights: its metadata has no quantization")
    with _opened(file) as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    return load_state(model, state, scheme, file)


def scheme_of_file(path):
    """The scheme of a file or a folder's model.safetensors; None where there is none.

    Raises ValueError for a damaged file, and for a scheme that this version does not know.
    """
    file = os.path.join(path, FILE) if os.path.isdir(path) else path
    if not os.path.isfile(file) or not str(file).endswith(".safetensors"):
        return None
    with _opened(file) as opened:
        scheme = (opened.metadata() or {}).get("quantization")
    if scheme is not None and scheme not in SCHEMES.values():
        raise ValueError(f"{file} has quantization {scheme!r}, expected {' or '.join(SCHEMES.values())}")
    return scheme


def load_state(model, state, scheme, source="the file"):
    """Loads tensors by name into a model, in place. scheme: None for a state dict that is not quantised.

    Raises ValueError as `load_quantized` does.
    """
    if scheme is None:
        model.load_state_dict(state)
        return model
    bits = next(bits for bits, name in SCHEMES.items() if name == scheme)
    layers, tied, paths, taken, made, known = list(_layers(model)), {}, {}, set(), [], {}
    for _, _, layer, path in layers:
        tied.setdefault(id(layer.weight), []).append(path)
        paths.setdefault(id(layer), []).append(path)  # a layer may have several names
    for parent, name, layer, path in layers:
        # Of tied tensors the file has one name.
        first = next((other for other in tied[id(layer.weight)] if _in(state, other)), None)
        if first is None:
            continue
        if id(layer) in known:
            made.append((parent, name, known[id(layer)], path))
            continue
        new = known[id(layer)] = _empty(layer, bits)
        names = {"packed": f"{first}.packed", "scales": f"{first}.scales"}
        if getattr(new, "bias", None) is not None:
            keys = [f"{other}.bias" for other in paths[id(layer)]]
            names["bias"] = next((key for key in keys if key in state), keys[0])
        device = None if layer.weight.is_meta else layer.weight.device
        for part, key in names.items():
            setattr(new, part, _checked(state.get(key), key, getattr(new, part), scheme, source).to(device))
            taken.add(key)
        made.append((parent, name, new, path))
    before = model.state_dict(keep_vars=True)
    # A layer that is replaced may have names that no parent gives: those of a block that stands in a list twice.
    replaced = {id(t) for parent, name, _, _ in made for t in getattr(parent, name).state_dict(keep_vars=True).values()}
    meta = any(tensor.is_meta for tensor in before.values())
    try:
        fit = model.load_state_dict({key: state[key] for key in state if key not in taken}, strict=False, assign=meta)
    except RuntimeError as error:  # sizes that differ
        raise ValueError(f"{source} does not fit this {type(model).__name__}: {error}") from None
    missing = [key for key in fit.missing_keys if id(before[key]) not in replaced]
    if missing or fit.unexpected_keys:
        raise ValueError(
            f"{source} does not fit this {type(model).__name__}: missing {missing or 'nothing'}, "
            f"unknown {fit.unexpected_keys or 'nothing'}"
        )
    for parent, name, new, _ in made:
        setattr(parent, name, new)
    return model.eval().requires_grad_(False)


def _in(state, path):
    return f"{path}.packed" in state or f"{path}.scales" in state


def _checked(tensor, key, wanted, scheme, source):
    """A tensor of a file, in wanted's dtype."""
    if tensor is None:
        raise ValueError(f"{source} has no {key}, which its quantization {scheme!r} needs")
    if tensor.dtype != wanted.dtype and not (tensor.is_floating_point() and key.endswith(".bias")):
        raise ValueError(f"{source}: {key} has dtype {tensor.dtype}, expected {wanted.dtype} for {scheme!r}")
    if tensor.shape != wanted.shape:
        raise ValueError(f"{source}: {key} has shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)}")
    if key.endswith(".scales") and not torch.isfinite(tensor).all():
        raise ValueError(f"{source}: {key} has elements that are not finite")
    return tensor.to(wanted.dtype)


def _layers(model):
    """(parent, name, layer, path) of each linear layer and embedding, once for each name of the layer."""
    for path, parent in model.named_modules():
        for name, layer in list(parent._modules.items()):
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                yield parent, name, layer, f"{path}.{name}".lstrip(".")


def _is_plain(layer):
    return submodules.are_plain(layer) and getattr(layer, "max_norm", None) is None


def _replaced(layer, bits, made):
    """The quantised form of a layer: one for all names of the layer; tied layers share their buffers."""
    if id(layer) in made:
        return made[id(layer)][1]
    known = made.get(id(layer.weight))
    if known is None:
        kind = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedEmbedding
        new = kind.from_layer(layer, bits)
        made[id(layer.weight)] = layer.weight, new
    else:
        new = _empty(layer, bits)
        new.packed, new.scales = known[1].packed, known[1].scales
        if getattr(layer, "bias", None) is not None:
            new.bias = layer.bias.detach().float()
    made[id(layer)] = layer, new  # the layer and its weight too: an id is reused when its object is gone
    return new


def _empty(layer, bits):
    """The quantised form of a layer, without numbers."""
    if isinstance(layer, nn.Linear):
        return QuantizedLinear(layer.in_features, layer.out_features, bits, layer.bias is not None, device="meta")
    return QuantizedEmbedding(*layer.weight.shape, bits, layer.weight.dtype, device="meta")


@contextlib.contextmanager
def _opened(file):
    """A safetensors file, opened. Raises ValueError where the file is damaged."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(file, "pt") as opened:
            yield opened
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from None


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("files of quantised weights need safetensors: pip install safetensors") from None
    return safetensors
