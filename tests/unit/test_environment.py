"""The environment that builds run in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mambaport.building import build_environment
from mambaport.host import read_host
from mambaport.report import Report
from mambaport.sources import Fetcher, Workshop
from mambaport.sources.index import index_settings
from mambaport.store import Store


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    store, report = Store(tmp_path / "store"), Report()
    fetcher = Fetcher(store, index_settings(None, tmp_path), report, offline=True)
    return Workshop(store, fetcher, report, read_host())


def test_an_environment_is_made_once_and_its_python_runs(shop: Workshop) -> None:
    python = build_environment(shop, ())
    made = python.lstat().st_mtime_ns
    assert build_environment(shop, ()) == python
    assert python.lstat().st_mtime_ns == made
    said = subprocess.run(
        [python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert Path(said.stdout.strip()).resolve() == python.parents[1].resolve()


def test_an_environment_whose_python_is_gone_is_made_again(
    shop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    python = build_environment(shop, ())

    def relink(folder: Path) -> None:
        for link in folder.glob("bin/python*"):
            link.unlink()
            link.symlink_to("/nowhere/python")

    shop.store.update("environments", python.parents[1].name, relink)
    assert build_environment(shop, ()).exists()
    assert "the environment is made again" in capsys.readouterr().err
