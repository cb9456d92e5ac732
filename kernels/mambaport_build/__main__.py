"""Builds the kernel libraries of this checkout in place: ``python -m mambaport_build`` in the folder ``kernels``.

Arguments: names of libraries; all of them when there is none. The compiler is CC, with CFLAGS and LDFLAGS.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mambaport_build.config import machine_config
from mambaport_build.libraries import KernelLibrary
from mambaport_build.ninja_build import run_ninja
from mambaport_build.units import kernel_units


def main(names: list[str]) -> None:
    """Each library into the package of its name, its objects into ``build/``."""
    names = names or sorted(path.name for path in Path("csrc").iterdir() if path.name != "common")
    config, folder = machine_config(), Path("build")
    units, links = [], []
    for name in names:
        library = KernelLibrary(name, root=".")
        more, link = kernel_units(library, Path(name, f"lib{name}.so"), folder, config)
        units += more
        links.append(link)
    run_ninja(units, links, folder, config)


if __name__ == "__main__":
    main(sys.argv[1:])
