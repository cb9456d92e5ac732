"""The doctor on a Jetson: a root folder that looks like one, real interpreters, real loaders."""

from __future__ import annotations

import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import HOST, shared_library
from test_cuda_machine import RELEASE, fake_jetson

from mambaport.cuda.machine import Gpu, read_cuda
from mambaport.doctoring.checks import Check
from mambaport.doctoring.cuda import cuda_checks, cuda_facts, gpu_checks
from mambaport.doctoring.examine import examine
from mambaport.goal import CudaGoal
from mambaport.host import Host, read_host
from mambaport.profile import find_profile
from mambaport.store import Store

ORIN = CudaGoal("12.6", ("87",), (), "l4t", "2.5")
PROFILE = find_profile("jetson").with_variant("jetpack6")
TORCH = """
from types import SimpleNamespace
__version__ = "{version}"
version = SimpleNamespace(cuda={cuda!r})
distributed = SimpleNamespace(is_available=lambda: False)
cuda = SimpleNamespace(is_available=lambda: False, get_arch_list=lambda: ["sm_87"])
"""


@pytest.fixture
def jetson(tmp_path: Path) -> Host:
    return replace(HOST, arch="aarch64", cuda=read_cuda(fake_jetson(tmp_path, RELEASE), {}))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment whose site-packages are ours to fill."""
    venv.create(tmp_path / "env", symlinks=True)
    return next((tmp_path / "env").glob("lib/python3*/site-packages"))


def python_of(site: Path) -> Path:
    return site.parents[2] / "bin/python"


def write_torch(site: Path, version: str, cuda: str | None) -> None:
    (site / "torch.py").write_text(TORCH.format(version=version, cuda=cuda))


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_jetson_without_toolkit_is_told_where_it_was_looked_for(jetson: Host) -> None:
    checks = by_name(cuda_checks(PROFILE, ORIN, jetson, native=True))
    assert checks["JetPack"].found == "L4T 36.4.3, JetPack 6"
    assert checks["CUDA toolkit"].state == "missing"
    assert "apt-get install nvidia-jetpack" in checks["CUDA toolkit"].hint
    assert cuda_facts(jetson)["Jetson"] == "L4T 36.4.3 (JetPack 6)"


def test_a_toolkit_that_is_not_on_path_is_found_and_cuda_home_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path("/usr/local/cuda")
    if not (real / "bin/nvcc").exists():
        pytest.skip("no CUDA toolkit in /usr/local/cuda")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    root = fake_jetson(tmp_path, RELEASE)
    (root / "usr/local/cuda-13.0").symlink_to(real)
    host = replace(HOST, arch="aarch64", cuda=read_cuda(root, {}))
    major = host.cuda.toolkits[0].version
    check = by_name(cuda_checks(PROFILE, replace(ORIN, version=major), host, native=True))["CUDA toolkit"]
    assert check.state == "good"
    assert "CUDA_HOME is unset, mambaport sets it" in check.found
    wrong = by_name(cuda_checks(PROFILE, replace(ORIN, version="11.4"), host, native=True))["CUDA toolkit"]
    assert (wrong.state, major in wrong.found) == ("missing", True)


def test_jetpack_5_is_too_old(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, RELEASE.replace("R36", "R35"))
    checks = by_name(cuda_checks(PROFILE, ORIN, replace(HOST, cuda=read_cuda(root, {})), native=True))
    assert checks["JetPack"].state == "missing"


def test_too_little_memory_is_told_with_the_swap_that_mends_it(jetson: Host) -> None:
    small = replace(jetson, available_mib=1500, swap_mib=0)
    check = by_name(cuda_checks(PROFILE, ORIN, small, native=True))["memory for nvcc"]
    assert (check.state, "swapon" in check.hint) == ("missing", True)
    swapped = by_name(cuda_checks(PROFILE, ORIN, replace(small, swap_mib=8192), native=True))
    assert swapped["memory for nvcc"].state == "good"
    assert "1 compiler job of" in swapped["memory for nvcc"].found


def test_the_power_mode_is_what_nvpmodel_says(
    jetson: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text("#!/bin/sh\necho 'NV Power Mode: 15W'\necho 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check = by_name(cuda_checks(PROFILE, ORIN, jetson, native=True))["power mode"]
    assert (check.state, check.found) == ("optional", "15W")
    assert "nvpmodel -m 0" in check.hint


@pytest.mark.parametrize(
    ("version", "cuda", "said"),
    [
        ("2.5.1+cpu", None, "built without CUDA"),
        ("2.11.0+cu130", "13.0", "a build for ARM servers"),
        ("2.5.0a0+872d972e41.nv24.8", "12.6", "sees no GPU"),
    ],
)
def test_a_torch_that_cannot_use_the_gpu_is_told_why(
    jetson: Host, environment: Path, version: str, cuda: str | None, said: str
) -> None:
    write_torch(environment, version, cuda)
    checks = by_name(gpu_checks(ORIN, jetson, python_of(environment)))
    assert checks["torch's GPU"].state == "missing"
    assert said in checks["torch's GPU"].found
    assert checks["torch's GPU"].hint
    assert checks["triton"].state == "optional"


def test_an_extension_that_does_not_load_is_looked_up_in_the_catalogue(
    jetson: Host, environment: Path
) -> None:
    """What a real loader says of a real library with a symbol that nobody has."""
    write_torch(environment, "2.5.0", "12.6")
    name = "_ZN3c104cuda9SetDeviceEab"
    source = f"void {name}(void); void PyInit_selective_scan_cuda(void) {{ {name}(); }}\n"
    library = shared_library(source, "-Wl,-z,now")
    (environment / "selective_scan_cuda.so").write_bytes(library)
    check = by_name(gpu_checks(ORIN, jetson, python_of(environment)))["selective_scan_cuda"]
    assert check.state == "missing"
    assert f"undefined symbol: {name}" in check.found
    assert "--torch" in check.hint


def test_an_editable_install_is_told(tmp_path: Path, environment: Path) -> None:
    info = environment / "mamba_ssm-2.2.4.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mamba-ssm\nVersion: 2.2.4\n")
    (info / "direct_url.json").write_text('{"url": "file:///home/me/mamba", "dir_info": {"editable": true}}')
    checks = by_name(
        examine(find_profile("cpu"), read_host(), Store(tmp_path / "store"), python_of(environment))
    )
    assert checks["mamba-ssm"].state == "optional"
    assert "file:///home/me/mamba" in checks["mamba-ssm"].found


def test_a_desktop_gpu_is_named(tmp_path: Path) -> None:
    host: Any = replace(HOST, cuda=replace(read_cuda(tmp_path, {}), gpus=(Gpu("A100", "80"),)))
    assert cuda_facts(host)["GPU"] == "A100 (sm_80)"


GPU = """
class ones:
    def __init__(self, *words, **named): pass
    def __mul__(self, other): return self
    def sum(self): return self
    def item(self): return 2.0
cuda.is_available = lambda: True
cuda.get_device_name = lambda: "GPU"
cuda.get_device_capability = lambda: {capability}
"""


@pytest.mark.parametrize(
    ("capability", "state"),
    [((8, 0), "good"), ((8, 9), "good"), ((10, 3), "good"), ((8, 7), "missing"), ((7, 5), "missing")],
)
def test_a_gpu_of_a_later_minor_runs_the_profiles_cubins(
    environment: Path, capability: tuple[int, int], state: str
) -> None:
    goal = CudaGoal("13.0", ("80", "90", "100", "120"), (), "desktop", "2.11")
    text = TORCH.format(version="2.11.0", cuda="13.0") + GPU.format(capability=capability)
    (environment / "torch.py").write_text(text)
    checks = by_name(gpu_checks(goal, replace(HOST, arch="x86_64"), python_of(environment)))
    assert checks["kernels for this GPU"].state == state
