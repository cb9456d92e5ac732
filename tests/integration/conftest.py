"""What the real runs share: one store, so that everything is fetched and unpacked once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from real import BOARD, mambaport

# helpers.py: small archives, wheels and compiled files, as in the unit tests.
sys.path.append(str(Path(__file__).parents[1] / "unit"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the whole session: empty at first, or the one MAMBAPORT_TEST_STORE names."""
    named = os.environ.get("MAMBAPORT_TEST_STORE")
    return Path(named).resolve() if named else tmp_path_factory.mktemp("shared") / "store"


@pytest.fixture(scope="session")
def rpi(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The answer of `build --profile rpi --json` with everything from the index."""
    house = tmp_path_factory.mktemp("rpi") / "wheelhouse"
    return mambaport(shared, "build", "--profile", "rpi", "--toolchain", "zig", "-o", house).good()


@pytest.fixture(scope="session")
def cpu(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same for this machine."""
    house = tmp_path_factory.mktemp("cpu") / "wheelhouse"
    return mambaport(shared, "build", "--profile", "cpu", "-o", house).good()


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the user's own: this machine, the smaller package."""
    path = tmp_path_factory.mktemp("board") / "my-board.toml"
    path.write_text(BOARD)
    return path


@pytest.fixture(scope="session")
def arm_board(board: Path) -> Path:
    """The same for an aarch64 machine."""
    path = board.with_name("arm-board.toml")
    path.write_text(BOARD.replace('arch = "host"', 'arch = "aarch64"'))
    return path


@pytest.fixture(scope="session")
def board_wheels(shared: Path, board: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """That profile, built undisturbed."""
    return mambaport(shared, "build", "-p", board, "-o", tmp_path_factory.mktemp("board-wheels")).good()


@pytest.fixture(scope="session")
def jetson_trees(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the trees as the jetson profile patches them; no test writes into it."""
    folder = tmp_path_factory.mktemp("jetson") / "trees"
    mambaport(shared, "patch", "--profile", "jetson", "-o", folder).good()
    return folder


@pytest.fixture(scope="session")
def mirror(rpi: Any, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of archives in place of the index."""
    folder = tmp_path_factory.mktemp("mirror")
    for path in (shared / "archives").glob("*/*"):
        (folder / path.name).symlink_to(path)
    return folder
