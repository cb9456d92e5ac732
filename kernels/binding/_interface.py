"""The C library beside this file: loading it, comparing its interface with Python's, and calling its kernels."""

from __future__ import annotations

import ctypes
import inspect
import os
import struct
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

ISA_VARIABLE = "MAMBAPORT_KERNEL_ISA"
# In the order of C's ``enum dtype``.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

# The kinds of fields that a kernel's argument has; csrc/common/interface.h says what each is in C.
View = tuple[int, ...]
"""A tensor: its address, the number of its dtype, and four strides in elements."""
Indices = typing.Annotated[int, "indices"]
"""The address of contiguous int32 values; 0 where there are none."""
Floats = typing.Annotated[int, "floats"]
"""The address of contiguous float32 values; 0 where there are none."""
Bytes = typing.Annotated[int, "bytes"]
"""The address of contiguous bytes; 0 where there are none."""
ABSENT: View = (0, 0, 0, 0, 0, 0)
"""In place of a tensor: none."""

# Annotation -> the name of the kind in C, and its format for struct.Struct.
_KINDS: dict[Any, tuple[str, str]] = {
    int: ("integer", "q"),
    bool: ("flag", "q"),
    float: ("real", "d"),
    View: ("tensor", "6q"),
    Indices: ("indices", "q"),
    Floats: ("floats", "q"),
    Bytes: ("bytes", "q"),
}
_COMMON = {
    "tensor": ["address data", "integer dtype", "integer stride[4]"],
    "dtypes": [str(dtype).removeprefix("torch.").upper() for dtype in DTYPES],
}
_Kernel = TypeVar("_Kernel", bound=Callable[..., None])


class Library:
    """The loaded library ``libNAME.so`` of a folder, whose data types are those of this file.

    Raises: as `load` does.
    """

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        path = os.path.join(folder, f"lib{name}.so")
        if not os.path.exists(path):
            raise ModuleNotFoundError(f"{name} was built without its library: there is no {path}", name=name)
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise ImportError(f"{name}: its library cannot be loaded: {error}", name=name, path=path) from error
        self._path = path
        self.pack: dict[str, Callable[..., bytes]] = {}
        """Kernel -> a function of its keyword arguments that returns them as the kernel reads them."""
        self._described = self._read_description()
        for entry, expected in _COMMON.items():
            self._compare(entry, expected)
        self.instruction_set = self._choose_instruction_set()
        self._library.use_openmp(ctypes.c_void_p(_openmp_entry()))

    def use_large_pages(self, start: int, size: int) -> None:
        """Asks for large pages for `size` bytes of memory from the address `start`, which were not written to."""
        self._library.use_large_pages(ctypes.c_void_p(start), ctypes.c_size_t(size))

    def kernel(self, declaration: _Kernel) -> _Kernel:
        """Makes a function of keyword arguments call the kernel of its name.

        Each parameter of `declaration` is a field of the kernel's argument, in C's order, and its annotation is the
        kind of the field: int, bool, float, View, Indices, Floats or Bytes. A default is what the field has when the
        caller does not pass it.

        Raises:
            ImportError: the library has no such kernel, or its fields are not those of the declaration.
        """
        name = declaration.__name__
        hints = typing.get_type_hints(declaration, include_extras=True)
        kinds = [_KINDS[hint] for field, hint in hints.items() if field != "return"]
        parameters = inspect.signature(declaration).parameters
        self._compare(name, [f"{kind} {field}" for (kind, _), field in zip(kinds, parameters, strict=True)])
        # Generated, as the methods of a dataclass are: a loop over the fields would take longer than a small kernel.
        named = zip(kinds, parameters, strict=True)
        values = ", ".join(f"*{field}" if kind == "tensor" else field for (kind, _), field in named)
        head = ", ".join(
            field if parameter.default is inspect.Parameter.empty else f"{field}=_defaults[{field!r}]"
            for field, parameter in parameters.items()
        )
        scope: dict[str, Any] = {
            "_defaults": {field: parameter.default for field, parameter in parameters.items()},
            "_function": getattr(self._library, name),
            "_pack": struct.Struct("=" + "".join(code for _, code in kinds)).pack,
            "_fail": _fail,
        }
        code = (
            f"def {name}(*, {head}):\n status = _function(_pack({values}))\n if status: _fail({name!r}, status)\n"
            f"def pack(*, {head}): return _pack({values})"
        )
        exec(code, scope)  # noqa: S102 - the text has no parts but names of parameters
        function: _Kernel = scope[name]
        self.pack[name] = scope["pack"]
        function.__doc__ = declaration.__doc__
        return function

    def _read_description(self) -> dict[str, list[str]]:
        """Entry of ``kernel_interface`` -> its parts: of a kernel, "kind name" for each field."""
        try:
            text = self._library.kernel_interface
        except AttributeError:
            raise self._misfit("it has no function kernel_interface", "one that describes the library") from None
        text.restype = ctypes.c_char_p
        entries = (line.partition(":") for line in text().decode().splitlines())
        return {name: [part.strip() for part in parts.split(",") if part.strip()] for name, _, parts in entries}

    def _compare(self, entry: str, expected: list[str]) -> None:
        found = self._described.get(entry)
        if found is None:
            raise self._misfit(f"it has no {entry}", f"{entry}: {', '.join(expected)}")
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(expected)))
            in_library, in_python = (", ".join(fields[at : at + 2]) or "no more fields" for fields in (found, expected))
            raise self._misfit(
                f"field {at + 1} of {len(found)} of {entry} is {in_library}",
                f"field {at + 1} of {len(expected)}: {in_python}",
            )

    def _misfit(self, found: str, expected: str) -> ImportError:
        return ImportError(
            f"{self.name}: the library and the Python files are of different builds; install the wheel again.\n"
            f"found in {self._path}: {found}\nexpected by the Python files: {expected}",
            name=self.name,
            path=self._path,
        )

    @property
    def available(self) -> list[str]:
        """The instruction sets that this processor has, the best last."""
        return self._described["instruction_sets"][: self._library.best_instruction_set() + 1]

    def _choose_instruction_set(self) -> str:
        names, available = self._described["instruction_sets"], self.available
        wanted = os.environ.get(ISA_VARIABLE) or available[-1]
        if wanted not in available:
            found = "which this processor does not have" if wanted in names else f"and the names are {', '.join(names)}"
            raise ValueError(
                f"{ISA_VARIABLE} is {wanted!r}, {found}; set it to one of {', '.join(available)}, or unset it"
            )
        self._library.use_instruction_set(names.index(wanted))
        return wanted


def _fail(kernel: str, status: int) -> None:
    """Raises the error for what a kernel returned: C's ``enum status``."""
    if status == -2:
        raise MemoryError(f"{kernel}: the shapes need more scratch memory than a process can address")
    raise MemoryError(f"{kernel}: not enough memory for its scratch space")


def _openmp_entry() -> int | None:
    """The address of GOMP_parallel in the OpenMP runtime that torch uses, GNU's or LLVM's; None where it has none."""
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


@cache
def load(name: str) -> Library:
    """Opens ``libNAME.so`` beside this file.

    Raises:
        ModuleNotFoundError: the wheel was built without the library.
        ImportError: the library cannot be loaded, or is of another build than the Python files.
        ValueError: MAMBAPORT_KERNEL_ISA is not the name of an instruction set that this processor has.
    """
    return Library(name, os.path.dirname(os.path.abspath(__file__)))
