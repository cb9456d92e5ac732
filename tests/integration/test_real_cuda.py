"""CUDA for real: a small .cu and one of a patched tree, with each toolkit that a Jetson's wheels need.

Whole builds take many minutes; `make test-jetson` runs them.
"""

from __future__ import annotations

import subprocess
import venv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from mambaport.auditing.elf import Library
from mambaport.auditing.fatbin import device_code
from mambaport.building import cuda_parts
from mambaport.building.cuda import cuda_config
from mambaport.cuda.exports import read_exports
from mambaport.cuda.machine import read_cuda
from mambaport.cuda.resolve import CudaOptions
from mambaport.host import read_host
from mambaport.pipeline import Pipeline
from mambaport.plan import make_plan
from mambaport.profile import Profile, find_profile
from mambaport.report import Report
from mambaport.sources import Fetcher, Workshop
from mambaport.sources.index import index_settings
from mambaport.store import Store

pytestmark = pytest.mark.network
CROSS = {"jetpack6": ("12.4", "2.5.1"), "jetpack7": ("13.0", "2.11.0")}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
# Uses what CCCL 3 (CUDA 13) no longer has, unless the patches are in.
REVERSE_SCAN = """
#include <cub/cub.cuh>
#include "reverse_scan.cuh"

struct Add { __device__ float operator()(float a, float b) const { return a + b; } };
struct Nothing { __device__ float operator()(float) const { return 0.f; } };

extern "C" __global__ void scan(float *x) {
    using Scan = BlockReverseScan<float, 128>;
    __shared__ typename Scan::TempStorage storage;
    float items[4] = {x[0], x[1], x[2], x[3]};
    Nothing prefix;
    Scan(storage).InclusiveReverseScan(items, items, Add(), prefix);
    x[threadIdx.x] = items[0];
}
"""


@dataclass(frozen=True)
class Ground:
    """A plan of the jetson profile on this machine, with its parts in the store."""

    pipeline: Pipeline
    config: dict[str, Any]
    trees: Path

    def compile(self, package: str, source: str, out: Path) -> bytes:
        """A source of a patched tree, compiled as the configuration says."""
        config = self.config
        home = Path(config["home"])
        words = [str(home / "bin/nvcc"), "-ccbin", config["cxx"], "-std=c++17", "-Xcompiler", "-fPIC"]
        words += ["--expt-relaxed-constexpr", "--expt-extended-lambda", "-Icsrc", "-Icsrc/selective_scan"]
        words += [f"-U__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS")]
        words += [f"-U__CUDA_NO_{name}__" for name in ("BFLOAT16_OPERATORS", "BFLOAT16_CONVERSIONS")]
        headers = [*config["include_dirs"], home / "include", home / "include/cccl"]
        words += [word for folder in headers for word in ("-isystem", str(folder))]
        words += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in config["sm"]]
        done = subprocess.run(
            [*words, "-c", source, "-o", out],
            cwd=self.trees / package,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return out.read_bytes()


def ground(
    shared: Path, folder: Path, profile: Profile, host: Any, variant: str | None, options: CudaOptions
) -> Ground:
    store, report = Store(shared), Report(quiet=True)
    fetcher = Fetcher(store, index_settings(None, None), report)
    plan = make_plan(profile, host, variant=variant, environ={}, cuda=options)
    plan.require(building=True)
    assert plan.cuda is not None
    shop = Workshop(store, fetcher, report, host)
    pipeline = Pipeline(plan, shop)
    for package in plan.packages:
        pipeline.patch(package, folder / package.name)
    parts = cuda_parts(shop, plan.cuda)
    scratch = folder / "scratch"
    scratch.mkdir()
    return Ground(pipeline, cuda_config(plan.cuda, parts, scratch), folder)


@pytest.fixture(scope="module", params=sorted(CROSS))
def cross(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The jetson profile's variants, cross-built from this machine."""
    host = read_host()
    if not host.gxx_aarch64:
        pytest.skip("no aarch64-linux-gnu-g++; sudo apt-get install g++-aarch64-linux-gnu")
    profile, folder = find_profile("jetson"), tmp_path_factory.mktemp(request.param)
    plain = replace(host, cuda=read_cuda(folder, {}))  # whatever CUDA this machine has is left aside
    return ground(shared, folder, profile, plain, request.param, CudaOptions())


def machine(object_file: Path) -> str:
    with object_file.open("rb") as stream:
        return str(ELFFile(stream)["e_machine"])


def test_the_parts_are_those_of_the_variant(cross: Ground) -> None:
    cuda, plan = cross.pipeline.plan.cuda, cross.pipeline.plan
    assert plan.variant is not None
    assert cuda is not None
    assert (cuda.tools.toolkit.version, cuda.torch.version) == CROSS[plan.variant]
    assert (cross.config["sm"], cross.config["ptx"]) == (["87"], [])
    assert cross.config["cxx11_abi"] == 1
    parts = cuda_parts(cross.pipeline.shop, cuda)
    exports = read_exports(parts.torch.exports)
    assert exports.cxx11_abi
    assert {"libc10.so", "libc10_cuda.so", "libtorch_cpu.so"} <= set(exports.libraries)
    assert any("torchCheckFail" in name and "__cxx11" in name for name in exports.libraries["libc10.so"])


@pytest.mark.parametrize("package", ["causal-conv1d", "mamba-ssm"])
def test_a_patched_file_compiles_for_the_device(cross: Ground, package: str, tmp_path: Path) -> None:
    source = "csrc/causal_conv1d_update.cu"
    if package == "mamba-ssm":
        source = "csrc/selective_scan/smallest.cu"
        (cross.trees / package / source).write_text(REVERSE_SCAN)
    made = cross.compile(package, source, tmp_path / "made.o")
    assert machine(tmp_path / "made.o") == "EM_AARCH64"
    assert {(item.kind, item.sm) for item in device_code(Library(source, made))} == {("cubin", "87")}
    assert str(cross.pipeline.store.root).encode() not in made


def test_a_link_stub_is_a_library_of_the_target_with_the_right_name(cross: Ground) -> None:
    (folder,) = map(Path, cross.config["library_dirs"])
    major = cross.config["version"].split(".")[0]
    names = {}
    for path in folder.iterdir():
        assert machine(path) == "EM_AARCH64"
        with path.open("rb") as stream:
            dynamic = ELFFile(stream).get_section_by_name(".dynamic")
            (names[path.name],) = (tag.soname for tag in dynamic.iter_tags("DT_SONAME"))
    assert names["libcudart.so"] == f"libcudart.so.{major}"
    assert names["libc10.so"] == "libc10.so"
    assert len(names) == len(cross.config["libraries"])


def test_on_a_jetson_the_devices_own_parts_compile(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """A root that looks like a Jetson's, with a real nvcc; an environment with torch's real headers."""
    host = read_host()
    if host.cxx is None:
        pytest.skip("no g++ here")
    toolkit, include = _pinned_parts(shared, host, tmp_path)
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/nv_tegra_release").write_text("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic\n")
    (root / "usr/local").mkdir(parents=True)
    (root / "usr/local/cuda-13.0").symlink_to(toolkit)
    python = _environment(tmp_path / "env", include)
    profile = find_profile("jetson")
    own = profile.variant["jetpack7"]
    target = own.target.model_copy(update={"arch": "host", "cpu": "generic"})
    own = own.model_copy(update={"target": target})
    profile = profile.model_copy(update={"variant": {"jetpack7": own}, "default_variant": None})
    jetson = replace(host, cuda=read_cuda(root, {}))
    folder = tmp_path_factory.mktemp("jetson")
    made = ground(shared, folder, profile, jetson, None, CudaOptions(python=python))
    plan = made.pipeline.plan
    assert (plan.variant, plan.toolchain.name) == ("jetpack7", "nvcc-native")
    assert plan.cuda is not None
    assert plan.cuda.tools.toolkit.origin.startswith("/usr/local/cuda-13.0")
    assert made.config["home"] == str(root / "usr/local/cuda-13.0")
    assert str(tmp_path / "env") in made.config["include_dirs"][0]
    made.compile("causal-conv1d", "csrc/causal_conv1d_update.cu", tmp_path / "made.o")
    assert machine(tmp_path / "made.o") == MACHINES[host.arch]


def _pinned_parts(shared: Path, host: Any, folder: Path) -> tuple[Path, Path]:
    """A real CUDA 13.0 and torch 2.11's headers."""
    store, report = Store(shared), Report(quiet=True)
    fetcher = Fetcher(store, index_settings(None, None), report)
    plain = replace(host, cuda=read_cuda(folder, {}))
    plan = make_plan(find_profile("jetson"), plain, variant="jetpack7", environ={})
    assert plan.cuda is not None
    parts = cuda_parts(Workshop(store, fetcher, report, plain), plan.cuda)
    return parts.home, parts.torch.include


def _environment(folder: Path, include: Path) -> Path:
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    info = site / "torch-2.11.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n")
    (site / "torch/lib").mkdir(parents=True)
    (site / "torch/version.py").write_text("__version__ = '2.11.0+cu130'\ncuda = '13.0'\n")
    (site / "torch/include").symlink_to(include)
    words = ["cc", "-shared", "-nostdlib", "-x", "c", "-", "-o", site / "torch/lib/libc10.so"]
    name = "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
    subprocess.run(words, input=f"void {name}(void) {{}}", text=True, check=True)
    return folder / "bin/python"
