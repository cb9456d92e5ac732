"""A wheel built again from its own provenance: equal bytes, or what differs by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real import ended, mambaport, started

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def wheel(rpi: Any) -> Path:
    """The smaller package's."""
    return next(Path(item["path"]) for item in rpi["wheels"] if item["name"] == "causal-conv1d")


def repacked(wheel: Path, folder: Path, name: str, old: str, new: str) -> Path:
    """The wheel with another text in one of its files, and a right RECORD."""
    pack = [sys.executable, "-m", "wheel"]
    subprocess.run([*pack, "unpack", wheel, "--dest", folder / "opened"], check=True, capture_output=True)
    (root,) = (folder / "opened").iterdir()
    (path,) = root.glob(name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    (folder / "packed").mkdir()
    subprocess.run([*pack, "pack", root, "--dest-dir", folder / "packed"], check=True, capture_output=True)
    return folder / "packed" / wheel.name


def test_the_bytes_agree_and_nothing_compiled_before_was_used(wheel: Path, shared: Path) -> None:
    before = sorted(path.name for path in (shared / "wheels").iterdir())
    ran = mambaport(shared, "rebuild", wheel)
    answer = ran.good()
    assert answer["equal"] is True
    assert "0 more from the compiler cache" in ran.err
    assert sorted(path.name for path in (shared / "wheels").iterdir()) == before


def test_three_at_once_wait_for_each_other(wheel: Path, shared: Path) -> None:
    ran = [ended(process) for process in [started(shared, "rebuild", wheel) for _ in range(3)]]
    assert [item.good()["equal"] for item in ran] == [True] * 3


def test_a_file_that_was_changed_after_the_build_is_named(wheel: Path, shared: Path, tmp_path: Path) -> None:
    bad = repacked(wheel, tmp_path, "causal_conv1d/__init__.py", "import", "import  ")
    ran = mambaport(shared, "rebuild", bad)
    assert ran.code == 14, ran.err
    assert "causal_conv1d/__init__.py" in ran.json["error"]["found"]
    assert "is not what its provenance gives" in ran.json["error"]["what"]


def test_another_patch_is_refused_by_name_before_anything_is_built(
    wheel: Path, shared: Path, tmp_path: Path, rpi: Any
) -> None:
    (sets,) = [item["patch_sets"] for item in rpi["wheels"] if item["name"] == "causal-conv1d"]
    name, patch = next((item["name"], item["patches"][0]) for item in sets if item["patches"])
    bad = repacked(wheel, tmp_path, "*.dist-info/provenance.json", patch["sha256"], "0" * 64)
    ran = mambaport(shared, "rebuild", bad, "--offline")
    assert ran.code == 11, ran.err
    assert (
        f"{name}/{patch['file']}: recorded 0000000000000000, here {patch['sha256'][:16]}"
        in ran.json["error"]["found"]
    )


def test_provenance_that_names_no_profile_is_refused(wheel: Path, shared: Path, tmp_path: Path) -> None:
    bad = repacked(wheel, tmp_path, "*.dist-info/provenance.json", '"profile": "', '"profile": "../')
    ran = mambaport(shared, "rebuild", bad)
    assert ran.code == 2
    assert "profile" in ran.json["error"]["found"]


def test_a_second_machine_gets_the_wheels_and_compiles_nothing(
    rpi: Any, shared: Path, tmp_path: Path
) -> None:
    """Two clean folders as two machines, and a folder as the shared store."""
    place = tmp_path / "place"
    address = mambaport(shared, "cache", "push", place, "--kind", "wheels").good()["address"]
    second = tmp_path / "second"
    mambaport(second, "cache", "pull", address).good()
    shutil.rmtree(place)
    ran = mambaport(second, "build", "-p", "rpi", "--toolchain", "zig", "--offline", "-o", tmp_path / "house")
    answer = ran.good()
    assert all(item["cached"] for item in answer["wheels"])
    assert [item["sha256"] for item in answer["wheels"]] == [item["sha256"] for item in rpi["wheels"]]
    assert not (second / "toolchains").exists()
    assert "compile" not in json.dumps(ran.err)
