"""The dtype to compute in, how to keep it, and how to keep the compiler out."""

import functools

import torch

is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # new in torch 2.7


def working_dtype(*tensors):
    """float32, or what a wider tensor among these asks for; None stands for an argument not given."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def cast(dtype, *tensors):
    """The tensors in this dtype; None stays None.

    Raises:
        TypeError: a tensor is not strided; products of sparse and dense tensors broadcast to wrong numbers.
    """
    for tensor in tensors:
        if tensor is not None and tensor.layout is not torch.strided:
            raise TypeError(f"tensors must be strided, and one is {tensor.layout}; to_dense() makes it so")
    return [None if t is None else t.to(dtype) for t in tensors]


def autocast_enabled(device):
    """torch.is_autocast_enabled, which raises for a device that has no autocast, such as meta."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def outside_autocast(function):
    """Run with autocast off: it would round the products of what we have just widened."""

    @functools.wraps(function)
    def wrapper(tensor, *args, **kwargs):
        device = tensor.device.type
        if not autocast_enabled(device):
            return function(tensor, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(tensor, *args, **kwargs)

    return wrapper


def untraced(function):
    """A break in the graph under torch.compile, which would unroll a loop over time, as torch.export does.

    torch.compiler.disable as a decorator would do, but it imports the compiler, which takes as long again as
    importing torch.
    """

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if torch.compiler.is_compiling() and not is_exporting():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper
