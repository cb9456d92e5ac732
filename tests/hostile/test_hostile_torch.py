"""Damaged torch wheels that a user names: the archive, the version file, the library with the symbols."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import shared_library, write_zip
from inputs import Area
from mutations import damaged

from mambaport.building.target_torch import given_exports
from mambaport.cuda.torch import wheel_torch
from mambaport.goal import CudaGoal

Make = Callable[[str, int], Area]
GOAL = CudaGoal("12.6", ("87",), (), "l4t", "2.5")
VERSION = b"__version__ = '2.5.0'\ncuda: Optional[str] = '12.6'\ngit_version = 'x'\n"
WORDS = (b"cuda = '", b"'", b"None", b"\x7fELF", b"\xff" * 16, b"twelve", b"12.")


@pytest.mark.parametrize("part", ["archive", "version", "library"])
def test_damaged_torch_wheels(area: Make, tmp_path: Path, part: str) -> None:
    attack = area(f"torch wheels: {part}", 250)
    path = tmp_path / "torch-2.5.0-cp310-cp310-linux_aarch64.whl"
    library = shared_library("int _ZN3c1014torchCheckFailEv(void) { return 1; }\n")
    whole = write_zip(path, [("torch/version.py", VERSION), ("torch/lib/libc10.so", library)]).read_bytes()
    content = {"archive": whole, "version": VERSION, "library": library}[part]
    for number, data in enumerate(damaged(content, attack.seed, attack.count, WORDS)):
        if part == "archive":
            path.write_bytes(data)
        else:
            version, binary = (data, library) if part == "version" else (VERSION, data)
            write_zip(path, [("torch/version.py", version), ("torch/lib/libc10.so", binary)])

        def attempt(number: int = number) -> None:
            wheel_torch(path, "aarch64", GOAL)
            given_exports(path, attack.target / str(number))

        attack.judge(number, attempt)
    attack.finish()
