"""The CUDA side of a plan: right parts are found, wrong ones refused with the hint, before a build begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HOST, shared_library, use_patches, write_package, write_set, write_wheel
from test_cuda_machine import NVCC, RELEASE, fake_jetson, needs_nvcc

from mambaport.cuda.exports import exports_of, has_cxx11_abi, read_exports, write_exports
from mambaport.cuda.machine import CudaMachine, Gpu, Jetson, Toolkit, read_cuda
from mambaport.cuda.resolve import CudaOptions
from mambaport.cuda.toolkit import choose_toolkit
from mambaport.errors import HostError, MambaportError, UsageError
from mambaport.goal import CudaGoal
from mambaport.host import Host, Program
from mambaport.plan import Plan, make_plan
from mambaport.profile import Profile, make_profile

GXX = Program("/usr/bin/aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++ (Debian 12.2.0-14) 12.2.0")
GCC = Program("/usr/bin/aarch64-linux-gnu-gcc", "aarch64-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0")
X86 = replace(HOST, gxx_aarch64=(GXX,), gccs_aarch64=(GCC,))
CXX11 = "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
OLD_ABI = "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"
CUDA6 = CudaGoal("12.6", ("87",), (), "l4t", "2.5")


@pytest.fixture(autouse=True)
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patches/ folder with one package and one set."""
    root = write_package(use_patches(monkeypatch, tmp_path / "patches") / "demo", ["cuda"], revision=3)
    write_set(root / "cuda", {}, {"new.py": "x"})


def profile(arch: str = "aarch64", **cuda: object) -> Profile:
    """A Jetson's profile, in miniature."""
    base = {"version": "13.0", "sm": ["87"], "flavour": "l4t", "torch": "2.11"}
    return make_profile(
        {
            "name": "board",
            "summary": "A board",
            "default-variant": "new",
            "target": {"arch": arch, "glibc": "2.35", "cpu": "generic"},
            "cuda": {**base, **cuda},
            "python": {"minimum": "3.10"},
            "package": [{"name": "demo", "version": "1.0", "patches": ["cuda"]}],
            "build": {"toolchains": ["nvcc-native", "nvcc-cross"]},
            "variant": {
                "old": {
                    "summary": "JetPack 6",
                    "platform": "jetpack6",
                    "cuda": {**base, "version": "12.6", "torch": "2.5"},
                },
                "new": {"summary": "JetPack 7", "platform": "jetpack7"},
            },
        },
        Path("board.toml"),
    )


def plan(which: Profile | None = None, host: Host = X86, variant: str | None = None, **cuda: object) -> Plan:
    options = CudaOptions(**cuda)  # type: ignore[arg-type]
    return make_plan(which or profile(), host, variant=variant, environ={}, cuda=options)


def torch_wheel(
    folder: Path,
    tag: str = "cp310-cp310-linux_aarch64",
    cuda: str | None = "12.6",
    symbol: str = CXX11,
    version: str = "2.5.0a0+872d972e41.nv24.8",
) -> Path:
    """A wheel laid out as torch's, with a real library that exports one of libc10's functions."""
    library = shared_library(f"int {symbol}(void) {{ return 1; }}\n")
    text = f"__version__ = '{version}'\ndebug = False\ncuda: Optional[str] = {cuda!r}\n"
    files = {"torch/version.py": text.encode(), "torch/lib/libc10.so": library, "torch/include/x.h": b""}
    return write_wheel(folder, files, name="torch", version=version, tag=tag)


def refused(error: type[MambaportError], call: Callable[[], object]) -> str:
    """The whole text of an error, which must say a hint."""
    with pytest.raises(error) as caught:
        call()
    fault = caught.value
    assert fault.hint
    return "\n".join([fault.what, fault.found or "", fault.expected or "", fault.hint])


# What a plan takes --------------------------------------------------------------------------------


def test_everything_of_a_cross_build_is_pinned_or_named() -> None:
    made = plan()
    assert made.cuda is not None
    assert made.cuda.tools.toolkit.release == "13.0.88"
    assert made.cuda.tools.toolkit.origin == "package index"
    assert made.cuda.torch.version == "2.11.0"
    assert made.packages[0].version == "1.0+board.3.cu13torch2.11cxx11abitrue"
    assert made.cuda.libraries == ("libc10.so", "libtorch_cpu.so", "libc10_cuda.so", "libcudart.so.13")
    assert made.to_json()["cuda"]["sm"] == ["87"]


def test_each_part_changes_the_key() -> None:
    board = profile()
    keys = {
        "as it is": plan(board).packages[0].key,
        "another g++": plan(board, replace(X86, gxx_aarch64=(replace(GXX, version="g++ (Debian) 11.1.0"),)))
        .packages[0]
        .key,
        "another gcc": plan(board, replace(X86, gccs_aarch64=(replace(GCC, version="gcc (Debian) 11.1.0"),)))
        .packages[0]
        .key,
        "another GPU": plan(profile(sm=["87", "110"])).packages[0].key,
        "another variant": plan(variant="old").packages[0].key,
        "another torch": plan(variant="old", torch="2.6").packages[0].key,
    }
    assert len(set(keys.values())) == len(keys)


def test_pinned_torches_are_told_when_another_is_asked() -> None:
    made = plan(variant="old", torch="2.3")
    text = refused(HostError, lambda: made.require(building=False))
    assert "2.5, 2.6, 2.7, 2.8" in text
    assert "--torch-wheel" in text


def test_a_profile_without_a_gpu_takes_none_of_the_options() -> None:
    board = profile().model_copy(update={"cuda": None, "variant": {}, "default_variant": None})
    board = board.model_copy(update={"build": board.build.model_copy(update={"toolchains": ("zig",)})})
    text = refused(UsageError, lambda: plan(board, torch="2.5", cuda_home=Path("/x")))
    assert "--torch, --cuda-home" in text


# Wrong input --------------------------------------------------------------------------------------


def test_no_cross_compiler_is_said_with_its_package() -> None:
    made = plan(host=HOST)
    assert "apt-get install g++-aarch64-linux-gnu" in refused(HostError, lambda: made.require(building=True))
    made.packages[0].to_json()  # the sources can still be patched and read


def test_without_kernels_nothing_of_cuda_is_needed() -> None:
    made = make_plan(profile(), HOST, environ={"DEMO_FORCE_FALLBACK": "TRUE"})
    made.require(building=True)
    assert made.packages[0].version == "1.0+board.3.fallback"


def test_a_cross_compiler_without_its_gcc_is_said_with_its_package() -> None:
    made = plan(host=replace(X86, gccs_aarch64=()))
    text = refused(HostError, lambda: made.require(building=True))
    assert "no gcc beside /usr/bin/aarch64-linux-gnu-g++" in text
    assert "apt-get install g++-aarch64-linux-gnu" in text


def test_a_cross_compiler_that_nvcc_does_not_take_is_passed_over_or_said() -> None:
    newest = replace(GXX, version="aarch64-linux-gnu-g++ (Debian 14.2.0-19) 14.2.0")
    made = plan(host=replace(X86, gxx_aarch64=(newest, GXX)), variant="old")
    assert made.cuda is not None
    assert made.cuda.tools.cxx == GXX
    alone = plan(host=replace(X86, gxx_aarch64=(newest,)), variant="old")
    assert "g++-13-aarch64-linux-gnu" in refused(HostError, lambda: alone.require(building=True))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tag": "cp310-cp310-manylinux_2_28_x86_64"}, "another architecture"),
        ({"cuda": None}, "no CUDA"),
        ({"cuda": "13.0"}, "another CUDA"),
    ],
)
def test_a_wrong_torch_wheel_is_refused(tmp_path: Path, changes: dict[str, str | None], said: str) -> None:
    wheel = torch_wheel(tmp_path, **changes)  # type: ignore[arg-type]
    assert said in refused(UsageError, lambda: plan(variant="old", torch_wheel=wheel))


def test_what_is_no_torch_wheel_is_refused(tmp_path: Path) -> None:
    other = write_wheel(tmp_path, {"demo.py": b""})
    named = tmp_path / "torch-2.5.0-cp310-cp310-linux_aarch64.whl"
    for path in (other, tmp_path / "missing.whl", named):
        refused(UsageError, lambda path=path: plan(variant="old", torch_wheel=path))  # type: ignore[misc]
    named.write_bytes(b"not a zip")
    assert "does not hold a torch" in _what(lambda: plan(variant="old", torch_wheel=named))


def _what(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    return caught.value.what


def test_nvidias_wheel_decides_minor_and_abi(tmp_path: Path) -> None:
    made = plan(variant="old", torch_wheel=torch_wheel(tmp_path))
    assert made.packages[0].version == "1.0+board.3.cu12torch2.5cxx11abitrue"
    old = torch_wheel(tmp_path / "old", symbol=OLD_ABI)
    assert plan(variant="old", torch_wheel=old).packages[0].version.endswith("cxx11abifalse")
    refused(UsageError, lambda: plan(variant="old", torch_wheel=old, torch="2.6"))


def test_a_folder_that_is_no_toolkit_is_refused(tmp_path: Path) -> None:
    text = refused(UsageError, lambda: choose_toolkit(CUDA6, X86, tmp_path, native=False))
    assert "no " in text
    assert "bin/nvcc" in text


@needs_nvcc
def test_a_toolkit_of_another_major_is_refused() -> None:
    text = refused(UsageError, lambda: choose_toolkit(CUDA6, X86, NVCC.parent.parent, native=False))
    assert "CUDA 13.0 does not fit" in text


def test_cuda_11_4_is_too_old() -> None:
    old = CudaMachine((Toolkit("/c", "/c/bin/nvcc", "11.4", "11.4.315", "/usr/local/cuda"),), (), (), None)
    device = replace(HOST, arch="aarch64", cuda=replace(old, jetson=Jetson("36.4.3", "6")))
    text = refused(HostError, lambda: choose_toolkit(CUDA6, device, None, native=True))
    assert "CUDA 11.6 at least" in text
    assert "CUDA 11.4.315 (/usr/local/cuda)" in text
    assert "cuda-toolkit-12-6" in text


def test_nvcc_missing_on_a_jetson_is_said() -> None:
    device = replace(
        HOST, arch="aarch64", cuda=CudaMachine((), ("CUDA_HOME: no x",), (), Jetson("36.4", "6"))
    )
    text = refused(HostError, lambda: choose_toolkit(CUDA6, device, None, native=True))
    assert "nvidia-jetpack" in text
    assert "CUDA_HOME: no x" in text


# On a Jetson --------------------------------------------------------------------------------------


def jetson(root: Path, release: str = RELEASE, arch: str = "x86_64") -> Host:
    """A host as it is read from a fake Jetson's root folder."""
    cxx = Program("/usr/bin/g++", "g++ (Debian 12.2.0-14) 12.2.0")
    return replace(HOST, arch=arch, cc=cxx, cxx=cxx, cuda=read_cuda(fake_jetson(root, release), {}))


def test_the_variant_is_what_the_device_is(tmp_path: Path) -> None:
    device = jetson(tmp_path, arch="aarch64")
    assert plan(host=device).variant == "old"
    text = refused(HostError, lambda: plan(host=device, variant="new"))
    assert "This Jetson is old, not new" in text


def test_jetpack_5_is_refused(tmp_path: Path) -> None:
    device = jetson(tmp_path, RELEASE.replace("R36", "R35"), "aarch64")
    text = refused(HostError, lambda: plan(host=device))
    assert "JetPack 5, L4T 35.4.3" in text
    assert "update the device to JetPack 6" in text


def environment(folder: Path, cuda: str | None, version: str = "2.11.0+cu130") -> Path:
    """A virtual environment of this Python whose torch is the skeleton of one."""
    import venv

    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    info = site / "torch-2.11.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    (info / "RECORD").write_text("torch/version.py,,\n")
    (site / "torch/lib").mkdir(parents=True)
    (site / "torch/version.py").write_text(f"__version__ = '{version}'\ncuda = {cuda!r}\n")
    library = shared_library(f"int {CXX11}(void) {{ return 1; }}\n")
    (site / "torch/lib/libc10.so").write_bytes(library)
    return folder / "bin/python"


@needs_nvcc
def test_a_jetson_compiles_with_its_own_toolkit_and_torch(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    fake = jetson(root, RELEASE.replace("R36", "R38"))
    (root / "usr/local/cuda-13.0").symlink_to(NVCC.resolve().parent.parent)
    device = replace(fake, cuda=read_cuda(root, {}))
    python = environment(tmp_path / "env", "13.0")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "env").rglob("*"))
    made = plan(profile("host"), device, python=python)
    assert made.variant == "new"
    assert made.toolchain.name == "nvcc-native"
    made.require(building=False)
    made.require(building=True)
    assert made.cuda is not None
    assert made.cuda.tools.toolkit.origin == f"/usr/local/cuda-13.0: {root}/usr/local/cuda-13.0"
    assert made.cuda.torch.version == "2.11.0+cu130"
    assert made.packages[0].version == "1.0+board.3.cu13torch2.11cxx11abitrue"
    after = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "env").rglob("*"))
    assert after == before


def test_a_cpu_torch_on_a_jetson_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    device = jetson(root, RELEASE.replace("R36", "R38"))
    made = plan(profile("host"), device, python=environment(tmp_path / "env", None, "2.11.0+cpu"))
    text = refused(HostError, lambda: made.require(building=False))
    assert "This torch has no CUDA" in text


def test_installing_needs_torch_but_no_compiler(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    device = jetson(root, RELEASE.replace("R36", "R38"))
    made = plan(profile("host"), device, python=environment(tmp_path / "env", "13.0"))
    made.require(building=False)
    assert made.packages[0].version == "1.0+board.3.cu13torch2.11cxx11abitrue"
    assert "no nvcc" in refused(HostError, lambda: made.require(building=True))


# This machine's own GPU ---------------------------------------------------------------------------


def test_this_machines_gpu_is_what_the_driver_names_or_the_variable_says(tmp_path: Path) -> None:
    cxx = Program("/usr/bin/g++", "g++ (Debian 12.2.0-14) 12.2.0")
    kit = Toolkit("/c", "/c/bin/nvcc", "13.0", "13.0.88", "/usr/local/cuda")
    host = replace(HOST, cc=cxx, cxx=cxx, cuda=CudaMachine((kit,)))
    board = profile("host", version="host", sm=["host"], torch="host", flavour="host")
    board = board.model_copy(update={"variant": {}, "default_variant": None})
    options = CudaOptions(python=environment(tmp_path / "env", "13.0"))
    none = make_plan(board, host, environ={}, cuda=options)
    assert "TORCH_CUDA_ARCH_LIST" in refused(HostError, lambda: none.require(building=True))
    named = make_plan(board, host, environ={"TORCH_CUDA_ARCH_LIST": "8.7;9.0+PTX"}, cuda=options)
    assert named.cuda is not None
    assert (named.cuda.goal.sm, named.cuda.goal.version, named.cuda.goal.flavour) == (
        ("87", "90"),
        "13.0",
        "desktop",
    )
    assert named.cuda.goal.ptx == ("90",)
    gpu = replace(host, cuda=replace(host.cuda, gpus=(Gpu("H100", "90"), Gpu("H100", "90"))))
    lettered = make_plan(board, gpu, environ={"TORCH_CUDA_ARCH_LIST": "9.0a 10.0f+PTX"}, cuda=options)
    assert lettered.goal.cuda is not None
    assert (lettered.goal.cuda.sm, lettered.goal.cuda.ptx) == (("90", "100"), ("100",))
    seen = make_plan(board, gpu, environ={}, cuda=options)
    assert seen.goal.cuda is not None
    assert seen.goal.cuda.sm == ("90",)
    other = make_plan(board, gpu, environ={"TORCH_CUDA_ARCH_LIST": "8.7"}, cuda=options)
    assert other.goal.cuda is not None
    assert other.goal.cuda.sm == ("87",)


@pytest.mark.parametrize("toolkit", [None, "13.0"])
def test_another_machines_gpu_needs_neither_a_gpu_nor_a_torch_here(toolkit: str | None) -> None:
    cxx = Program("/usr/bin/g++", "g++ (Debian 12.2.0-14) 12.2.0")
    kits = (Toolkit("/c", "/c/bin/nvcc", toolkit, f"{toolkit}.88", "/usr/local/cuda"),) if toolkit else ()
    host = replace(HOST, arch="x86_64", cc=cxx, cxx=cxx, cuda=CudaMachine(kits))
    board = profile("host", version="host", sm=["host"], torch="host", flavour="host")
    board = board.model_copy(update={"variant": {}, "default_variant": None})
    sm = {"TORCH_CUDA_ARCH_LIST": "9.0"}
    made = make_plan(board, host, environ=sm, cuda=CudaOptions(torch="2.11"))
    made.require(building=True)
    assert made.cuda is not None
    assert (made.cuda.goal.sm, made.cuda.goal.version, made.cuda.torch.version) == (("90",), "13.0", "2.11.0")
    assert made.cuda.tools.toolkit.origin == ("package index" if toolkit is None else "/usr/local/cuda: /c")
    none = make_plan(board, host, environ=sm, cuda=CudaOptions(torch="2.3"))
    assert "2.11" in refused(HostError, lambda: none.require(building=True))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("9.9", "unknown SM 99; nearest: 90"),
        ("7.0", "CUDA 13.0 does not compile for sm_70 (Volta"),
        ("8.7 Ampere", "Ampere"),
        ("9.0b", "9.0b"),
        ("a", "a"),
        ("\u0668.\u0667", "\u0668.\u0667"),
        ("8\uff10", "8\uff10"),
        (f"{'9' * 5000}.0", "no GPU architecture"),
        ("9.0+ptx", "9.0+ptx"),
        ("9.0+PTX+PTX", "9.0+PTX+PTX"),
    ],
)
def test_a_gpu_that_cuda_does_not_compile_for_is_refused(asked: str, said: str) -> None:
    cxx = Program("/usr/bin/g++", "g++ (Debian 12.2.0-14) 12.2.0")
    host = replace(HOST, arch="x86_64", cc=cxx, cxx=cxx, cuda=CudaMachine())
    board = profile("host", version="host", sm=["host"], torch="host", flavour="host")
    board = board.model_copy(update={"variant": {}, "default_variant": None})
    options, environ = CudaOptions(torch="2.11"), {"TORCH_CUDA_ARCH_LIST": asked}
    text = refused(UsageError, lambda: make_plan(board, host, environ=environ, cuda=options))
    assert said in text
    assert "TORCH_CUDA_ARCH_LIST" in text or said.startswith("CUDA")


def test_the_variable_is_not_read_for_a_profile_that_names_its_gpus() -> None:
    made = make_plan(profile(), X86, environ={"TORCH_CUDA_ARCH_LIST": "Ampere"})
    assert made.goal.cuda is not None
    assert (made.goal.cuda.sm, made.goal.cuda.ptx) == (("87",), ())


def test_an_environment_of_this_machine_is_no_target_of_a_cross_build() -> None:
    text = refused(UsageError, lambda: plan(python=Path("/usr/bin/python3")))
    assert "wheels for aarch64, built on x86_64" in text


# Exports ------------------------------------------------------------------------------------------


def test_exports_are_what_a_library_defines_and_survive_being_written(tmp_path: Path) -> None:
    source = (
        f"extern int other(void);\nint {CXX11}(void) {{ return other(); }}\nstatic int own;\nint *p = &own;\n"
    )
    (tmp_path / "libc10.so").write_bytes(shared_library(source))
    found = exports_of(tmp_path)
    assert {CXX11, "p"} <= found.symbols
    assert not {"other", "own"} & found.symbols
    assert found.cxx11_abi
    write_exports(found, tmp_path / "exports.json")
    assert read_exports(tmp_path / "exports.json") == found
    assert not has_cxx11_abi(frozenset({OLD_ABI}))
    with pytest.raises(LookupError):
        exports_of(tmp_path / "nowhere")
