"""Which rules an audit went by: a stored wheel that was audited by others is audited again."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mambaport.digests import data_sha256, file_sha256
from mambaport.resources import boards_dir, kernels_dir


@cache
def rules_sha256() -> str:
    """The digest of this package's files and of the data that its rules read."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), *sorted(Path(__file__).parent.glob("*.txt"))]
    files += [kernels_dir() / "wheels.toml", *sorted(boards_dir().glob("*.toml"))]
    return data_sha256([[path.name, file_sha256(path)] for path in files])
