"""Loads the library of torch operators beside this file, and refuses a library that was compiled for another torch."""

import ctypes
import re
from pathlib import Path

import torch

_COMPILED_FOR = re.compile(rb"compiled for torch (\d+\.\d+), CUDA (\d+)\d{3}, C\+\+11 ABI (\d)\.")
_loaded = {}


def load(name, fakes):
    """Load ``libNAME.so``, which registers its operators in ``torch.ops.NAME``. A second call does nothing.

    fakes: operator -> the function that gives the shapes, strides and dtypes of the operator's results without
        computing them, for torch.compile and torch.export

    Raises ImportError where the library was compiled for another torch; the message names that torch.
    """
    if name in _loaded:
        return
    path = Path(__file__).with_name(f"lib{name}.so")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        found = _COMPILED_FOR.search(path.read_bytes()) if path.is_file() else None
        raise ImportError(_misfit(name, found, str(error)), name=name, path=str(path)) from None
    text = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, "compiled_for")))
    found = _COMPILED_FOR.match(text)
    if found[1].decode() != _this_torch():
        fault = _misfit(name, found, "classes differ between minor releases of torch")
        raise ImportError(fault, name=name, path=str(path))
    registry = torch.library.Library(name, "FRAGMENT")
    for operator, fake in fakes.items():
        torch.library.register_fake(f"{name}::{operator}", fake, lib=registry)
    _loaded[name] = registry


def _this_torch():
    return ".".join(torch.__version__.split(".")[:2])


def _misfit(name, found, fault):
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    if found is None:
        return f"{name} does not load: {fault}"
    minor, major, abi = (part.decode() for part in found.groups())
    other_abi = "" if bool(int(abi)) == torch.compiled_with_cxx11_abi() else ", and the other C++ ABI"
    return (
        f"{name} was compiled for torch {minor} with CUDA {major}{other_abi}; this is torch {torch.__version__} with "
        f"{cuda}. Install the wheel for this torch. ({fault})"
    )
