"""The parts of the target's torch that a build needs: its headers, and a table of its exported symbols."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mambaport.cuda.exports import Exports, exports_of, read_exports, write_exports
from mambaport.cuda.torch import EXPORTS, HEADERS, TargetTorch
from mambaport.errors import UsageError
from mambaport.interpreter import read_interpreter
from mambaport.pins.cuda import Excerpt, TorchRelease
from mambaport.sources import Workshop, extract_members, take
from mambaport.store import Store
from mambaport.wheels import read_wheel


@dataclass(frozen=True)
class TorchFiles:
    """The paths of a torch's headers and exports."""

    include: Path
    exports: Path
    """A file for :func:`mambaport.cuda.exports.read_exports`."""

    @property
    def include_dirs(self) -> tuple[Path, ...]:
        return self.include, self.include / "torch" / "csrc" / "api" / "include"


def torch_files(shop: Workshop, torch: TargetTorch) -> TorchFiles:
    """A torch's headers and exports. They are fetched or unpacked once, and then kept in the store.

    Raises:
        FetchError: a pinned part cannot be fetched.
    """
    key = f"torch-{torch.version}-{torch.sha256[:16]}"

    def fill(folder: Path) -> None:
        scratch = folder.parent / "unpacked"
        if isinstance(torch.source, TorchRelease):
            _from_index(shop, torch.source, folder, scratch)
        elif torch.source.is_file():
            extract_members(torch.source, (*HEADERS, *EXPORTS), scratch)
            _keep(scratch / "torch" / "include", exports_of(scratch / "torch" / "lib"), folder)
        else:
            _keep(None, exports_of(torch.source / "lib"), folder)
        shop.report.line("unpack", f"torch {torch.version}", f"headers and exports, {torch.origin}")

    entry = shop.store.make("toolchains", key, fill)
    installed = torch.source if isinstance(torch.source, Path) and torch.source.is_dir() else None
    return TorchFiles(installed / "include" if installed else entry / "include", entry / "exports.json")


def _from_index(shop: Workshop, release: TorchRelease, folder: Path, scratch: Path) -> None:
    def lib(part: Excerpt, name: str) -> Path:
        take(shop.fetcher, part, scratch / name, shop.report)
        return scratch / name / "torch" / "lib"

    cuda = lib(release.headers, "headers")
    main = lib(release.exports, "exports")
    for library in cuda.iterdir():
        shutil.move(library, main / library.name)
    tables = exports_of(main)
    if release.string_exports is not None:
        tables = _with_strings(tables, exports_of(lib(release.string_exports, "strings")))
    _keep(cuda.parent / "include", tables, folder)


def _with_strings(older: Exports, newer: Exports) -> Exports:
    """``older``, plus the symbols of ``newer`` with the C++11 ABI's std::string."""
    return Exports(
        newer.cxx11_abi,
        {
            name: symbols | {symbol for symbol in newer.libraries.get(name, ()) if "__cxx11" in symbol}
            for name, symbols in older.libraries.items()
        },
    )


def _keep(include: Path | None, exports: Exports, folder: Path) -> None:
    if include is not None:
        shutil.move(include, folder / "include")
    write_exports(exports, folder / "exports.json")


def stored_exports(store: Store) -> dict[str, Exports]:
    """Version -> exports of every torch that the store has."""
    found = {}
    for path in sorted((store.root / "toolchains").glob("torch-*")):
        if (entry := store.get("toolchains", path.name)) is not None:
            version = path.name.removeprefix("torch-").rpartition("-")[0]
            found[version] = read_exports(entry / "exports.json")
    return found


def given_exports(path: Path, scratch: Path) -> tuple[str, Exports]:
    """Version and exports of a torch that the user names: a wheel, or an environment's interpreter.

    Raises:
        UsageError: ``path`` is neither.
    """
    if path.suffix == ".whl":
        wheel = read_wheel(path)
        version, folder = wheel.version, scratch / "torch" / "lib"
        extract_members(path, EXPORTS, scratch)
    else:
        torch = read_interpreter(path, []).torch
        if torch is None:
            raise UsageError(f"There is no torch in the environment of {path}", expected="one with torch")
        version, folder = torch.version, torch.folder / "lib"
    try:
        return version, exports_of(folder)
    except LookupError as fault:
        raise UsageError(
            f"{path} has no torch to compare symbols with",
            found=str(fault),
            expected="a wheel of torch, or the interpreter of an environment with torch",
        ) from None
