"""The variables that a user sets: read in one place, typed, with defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mambaport
from mambaport.settings import read_settings

PACKAGE = Path(mambaport.__file__).parent
# Programs that run by themselves, in another interpreter.
ELSEWHERE = ("verifying/probe/", "running/runner/", "inspect_interpreter.py", "ask_torch.py", "keeper.py")


def test_nothing_set_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBAPORT_CACHE", "/elsewhere")
    found = read_settings({})
    assert found.cache.name == "mambaport"
    assert (found.index_url, found.mirror, found.cc, found.cuda_home, found.virtual_env) == (
        None,
        None,
        "",
        None,
        None,
    )
    assert read_settings().cache == Path("/elsewhere")


def test_each_variable_is_typed(tmp_path: Path) -> None:
    found = read_settings(
        {
            "MAMBAPORT_CACHE": f"{tmp_path}/a/../b",
            "MAMBAPORT_MIRROR": "m",
            "CC": " gcc-11 ",
            "CUDA_PATH": "/c",
            "TORCH_CUDA_ARCH_LIST": "8.7;9.0+PTX Ampere",
            "A_FORCE_FALLBACK": "on",
            "B_FORCE_FALLBACK": "0",
        }
    )
    assert found.cache == tmp_path / "b"
    assert (found.mirror, found.cc, found.cuda_home) == (Path("m"), "gcc-11", Path("/c"))
    assert found.cuda_architectures == ("8.7", "9.0+PTX", "Ampere")
    assert found.fallbacks == {"A_FORCE_FALLBACK"}


def test_no_other_module_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if not str(path.relative_to(PACKAGE)).startswith(ELSEWHERE)
        and path.name not in ELSEWHERE
        and re.search(r"\bos\.(environ|getenv)|from os import", path.read_text())
    }
    assert readers == {"settings.py"}
