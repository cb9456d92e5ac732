"""mambaport's own sdist and wheel: whole, and the same whether built from a checkout or from the sdist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], Path]:
    """The names in the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", folder, TOP]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return names, wheel


def tracked(*folders: str) -> set[str]:
    command = ["git", "ls-files", *folders]
    listed = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    return {name for name in listed.stdout.splitlines() if (TOP / name).is_file()}


def test_the_sdist_has_every_file_of_the_repository(built: tuple[set[str], Path]) -> None:
    assert tracked() - built[0] <= {".gitignore"}


def test_the_wheel_has_every_module_and_all_data_and_no_test(built: tuple[set[str], Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {name.removeprefix("toolchain/") for name in tracked("toolchain")}
    for folder in ("kernels", "patches", "profiles"):  # but for tests, and dot files, which editors read
        data = {
            name for name in tracked(folder) if "/." not in name and not name.startswith("kernels/tests/")
        }
        wanted |= {f"mambaport/_{name}" for name in data}
    assert names == wanted


def test_the_wheel_works_without_the_extra_and_names_it_where_it_is_needed(
    built: tuple[set[str], Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", built[1]], check=True)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-I", "-m", "mambaport", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("profiles").returncode == 0
    assert run("show", "jetson").returncode == 0
    missing = run("infer", "--image", "x.jpg")
    assert missing.returncode == 12
    assert "mambaport[run]" in missing.stderr
