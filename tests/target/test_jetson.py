"""JetPack 7 wheels on an emulated aarch64 system with the CUDA torch; `make test-jetson` builds them."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from mambaport.host import read_host
from mambaport.report import Report
from mambaport.sources import Fetcher, Workshop
from mambaport.sources.index import index_settings
from mambaport.store import Store
from mambaport.verifying.emulation import EmulatedRoot, prepare_emulation, unpack_wheels

Run = Callable[..., dict[str, Any]]
pytestmark = [pytest.mark.emulated, pytest.mark.network, pytest.mark.usefixtures("emulator")]
EXTENSIONS = ("causal_conv1d_cuda", "selective_scan_cuda")
SHOW = "import json, sys; print(json.dumps(sorted(name for name in sys.modules if name.endswith('_cuda'))))"


@pytest.fixture(scope="module")
def wheels() -> Path:
    """The folder of the wheels."""
    folder = os.environ.get("MAMBAPORT_TEST_JETSON_WHEELS")
    if not folder:
        pytest.skip("whole CUDA builds take many minutes: make test-jetson")
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def kept() -> Path:
    """The store that `make test-jetson` has filled."""
    named = os.environ.get("MAMBAPORT_TEST_STORE")
    return Path(named or platformdirs.user_cache_dir("mambaport")).resolve()


@pytest.fixture(scope="module")
def system(kept: Path, wheels: Path) -> EmulatedRoot:
    """The emulated system."""
    store, report = Store(kept), Report(quiet=True)
    fetcher = Fetcher(store, index_settings(None, None), report)
    return prepare_emulation("jetpack7", "cortex-a78ae", Workshop(store, fetcher, report, read_host()))


@pytest.fixture(scope="module")
def site(wheels: Path, system: EmulatedRoot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels and torch in one site-packages, as an installation has them."""
    folder = unpack_wheels(
        sorted(wheels.glob("*-py3-none-*.whl")), tmp_path_factory.mktemp("site") / "packages"
    )
    for path in system.site.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return folder


def test_each_wheel_has_its_extension_and_its_cpu_kernels(wheels: Path) -> None:
    for package, extension in (("causal_conv1d", EXTENSIONS[0]), ("mamba_ssm", EXTENSIONS[1])):
        (path,) = wheels.glob(f"{package}-*-py3-none-*.whl")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        assert {f"{extension}/lib{extension}.so", f"{extension}/_library.py"} <= set(names)
        assert any(name.endswith("_cpu.so") for name in names)
        assert "Requires-External: torch (==2.11.*)" in metadata
        assert "Requires-Dist: torch\n" in metadata  # of no version: pip keeps the device's own


@pytest.mark.parametrize(
    "order",
    [
        ("torch", *EXTENSIONS),
        (*EXTENSIONS, "torch"),
        tuple(reversed(EXTENSIONS)),
        ("mamba_ssm", "causal_conv1d"),
    ],
    ids=" ".join,
)
def test_extensions_are_imported_in_any_order(
    system: EmulatedRoot, site: Path, order: tuple[str, ...]
) -> None:
    done = system.run(["-c", f"import {', '.join(order)}; {SHOW}"], [site])
    assert done.ok, done.tail
    loaded = json.loads(done.output.strip().splitlines()[-1])
    assert set(EXTENSIONS) & set(loaded) == set(EXTENSIONS)


def test_every_component_is_right_on_the_cpu(
    mambaport: Run, wheels: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAMBAPORT_CACHE", str(kept))
    words = ("verify", "-p", "jetson", "--variant", "jetpack7", "--emulate", "--system", "jetpack7")
    found = mambaport(*words, "--wheelhouse", wheels)
    assert found["exit"] == 0
    assert not [item for item in found["components"] if not item["ok"]]
    assert found["torch"].startswith("2.11.0")
