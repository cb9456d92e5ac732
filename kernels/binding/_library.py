"""Which tensors a kernel takes, and how a tensor is described to C."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ._interface import ABSENT, DTYPES, View

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def readable(*tensors: torch.Tensor | None) -> bool:
    """Whether each tensor is absent, or one that a kernel can read: strided, on the CPU, a 16 or 32 bit real type."""
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


def view(tensor: torch.Tensor | None, *axes: int) -> View:
    """A tensor for C, with all of its strides or those of `axes` alone; an axis of -1 has stride 0."""
    if tensor is None:
        return ABSENT
    strides = tensor.stride()
    if axes:
        strides = tuple([strides[axis] if axis >= 0 else 0 for axis in axes])
    return (tensor.data_ptr(), DTYPES[tensor.dtype]) + strides + (0, 0, 0, 0)[len(strides) :]
