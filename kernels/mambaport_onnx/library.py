"""The compiled library beside this file, and its registration with ONNX Runtime."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

NAME = "libmambaport_onnx.so"
OLDEST_ONNXRUNTIME = (1, 18)
# e_machine of an ELF header -> the name that platform.machine() has for it.
_MACHINES = {62: "x86_64", 183: "aarch64"}


def library_path() -> str:
    """The path for ``SessionOptions.register_custom_ops_library``, and for the same function in C, C++ and Java.

    Raises:
        ModuleNotFoundError: the wheel was built without kernels.
        ImportError: the library is for another processor, or is damaged.
    """
    path = Path(__file__).resolve().with_name(NAME)
    if not path.exists():
        raise ModuleNotFoundError(
            f"mambaport_onnx was built without its library: there is no {path}. Install a mamba-ssm wheel that was "
            "built with kernels; a model in the standard form needs no library",
            name="mambaport_onnx",
        )
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:6] != b"\x7fELF\x02\x01":
        raise ImportError(f"{path} is damaged: no 64-bit ELF file; install the mamba-ssm wheel again", path=str(path))
    number, here = int.from_bytes(head[18:20], "little"), platform.machine()
    found = _MACHINES.get(number, f"ELF machine {number}")
    if found != here:
        raise ImportError(
            f"{path} is for {found}, and this Python runs on {here}: install the mamba-ssm wheel for {here}",
            path=str(path),
        )
    return str(path)


def register(options: Any) -> None:
    """Adds the operators to the options of a session, an ``onnxruntime.SessionOptions``.

    Raises:
        ModuleNotFoundError, ImportError: as `library_path`.
        RuntimeError: ONNX Runtime is older than 1.18.
        Exception: ONNX Runtime refuses the library; its own errors have no other base. Options that were registered
            twice are refused when a session is made.
    """
    path = library_path()
    runtime = sys.modules.get("onnxruntime")
    version = getattr(runtime, "__version__", None)
    if version is not None and _numbers(version) < OLDEST_ONNXRUNTIME:
        raise RuntimeError(
            f"the operators of ai.mambaport need ONNX Runtime {'.'.join(map(str, OLDEST_ONNXRUNTIME))} or newer, and "
            f"this is ONNX Runtime {version}: pip install --upgrade onnxruntime"
        )
    options.register_custom_ops_library(path)


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
