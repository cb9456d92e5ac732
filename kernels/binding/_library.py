"""The C library beside this file, and how a tensor is handed to it."""

from __future__ import annotations

import ctypes
import os
import struct
from functools import lru_cache

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def load(name: str) -> ctypes.CDLL:
    """Opens ``libNAME.so`` beside this file; raises ImportError where the wheel carries none."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"lib{name}.so")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"{name} has no compiled library here: {error}") from error
    library.use_openmp(ctypes.c_void_p(_openmp_entry()))
    return library


def _openmp_entry() -> int | None:
    """The address of GOMP_parallel in the OpenMP runtime that torch itself runs on, be it GNU's or LLVM's."""
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


def readable(*tensors: torch.Tensor | None) -> bool:
    """Whether each tensor is absent, or one that a kernel can read: strided, on the CPU, of a 16 or 32 bit real type."""
    for tensor in tensors:
        if tensor is not None and (
            tensor.dtype not in DTYPES or not tensor.is_cpu or tensor.layout is not torch.strided
        ):
            return False
    return True


def is_plain_call(*tensors: torch.Tensor | None) -> bool:
    """Whether a kernel may be called directly: nothing is being traced, and no gradient is wanted.

    A direct call saves the dispatcher's time, which at one token a step is longer than the kernel's.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _get_current_dispatch_mode() is not None:
        return False
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (type(tensor) not in _PLAIN or (grad and tensor.requires_grad)):
            return False
    return True


def wants_grad(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd would follow a call with these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def view(tensor: torch.Tensor | None, *axes: int) -> tuple[int, ...]:
    """The six fields of C's ``struct tensor``: its strides, or only those of `axes`; an axis of -1 does not move."""
    if tensor is None:
        return (0, 0, 0, 0, 0, 0)
    strides = tensor.stride()
    if axes:
        strides = tuple([strides[axis] if axis >= 0 else 0 for axis in axes])
    return (tensor.data_ptr(), DTYPES[tensor.dtype]) + strides + (0, 0, 0, 0)[len(strides) :]


def bits(value: float) -> int:
    """A double's 8 bytes, as the integer that they also are."""
    return struct.unpack("=q", struct.pack("=d", value))[0]


@lru_cache(maxsize=None)
def _packer(count: int):
    return struct.Struct(f"={count}q").pack


def call(function: ctypes._CFuncPtr, *fields: int) -> None:
    """Calls a kernel with its one argument, a struct of 8-byte fields."""
    if function(_packer(len(fields))(*fields)) != 0:
        raise MemoryError(f"{function.__name__}: not enough memory")
