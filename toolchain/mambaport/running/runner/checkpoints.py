"""Weights from a file: a released checkpoint, a state dict, or safetensors. No code of the file is run."""

import argparse
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from answers import Refusal
from models import VISION
from torch.torch_version import TorchVersion

WRAPPERS = ("model", "state_dict")
# In older releases, a crafted pickle runs code also with weights_only=True: CVE-2025-32434.
SAFE_PICKLES = "2.6.0"
CONVERT = (
    'python -c "import argparse, sys, torch; from safetensors.torch import save_file; '
    "torch.serialization.add_safe_globals([argparse.Namespace]); "
    "state = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "state = state.get('model', state); "
    'save_file({name: value.clone() for name, value in state.items()}, sys.argv[2])" '
    "FILE.pth FILE.safetensors"
)
TRUST = "take it from a source you trust, as safetensors or as a plain dictionary of tensors"


def read_state(path):
    """The tensors of a checkpoint, by name.

    Raises:
        Refusal: the file does not exist, is damaged, or would run code when loaded.
    """
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(9)
    except OSError as fault:
        raise Refusal(
            "usage",
            f"The checkpoint cannot be read: {path}",
            fault.strerror,
            hint="check the path of --checkpoint; without one the weights are random",
        ) from None
    state = _safetensors(path) if head[8:] == b"{" else _pickled(path)
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise _damaged(path, f"a {type(state).__name__}")
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    not_tensors = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if not_tensors or not state:
        raise _damaged(path, f"no tensor under {not_tensors[0]!r}" if not_tensors else "an empty dictionary")
    return state


def _safetensors(path):
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise Refusal(
            "host",
            f"{path} is a safetensors file, and safetensors is not installed",
            hint="pip install safetensors, into the environment that --python names",
        ) from None
    try:
        return load_file(path)
    except Exception as fault:  # safetensors' own errors have no common base
        raise _damaged(path, str(fault)) from None


def _pickled(path):
    """torch.load, restricted to tensors and plain data.

    Raises:
        Refusal: this torch does not restrict itself to them; or as for :func:`read_state`.
    """
    if TorchVersion(torch.__version__) < SAFE_PICKLES:
        raise Refusal(
            "run",
            f"{path} is a pickle, and this torch cannot load a pickle safely",
            found=f"torch {torch.__version__}: code in a crafted pickle runs even with weights_only=True "
            "(CVE-2025-32434)",
            expected=f"a safetensors file, or torch {SAFE_PICKLES} or newer",
            hint="on any machine with such a torch and safetensors, convert the file and give the new one to "
            f"--checkpoint:\n{CONVERT}",
        )
    try:
        # Released checkpoints hold the arguments of their training in a Namespace, which is plain data.
        torch.serialization.add_safe_globals([argparse.Namespace])
        # With mmap, an optimizer's state beside the weights is never read from the disk.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as fault:
        names = re.findall(r"GLOBAL ([\w.]+)", str(fault))
        if not names:
            raise _damaged(path, str(fault).splitlines()[0]) from None
        raise Refusal(
            "run",
            f"{path} was refused: loading it would run code",
            found=f"a pickle that imports {names[0]}",
            expected="a pickle of tensors and plain data",
            hint=TRUST,
        ) from None
    except Exception as fault:  # damaged archives cause errors of many kinds
        raise _damaged(path, f"{type(fault).__name__}: {fault}".splitlines()[0]) from None


def _damaged(path, found):
    return Refusal(
        "run",
        f"{path} is not a checkpoint, or not a whole one",
        found=found,
        expected='a state dict, a dictionary with one under "model", or a safetensors file',
        hint="compare the file's size with that of its source, and fetch the file again",
    )


def fit(name, shape, state, path, size=None):
    """The model's shape, with the checkpoint's number of classes and, without ``size``, its image size.

    Raises:
        Refusal: the weights belong to another model; the refusal names that model.
    """
    from vim import VisionMamba

    found = shape_of(state)
    owner = owner_of(found)
    if found is not None:
        shape = replace(shape, classes=found.get("classes", shape.classes))
        # A finer stride and a larger image give the same grid; prefer the shape of a released model.
        if found["grid"] and size is None and owner not in VISION:
            shape = replace(shape, size=(found["grid"] - 1) * shape.stride + shape.patch)
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in VisionMamba(shape).state_dict().items()}
    present = {key: value.shape for key, value in state.items()}
    if present == wanted:
        return shape
    raise Refusal(
        "run",
        f"This checkpoint is not one of {name}: {path}",
        found=_difference(present, wanted) if owner is None or _alike(found, shape) else owner,
        expected=f"{name}: width {shape.width}, {shape.depth} blocks, {len(wanted)} tensors",
        hint=f"--model {owner}"
        if owner in VISION and owner != name
        else "give weights of a Vision Mamba as hustvl released them, whole or trained further; docs/how-to/"
        "run-a-model.md says which --model is which. Without --checkpoint the weights are random",
    )


def shape_of(state):
    """The shape that the tensors of a Vision Mamba have; None for tensors of another kind of model."""
    places, patches = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if places is None or patches is None or "layers.0.mixer.A_b_log" not in state or places.dim() != 3:
        return None
    found = {
        "width": places.shape[2],
        "depth": len({n.split(".")[1] for n in state if n.startswith("layers.")}),
    }
    rows = places.shape[1] - ("cls_token" in state)
    grid = round(rows**0.5)
    found["grid"] = grid if grid * grid == rows else None
    found["rope"], found["token"] = "rope.freqs_cos" in state, "cls_token" in state
    if "head.weight" in state:
        found["classes"] = len(state["head.weight"])
    return found


def owner_of(found):
    """The name of the model with the shape ``found``; a description where no known model has that shape."""
    if found is None:
        return None
    for name, shape in VISION.items():
        if _alike(found, shape):
            return name
    rope = ", rope" if found["rope"] else ""
    return f"a Vision Mamba of width {found['width']}, {found['depth']} blocks{rope}"


def _alike(found, shape):
    """Whether the tensors have this shape; the number of classes may differ."""
    keys = ("width", "depth", "grid", "rope", "token")
    expected = (shape.width, shape.depth, shape.grid, shape.rope, shape.pool != "mean")
    return tuple(found[key] for key in keys) == expected


def _difference(present, wanted):
    """A few differing tensors as text, which show what model the weights are from."""
    if "backbone.embedding.weight" in present:
        return "a Mamba language model"
    missing = [key for key in wanted if key not in present]
    extra = [key for key in present if key not in wanted]
    other = [
        f"{key} {tuple(present[key])}" for key in wanted if key in present and present[key] != wanted[key]
    ]
    parts = (("missing", missing), ("unknown", extra), ("of another shape", other))
    return "; ".join(f"{len(keys)} {what}, such as {keys[0]}" for what, keys in parts if keys)
