"""Compiles an extension's sources, several at once, and keeps each object as soon as it is finished.

An object is kept under the digest of everything that decides its bytes: its source, the headers of the tree that
it may include, the flags and the toolchain. So a build that was interrupted goes on where it stopped, and one
whose Python files alone have changed compiles nothing. No path is part of it, since none gets into an object:
paths inside the tree are relative, and the compiler is told to write others short.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from cuda_config import CudaConfig

INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', re.MULTILINE)
_printing = threading.Lock()


@dataclass(frozen=True)
class Unit:
    """One source and how it is compiled."""

    source: Path
    """Relative to the tree, as every path in `flags` is."""
    tool: tuple[str, ...]
    flags: tuple[str, ...]
    """Those that decide what the object is."""
    paths: tuple[str, ...]
    """Those that only say where things are on this machine, or how many at once."""
    include_dirs: tuple[str, ...]

    def key(self, toolchain: str) -> str:
        """sha256 of everything that decides the object's bytes."""
        digest = hashlib.sha256()
        for word in ("cuda-object 1", toolchain, *self.flags):
            digest.update(word.encode() + b"\0")
        for path in (self.source, *_headers(self.source, self.include_dirs)):
            digest.update(path.as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def compile_objects(units: list[Unit], folder: Path, config: CudaConfig) -> list[Path]:
    """Compiles `units`, in their order, `config.jobs` at once; takes those that the cache has.

    Returns:
        The objects in `folder`, in the order of `units`.

    Raises:
        SystemExit: a source did not compile. Those that did are in the cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Where nothing keeps objects for us, a second build in the same tree still finds the first one's.
    cache = Path(config.object_cache) if config.object_cache else folder / "kept"
    objects = [folder / f"{unit.source.stem}.o" for unit in units]
    stopped = threading.Event()  # set by the thread whose compiler failed, before it could take the next file
    with ThreadPoolExecutor(config.jobs) as pool:
        tasks = {}
        for unit, made in zip(units, objects):
            key = unit.key(config.toolchain)
            tasks[pool.submit(_make, unit, made, cache / key[:2] / f"{key}.o", stopped)] = unit
        try:
            for task in as_completed(tasks):
                if task.result() is False:
                    raise SystemExit(f"{tasks[task].source} did not compile; the compiler's message is above")
        except BaseException:  # ctrl-C too: what has not been started is not to be
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return objects


def prefix_maps(config: CudaConfig) -> list[str]:
    """Options that make the host compiler write the folders outside the tree by number, wherever they are."""
    toolkit = Path(shutil.which(shlex.split(config.nvcc)[-1]) or config.nvcc).parents[1]
    numbers: dict[str, int] = {}
    for index, folder in enumerate((*config.include_dirs, str(toolkit))):
        numbers.setdefault(folder, index)
        numbers.setdefault(str(Path(folder).resolve()), index)
    return ["-fno-canonical-system-headers", *(f"-ffile-prefix-map={path}=/{index}" for path, index in numbers.items())]


def _make(unit: Unit, made: Path, kept: Path, stopped: threading.Event) -> bool | None:
    """True: made. False: its compiler failed. None: not begun, since another has."""
    if stopped.is_set():
        return None
    if kept.is_file():
        _say(f"kept: {unit.source}")
        shutil.copyfile(kept, made)
        return True
    command = [*unit.tool, *unit.flags, *unit.paths, "-c", str(unit.source), "-o", str(made)]
    _say(shlex.join(command))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    _say(done.stdout.rstrip())
    if done.returncode == 0:
        _keep(made, kept)
    else:
        stopped.set()
    return done.returncode == 0


def _keep(made: Path, kept: Path) -> None:
    """Copies `made` to `kept` in one step: it is there whole or not at all, whatever ends this process."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    scratch = kept.with_name(f".{kept.stem}-{os.getpid()}")
    try:
        with scratch.open("wb") as target:
            target.write(made.read_bytes())
            target.flush()
            os.fsync(target.fileno())
        scratch.replace(kept)
    finally:
        scratch.unlink(missing_ok=True)


def _headers(source: Path, include_dirs: tuple[str, ...]) -> list[Path]:
    """The tree's own headers that `source` may include, at any depth; conditions are not looked at."""
    found: dict[Path, None] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        for name in INCLUDE.findall(path.read_bytes()):
            for folder in (path.parent, *map(Path, include_dirs)):
                header = Path(os.path.normpath(folder / os.fsdecode(name)))
                if header.is_file() and header not in found and header != source:
                    found[header] = None
                    waiting.append(header)
    return sorted(found)


def _say(text: str) -> None:
    if text:
        with _printing:
            print(text, flush=True)
