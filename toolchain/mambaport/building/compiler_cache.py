"""The compiler cache: an sccache server for one build, with a local folder or a shared storage.

The server's socket is in the build's scratch folder, so that a build without network can use the server. The
server ends with the build. sccache's own variables choose the storage: SCCACHE_REDIS_ENDPOINT,
SCCACHE_BUCKET, SCCACHE_WEBDAV_ENDPOINT and similar ones. Without such a
variable, compiled objects are kept in the store.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mambaport import process
from mambaport.report import Report

START_SECONDS = 20.0


@dataclass(frozen=True)
class CacheUse:
    """Counts of a compiler cache since its start."""

    compiled: int
    reused: int


class CompilerCache:
    """A running server. ``program`` is sccache's path."""

    def __init__(self, program: Path, socket: Path, server: subprocess.Popen[bytes]) -> None:
        self.program = program
        self.server = server
        self.environment = {"SCCACHE_SERVER_UDS": str(socket)}
        """The variables with which a compiler finds the server."""

    def use(self) -> CacheUse:
        """How many files were compiled, and how many were taken from the cache."""
        if self.server.poll() is not None:  # a client would start a server of its own
            return CacheUse(0, 0)
        answer = process.run([self.program, "--show-stats", "--stats-format", "json"], env=self.environment)
        try:
            stats = json.loads(answer.output)["stats"]
            counts = [sum(stats[key]["counts"].values()) for key in ("cache_misses", "cache_hits")]
        except (ValueError, KeyError, TypeError):
            return CacheUse(0, 0)
        return CacheUse(*counts)


@contextmanager
def compiler_cache(
    program: Path, local: Path, scratch: Path, path: str, storage: Mapping[str, str], report: Report
) -> Iterator[CompilerCache | None]:
    """Runs a server while the block runs. Yields None where the server does not start, with a warning.

    Args:
        local: the folder of the local storage
        path: PATH of the compilers
        storage: variables that choose a shared storage and open it
    """
    socket = scratch / "sccache.sock"
    if not program.is_file():  # the package index has none for this machine's architecture
        yield None
        return
    if len(str(socket)) > 100:
        report.warn(f"no compiler cache: a socket's path has at most 107 bytes, and {socket} is too long")
        yield None
        return
    variables = {
        "SCCACHE_DIR": str(local),
        "PATH": path,
        "HOME": str(scratch),
        **storage,
        "SCCACHE_SERVER_UDS": str(socket),
        "SCCACHE_START_SERVER": "1",
        "SCCACHE_NO_DAEMON": "1",
        "SCCACHE_IDLE_TIMEOUT": "0",
        # Direct mode skips the preprocessor, but identifies included files by name and time alone.
        "SCCACHE_DIRECT": "false",
        "SCCACHE_ERROR_LOG": str(scratch / "sccache.log"),
    }
    with process.background([program], env=variables, log=scratch / "sccache.out") as server:
        deadline = time.monotonic() + START_SECONDS
        while not socket.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if socket.exists():
            yield CompilerCache(program, socket, server)
            return
    output = (scratch / "sccache.out").read_text(errors="replace").strip().splitlines()
    reason = output[-1] if output else "no reason given"
    report.warn(f"the compiler cache does not start; the build goes on without it: {reason}")
    yield None
