"""How a package loads its CUDA library: the real registration, over functions that compute nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PATCHES = Path(__file__).parents[2] / "patches"
SHARED = PATCHES / "shared"
OVERLAY = PATCHES / "mamba-ssm" / "cuda" / "overlay"
TORCH = Path(torch.__file__).parent
TENSOR, OPTIONAL = "const at::Tensor &", "const std::optional<at::Tensor> &"
FORWARD = [*[TENSOR] * 5, *[OPTIONAL] * 3]
FUNCTIONS = f"""
#include <ATen/ATen.h>
std::vector<at::Tensor> selective_scan_fwd({", ".join([*FORWARD, "bool"])}) {{
    TORCH_CHECK(false, "no kernel");
}}
std::vector<at::Tensor> selective_scan_bwd(
    {", ".join([*FORWARD, TENSOR, OPTIONAL, OPTIONAL, "std::optional<at::Tensor> &", "bool", "bool"])}) {{
    TORCH_CHECK(false, "no kernel");
}}
"""
FAKES = """
import selective_scan_cuda, torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    u, delta, z = (torch.randn(2, 8, 5000, device="cuda") for _ in range(3))
    A, B, C = torch.randn(8, 4, device="cuda"), *(torch.randn(2, 1, 4, 5000, device="cuda") for _ in range(2))
    results = selective_scan_cuda.fwd(u, delta, A, B, C, None, z, None, True)
    print([tuple(t.shape) for t in results])
    out, x, _ = results
    grads = selective_scan_cuda.bwd(u, delta, A, B, C, None, z, None, u, x, out, None, True, True)
    print([None if t is None else tuple(t.shape) for t in grads])
    print([len(selective_scan_cuda.fwd(u, delta, A, B, C, None, None, None, 1))])
"""


def compile_with(folder: Path, *words: str) -> None:
    include = [TORCH / "include", TORCH / "include/torch/csrc/api/include"]
    flags = [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", "-std=c++20", "-O0", "-fPIC"]
    flags += [word for path in include for word in ("-isystem", str(path))]
    flags += [f"-I{folder}", f"-I{SHARED / 'torch-library' / 'csrc'}"]
    subprocess.run(["g++", *flags, *words], check=True)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The registration and the functions, compiled; a folder."""
    if shutil.which("g++") is None or not (TORCH / "include").is_dir():
        pytest.skip("no g++, or a torch without headers")
    folder = tmp_path_factory.mktemp("objects")
    # All that is taken from CUDA here is its number.
    (folder / "cuda_runtime_api.h").write_text("#define CUDART_VERSION 13000\n")
    (folder / "functions.cpp").write_text(FUNCTIONS)
    compile_with(folder, "-c", str(OVERLAY / "csrc/torch_library.cpp"), "-o", str(folder / "registration.o"))
    compile_with(folder, "-c", str(folder / "functions.cpp"), "-o", str(folder / "functions.o"))
    return folder


@pytest.fixture
def site(tmp_path, objects):
    """A site-packages with the package selective_scan_cuda as a wheel has it, and its part of mamba_ssm."""
    ops = tmp_path / "mamba_ssm/ops"
    ops.mkdir(parents=True)
    shutil.copy(PATCHES / "mamba-ssm/cpu/overlay/mamba_ssm/ops/exporting.py", ops)
    package = tmp_path / "selective_scan_cuda"
    package.mkdir()
    shutil.copy(PATCHES / "mamba-ssm/cpu/overlay/selective_scan_cuda/__init__.py", package)
    shutil.copy(OVERLAY / "selective_scan_cuda/_cuda.py", package)
    shutil.copy(SHARED / "torch_library.py", package / "_library.py")
    link(objects, package, "registration.o", "functions.o")
    return tmp_path


def link(objects, package, *names):
    words = ["-shared", "-Wl,-z,now", f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
    library = package / "libselective_scan_cuda.so"
    subprocess.run(["g++", *(objects / name for name in names), *words, "-o", library], check=True)


def python(site, code):
    words = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(site)}
    return subprocess.run(words, cwd=site, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("first", ["torch", "selective_scan_cuda"])
def test_it_loads_before_and_after_torch_and_describes_its_results(site, first):
    done = python(site, f"import {first}\n{FAKES}")
    assert done.returncode == 0, done.stderr
    like, states, weights = (2, 8, 5000), (2, 8, 3, 8), [(8, 4), (2, 1, 4, 5000), (2, 1, 4, 5000), None, None]
    assert done.stdout.splitlines() == [
        str([like, states, like]),
        str([like, like, *weights, like, like]),
        "[2]",
    ]


def test_a_second_import_is_no_second_registration(site):
    code = """
import sys, selective_scan_cuda
del sys.modules["selective_scan_cuda"]
import selective_scan_cuda
print(selective_scan_cuda.HAS_CUDA)
"""
    done = python(site, code)
    assert (done.stdout.strip(), done.returncode) == ("True", 0), done.stderr


def test_a_library_of_another_torch_is_refused_with_its_name(site):
    library = site / "selective_scan_cuda/libselective_scan_cuda.so"
    mine = ".".join(torch.__version__.split(".")[:2])
    other = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), mine)
    content = library.read_bytes()
    wrote, writes = (f"compiled for torch {minor}, ".encode() for minor in (mine, other))
    assert content.count(wrote) == 1
    library.write_bytes(content.replace(wrote, writes))
    done = python(site, "import selective_scan_cuda")
    assert f"ImportError: selective_scan_cuda was compiled for torch {other} with CUDA 13;" in done.stderr
    assert f"this is torch {torch.__version__}" in done.stderr


def test_a_library_that_does_not_load_says_for_which_torch_it_is(site, objects):
    link(objects, site / "selective_scan_cuda", "registration.o")
    done = python(site, "import selective_scan_cuda")
    assert "ImportError: selective_scan_cuda was compiled for torch" in done.stderr
    assert "undefined symbol" in done.stderr


def test_without_the_library_it_is_the_module_of_a_cpu_wheel(site):
    (site / "selective_scan_cuda/libselective_scan_cuda.so").unlink()
    done = python(site, "import selective_scan_cuda; print(selective_scan_cuda.HAS_CUDA)")
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


EXPORT = """
import torch
from selective_scan_cuda import _cuda

class Scan(torch.nn.Module):
    def forward(self, u, delta, A, B, C):
        out, states = _cuda.fwd(u, delta, A, B, C, None, None, None, True)
        return out, states[:, :, -1, 1::2]

for length in (5000, 5):
    u, delta, A = torch.randn(2, 8, length), torch.randn(2, 8, length), torch.randn(8, 4)
    B, C = torch.randn(2, 1, 4, length), torch.randn(2, 1, 4, length)
    steps = torch.export.Dim("steps", min=2, max=100_000)
    shapes = ({2: steps}, {2: steps}, None, {3: steps}, {3: steps})
    program = torch.export.export(Scan(), (u, delta, A, B, C), dynamic_shapes=shapes)
    nodes = [str(node.target) for node in program.graph.nodes]
    print(nodes.count("selective_scan_cuda.fwd.default"), *program.range_constraints.values())
"""


def test_an_exported_scan_takes_lengths_below_and_above_a_chunk(site):
    done = python(site, EXPORT)
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        assert line.startswith("1 ")
        assert "VR[2, 100000]" in line
