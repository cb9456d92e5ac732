"""The parts of a CUDA build: the toolkit, torch's headers, and the configuration that names them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambaport import process
from mambaport.building.cuda_root import cuda_root
from mambaport.building.target_torch import TorchFiles, torch_files
from mambaport.cuda.resolve import CudaPlan
from mambaport.errors import HostError
from mambaport.sources import Workshop


@dataclass(frozen=True)
class CudaParts:
    """The folders of a CUDA plan's parts."""

    home: Path
    """The toolkit."""
    torch: TorchFiles


def cuda_parts(shop: Workshop, plan: CudaPlan) -> CudaParts:
    """Puts each part that this machine lacks into the store.

    Raises:
        FetchError, HostError: a part cannot be fetched.
    """
    source = plan.tools.toolkit.source
    home = source if isinstance(source, Path) else cuda_root(shop, source)
    return CudaParts(home, torch_files(shop, plan.torch))


def cuda_config(plan: CudaPlan, parts: CudaParts, scratch: Path) -> dict[str, Any]:
    """The ``cuda`` section of the build's configuration (``CudaConfig`` of mambaport_build), and its stubs.

    Raises:
        HostError: the host compiler cannot make a library.
    """
    return {
        "home": str(parts.home),
        "version": plan.tools.toolkit.version,
        "cxx": plan.tools.cxx.path,
        "sm": list(plan.goal.sm),
        "ptx": list(plan.goal.ptx),
        "include_dirs": [str(path) for path in parts.torch.include_dirs],
        "library_dirs": [str(_stubs(plan, scratch / "stubs"))],
        "libraries": [name.removeprefix("lib").partition(".so")[0] for name in plan.libraries],
        "cxx11_abi": int(plan.torch.cxx11_abi),
        "identity": plan.object_key,
    }


def cuda_environment(parts: CudaParts, path: str) -> dict[str, str]:
    """The variables with which the toolkit's programs find each other; ``path`` is the build's PATH."""
    libraries = [path for path in (parts.home / "lib64", parts.home / "lib") if path.is_dir()]
    return {
        "CUDA_HOME": str(parts.home),
        "PATH": os.pathsep.join([str(parts.home / "bin"), path]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }


def _stubs(plan: CudaPlan, folder: Path) -> Path:
    """Makes empty libraries with the target's SONAMEs: linking needs only the names of shared libraries."""
    folder.mkdir()
    for soname in plan.libraries:
        name = soname.partition(".so")[0] + ".so"
        words = [plan.tools.cxx.path, "-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-x", "c", "/dev/null"]
        finished = process.run([*words, "-o", folder / name])
        if not finished.ok:
            raise HostError(
                f"{plan.tools.cxx.path} cannot link a library",
                found=f"exit status {finished.returncode}",
                hint="install its libc and binutils (libc6-dev-arm64-cross for the cross compiler)",
                detail=finished.tail,
            )
    return folder
