"""The numeric suite's one small case of each function, run by pytest on the emulated system."""

from __future__ import annotations

from pathlib import Path

import pytest

from mambaport.cli.options import open_session
from mambaport.verifying import prepare_emulation
from mambaport.verifying.emulation import unpack_wheels

pytestmark = [pytest.mark.emulated, pytest.mark.network, pytest.mark.usefixtures("emulator")]
NUMERIC = Path(__file__).parents[1] / "numeric"


def test_the_numeric_suite_passes_on_aarch64(wheelhouse: Path, tmp_path: Path) -> None:
    session = open_session(as_json=True, quiet=True)
    root = prepare_emulation("bookworm", "cortex-a72", session.shop)
    site = unpack_wheels(sorted(wheelhouse.glob("*.whl")), tmp_path / "site")
    # pytest is pure Python, so this machine's own copy serves; it comes last, after everything compiled.
    paths = [site, root.site, Path(pytest.__file__).parents[1]]
    done = root.run(
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(NUMERIC),
            str(NUMERIC / Path(__file__).name),
        ],
        env={"PYTHONPATH": ":".join(map(str, paths)), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.ok, done.tail
    assert " passed" in done.tail
    assert "skipped" not in done.tail
