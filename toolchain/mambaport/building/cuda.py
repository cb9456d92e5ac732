"""What CUDA extensions are built with, written down for setup.py: the file that CUDA_BUILD_CONFIG names."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mambaport import process
from mambaport.building.cuda_root import cuda_root
from mambaport.building.target_torch import TorchFiles, torch_files
from mambaport.cuda.resolve import CudaPlan
from mambaport.errors import HostError
from mambaport.host import Host
from mambaport.report import Report
from mambaport.sources import Fetcher
from mambaport.store import Store

VARIABLE = "CUDA_BUILD_CONFIG"


@dataclass(frozen=True)
class CudaParts:
    """The parts of a CUDA plan, on this disk."""

    home: Path
    """The toolkit."""
    torch: TorchFiles


def cuda_parts(store: Store, fetcher: Fetcher, plan: CudaPlan, host: Host, report: Report) -> CudaParts:
    """Brings each part into the store, where it is not on this machine already.

    Raises:
        FetchError, HostError: one of them cannot be had.
    """
    source = plan.tools.toolkit.source
    home = source if isinstance(source, Path) else cuda_root(store, fetcher, source, host.arch, report)
    return CudaParts(home, torch_files(store, fetcher, plan.torch, report))


def cuda_settings(
    plan: CudaPlan, parts: CudaParts, store: Store, scratch: Path, jobs: int, path: str
) -> dict[str, str]:
    """The variables of a build with CUDA: the configuration, and the toolkit's own, for that build alone.

    Args:
        path: PATH of the build, to which the toolkit's programs are added.

    Raises:
        HostError: the host compiler cannot make a library.
    """
    config = write_config(plan, parts, store, scratch, jobs)
    libraries = [path for path in (parts.home / "lib64", parts.home / "lib") if path.is_dir()]
    return {
        VARIABLE: str(config),
        "CUDA_HOME": str(parts.home),
        "PATH": os.pathsep.join([str(parts.home / "bin"), path]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }


def write_config(plan: CudaPlan, parts: CudaParts, store: Store, scratch: Path, jobs: int) -> Path:
    """The JSON file for ``cuda_build.py``, and the link stubs it names.

    Raises:
        HostError: the host compiler cannot make a library.
    """
    stubs = _stubs(plan, scratch / "stubs")
    objects = store.root / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    config = {
        "nvcc": str(parts.home / "bin" / "nvcc"),
        "cxx": plan.tools.cxx.path,
        "cuda_version": plan.tools.toolkit.version,
        "sm": list(plan.goal.sm),
        "ptx": list(plan.goal.ptx),
        "include_dirs": [str(path) for path in (*parts.torch.include_dirs, *_cuda_include(parts.home))],
        "library_dirs": [str(stubs)],
        "libraries": [name.removeprefix("lib").partition(".so")[0] for name in plan.libraries],
        "cxx11_abi": int(plan.torch.cxx11_abi),
        "jobs": jobs,
        "nvcc_threads": 1,
        "object_cache": str(objects),
        "toolchain": plan.object_key,
    }
    path = scratch / "cuda-build.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return path


def _cuda_include(home: Path) -> list[Path]:
    return [path for path in (home / "include", home / "include" / "cccl") if path.is_dir()]


def _stubs(plan: CudaPlan, folder: Path) -> Path:
    """Empty libraries with the target's SONAMEs: a shared library is linked by name alone."""
    folder.mkdir()
    for soname in plan.libraries:
        name = soname.partition(".so")[0] + ".so"
        words = [plan.tools.cxx.path, "-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-x", "c", "/dev/null"]
        finished = process.run([*words, "-o", folder / name])
        if not finished.ok:
            raise HostError(
                f"{plan.tools.cxx.path} cannot link a library",
                found=f"exit status {finished.returncode}",
                hint="install its C library and binutils (libc6-dev-arm64-cross for the cross compiler)",
                detail=finished.tail,
            )
    return folder
