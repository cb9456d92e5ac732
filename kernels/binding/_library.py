"""Which tensors a kernel takes, how a tensor is described to C, and the kernels as operators of torch."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.utils._python_dispatch import _get_current_dispatch_mode

from . import _lib
from ._interface import ABSENT, DTYPES, View

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_LARGE = 32 << 20
"""As in csrc/common/pages.c, to save smaller tensors the call."""
LOW = 1 << 32
"""Memory seldom lies below; a tensor without memory gives its offset for an address."""
_is_tracing = torch._C._is_tracing  # torch.jit.is_tracing, which outside of TorchScript is this


def readable(*tensors: torch.Tensor | None) -> bool:
    """Whether each tensor is absent, or one that the operators take.

    They take strided tensors on the CPU, of a 16 or 32 bit real type, and of no subclass: what a subclass means by
    its memory, PyTorch's functions ask of the subclass, and a kernel does not.
    """
    for tensor in tensors:
        if tensor is not None and (
            tensor.dtype not in DTYPES
            or not tensor.is_cpu
            or tensor.layout is not torch.strided
            or (type(tensor) not in _PLAIN and not _stands_in(tensor))
        ):
            return False
    return True


def countable(tensor: torch.Tensor | None) -> bool:
    """Whether a tensor of integers is absent, or on the CPU and of no subclass."""
    return tensor is None or (tensor.is_cpu and (type(tensor) in _PLAIN or _stands_in(tensor)))


def _stands_in(tensor: torch.Tensor) -> bool:
    """Whether this is one of torch's tensors without numbers, which stand for plain ones while a graph is made."""
    return type(tensor).__module__.startswith("torch._subclasses.")


def is_plain_call(*tensors: torch.Tensor | None) -> bool:
    """Whether a kernel may be called directly: nothing is being traced, no gradient wanted, memory is as it reads.

    A direct call saves the dispatcher's time, which at one token a step is longer than the kernel's. Of a tensor
    with the negative bit the memory holds the numbers negated; the dispatcher hands the operators a plain copy.
    """
    if torch.compiler.is_compiling() or _is_tracing() or _get_current_dispatch_mode() is not None:
        return False
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (type(tensor) not in _PLAIN or tensor.is_neg() or (grad and tensor.requires_grad)):
            return False
    return True


def indices(name: str, tensor: torch.Tensor | None) -> torch.Tensor | None:
    """`as_int32` for the argument of an operator; the numbers of a traced tensor are checked in the operator.

    Raises:
        IndexError: a number that int32 does not hold.
    """
    if tensor is not None and tensor.dtype is torch.int64 and not is_plain_call(tensor):
        return tensor
    return as_int32(name, tensor)


def as_int32(name: str, tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A tensor of integers as int32, its elements next to each other.

    Raises:
        IndexError: a number that int32 does not hold.
    """
    if tensor is None:
        return None
    if tensor.dtype is torch.int64 and tensor.numel():
        # For the few indices of one decoding step, a list is the fastest way.
        few = tensor.dim() == 1 and tensor.numel() <= 32
        for number in tensor.tolist() if few else map(int, tensor.aminmax()):
            if not -(1 << 31) <= number < 1 << 31:
                raise IndexError(f"{name} holds {number}, and the kernel takes 32-bit integers, -2**31 to 2**31 - 1")
    return tensor.to(torch.int32).contiguous()


def wants_grad(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd would follow a call with these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def address(tensor: torch.Tensor) -> int:
    """Where the numbers of a tensor begin.

    Raises:
        RuntimeError: they are in no memory, as for tensors of torch.func and those that are known to be zero.
    """
    start = tensor.data_ptr()
    if start < LOW and start == tensor.storage_offset() * tensor.element_size() and tensor.numel():
        raise RuntimeError(
            "a kernel was given a tensor that has no memory, such as a batched, functional or zero tensor; "
            "torch.ops takes it, and so does PyTorch's own code, with the FORCE_FALLBACK variable set to TRUE"
        )
    return start


def view(tensor: torch.Tensor | None, *axes: int) -> View:
    """A tensor for C, with all of its strides or those of `axes` alone; an axis of -1 has stride 0."""
    if tensor is None:
        return ABSENT
    strides = tensor.stride()
    if axes:
        strides = tuple([strides[axis] if axis >= 0 else 0 for axis in axes])
    start = tensor.data_ptr()
    if start < LOW:
        start = address(tensor)
    return (start, DTYPES[tensor.dtype]) + strides + (0, 0, 0, 0)[len(strides) :]


def output_like(x: torch.Tensor) -> torch.Tensor:
    """An output of x's shape, dtype and layout; Linux is asked for large pages where it is large."""
    return on_large_pages(torch.empty_like(x))


def on_large_pages(new: torch.Tensor) -> torch.Tensor:
    """A tensor that has not been written to; Linux is asked for large pages where it is large: csrc/common/pages.c."""
    if new.nbytes >= _LARGE:
        _lib.library.use_large_pages(new.data_ptr(), new.nbytes)
    return new


def apart(name: str, state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x, or a copy of x where a kernel, which writes to `state`, could overwrite elements of x before it reads them.

    Two tensors whose address ranges do not meet share no memory. Where the ranges meet, x is copied without a search
    for a shared element: x holds one step, and a copy is cheaper than the search.

    Raises:
        RuntimeError: two elements of `state` share memory.
    """
    if state.is_contiguous():
        extent = state.nbytes
    else:
        reach = _reach(state)
        if reach is None:
            raise RuntimeError(
                f"{name} is to be written to, and some of its elements share memory, as after expand(); "
                "clone() it first"
            )
        extent = (reach + 1) * state.element_size()
    distance = x.data_ptr() - state.data_ptr()
    if distance < 0:  # x starts first
        if x.is_contiguous():
            extent = x.nbytes
        else:
            steps = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
            extent = (steps + 1) * x.element_size()
    return x.clone() if abs(distance) < extent else x


def has_overlap(tensor: torch.Tensor) -> bool:
    """Whether two elements of a tensor may share memory, for all that its strides say."""
    return _reach(tensor) is None


def _reach(tensor: torch.Tensor) -> int | None:
    """The elements of memory from the first element of a tensor to its last; None where two may share memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return None
            reach += stride * (size - 1)
    return reach


def written(*tensors: torch.Tensor) -> None:
    """Lets autograd know that a kernel wrote to these tensors, so that no gradient is made of what they were."""
    _increment_versions(tensors)


def _increment_one_by_one(tensors: tuple[torch.Tensor, ...]) -> None:
    for tensor in tensors:
        if not tensor.is_inference():
            increment_version(tensor)


try:
    torch._C._increment_version(())
    _increment_versions = torch._C._increment_version
except TypeError:  # an older torch: one tensor at a time, and none of inference mode
    _increment_versions = _increment_one_by_one


# Annotation of an operator's argument -> its type in a schema.
_ARGUMENTS: dict[Any, str] = {
    torch.Tensor: "Tensor",
    torch.Tensor | None: "Tensor?",
    bool: "bool",
    int: "int",
    float: "float",
    torch.dtype | None: "ScalarType?",
}


def schema(name: str, kernel: Callable[..., Any], writes: tuple[int, ...] = ()) -> str:
    """The schema of an operator, from the annotations of its kernel; `writes` are positions of its parameters."""
    hints = typing.get_type_hints(kernel)
    arguments = []
    for position, parameter in enumerate(_parameters(kernel)):
        alias = f"({chr(ord('a') + writes.index(position))}!)" if position in writes else ""
        arguments.append(f"{_ARGUMENTS[hints[parameter]]}{alias} {parameter}")
    results = ", ".join("Tensor" for _ in typing.get_args(hints["return"]))
    return f"{name}({', '.join(arguments)}) -> {f'({results})' if results else 'Tensor'}"


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The parameters that an operator's caller gives: those without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]


def register(
    ops: torch.library.Library,
    name: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    writes: tuple[int, ...] = (),
) -> None:
    """Makes a kernel the operator ``name`` of ``ops``, for every tensor that the dispatcher may bring.

    Args:
        kernel: called with plain CPU tensors; integers of more than 8 bits are int32, their elements next to each
            other. Its annotations are the operator's schema; a parameter with a default is no argument of the operator.
        fake: makes the results without computing them, from those of the kernel's parameters that it names.
        writes: the positions of the arguments that the kernel writes to.

    Raises, when called:
        TypeError: a dtype that no kernel has.
        IndexError: an integer that int32 does not hold.
        RuntimeError: a tensor on the CPU beside one without numbers.
    """
    qualified = f"{ops.ns}::{name}"
    names = _parameters(kernel)
    unknown = [parameter for parameter in _parameters(fake) if parameter not in names]
    if unknown:
        raise TypeError(f"{qualified}: {kernel.__name__} has no parameter {unknown[0]}, which {fake.__name__} needs")
    needed = [names.index(parameter) for parameter in _parameters(fake)]
    ops.define(schema(name, kernel, writes))

    def run(*args: Any) -> Any:
        try:
            return kernel(*map(_integers_as_int32, names, args))
        except KeyError as error:
            if not isinstance(error.args[0], torch.dtype):
                raise
            raise TypeError(f"{qualified} takes float32, bfloat16 and float16, and was given {error.args[0]}") from None

    def pretend(*args: Any) -> Any:
        if any(isinstance(arg, torch.Tensor) and type(arg) in _PLAIN and arg.is_cpu for arg in args):
            raise RuntimeError(f"{qualified} was given tensors on the CPU together with tensors on meta")
        return fake(*(args[position] for position in needed))

    def resolve(*args: Any) -> Any:
        plain = [arg.resolve_neg() if isinstance(arg, torch.Tensor) else arg for arg in args]
        out = operator(*plain)
        for position in writes:
            if plain[position] is not args[position]:
                args[position].copy_(plain[position])
        return out

    ops.impl(name, run, "CPU")
    torch.library.register_fake(qualified, pretend, lib=ops)
    operator = getattr(getattr(torch.ops, ops.ns), name)
    if writes:  # torch's own way to resolve the negative bit fails for an operator that returns another tensor
        ops.impl(name, resolve, "Negative")


def differentiable(
    ops: torch.library.Library,
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    variable: str,
) -> None:
    """Makes operator ``name`` differentiable by ``backward``. Differentiating ``name``_backward is a RuntimeError.

    Args:
        backward, setup_context: as for `torch.library.register_autograd`
        variable: the environment variable with which PyTorch computes, and differentiates twice
    """

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{ops.ns}::{name} differentiates once; twice, with {variable}=TRUE")

    qualified = f"{ops.ns}::{name}"
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=ops)
    torch.library.register_autograd(f"{qualified}_backward", refuse, lib=ops)


def contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The tensor, its elements next to each other; None for None."""
    return None if tensor is None else tensor.contiguous()


def _integers_as_int32(name: str, arg: Any) -> Any:
    if isinstance(arg, torch.Tensor) and not arg.is_floating_point() and not arg.is_complex() and arg.itemsize > 1:
        return as_int32(name, arg)
    return arg
