"""The compiler cache: an sccache server for one build, with a local folder or a shared storage.

The server's socket is in the build's scratch folder, so that a build without network can use the server.
Where that path is too long for a socket, the socket is in a private folder of /tmp. The server ends with the
build. Clients cannot start another server: where the server dies, the build fails.

sccache's own variables choose the storage: SCCACHE_REDIS_ENDPOINT, SCCACHE_BUCKET, SCCACHE_WEBDAV_ENDPOINT
and similar ones. Without such a variable, compiled objects are kept in the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mambaport import process
from mambaport.activity import descendants, processes
from mambaport.errors import BuildError
from mambaport.report import Report
from mambaport.temporary import temporary_folder

START_SECONDS = 20.0
LONGEST_SOCKET = 100
"""Bytes of a socket's path; the kernel takes 107."""


@dataclass(frozen=True)
class CacheUse:
    """Counts of a compiler cache since its start."""

    compiled: int
    reused: int


class CompilerCache:
    """A running server. ``program`` is sccache's path."""

    def __init__(self, program: Path, socket: Path, server: subprocess.Popen[bytes], scratch: Path) -> None:
        self.program = program
        self.server = server
        self.log = scratch / "sccache.out"
        # A client that finds no server starts one, which would outlive the build and keep objects elsewhere.
        # With these two, such a server fails at once, and so does the client.
        client = scratch / "sccache-client.toml"
        client.write_text("server_startup_timeout_ms = 1\n", encoding="utf-8")
        self.environment = {
            "SCCACHE_SERVER_UDS": str(socket),
            "SCCACHE_CONF": str(client),
            "SCCACHE_ERROR_LOG": "/dev/null/no-second-server",
        }
        """The variables with which a compiler finds the server."""

    def require(self) -> None:
        """Checks that the server runs.

        Raises:
            BuildError: the server has ended.
        """
        code = self.server.poll()
        if code is not None:
            raise BuildError(
                "The compiler cache ended during the build",
                found=f"signal {-code}" if code < 0 else f"exit status {code}",
                expected="sccache's server, for as long as the build runs",
                hint="run the same command again: what was compiled is kept. If the server ends again, the "
                "memory may be too small (`dmesg`): compile fewer files at once with --jobs 1",
                detail="\n".join(_lines(self.log)[-10:]) or None,
            )

    def end_compilers(self) -> None:
        """Ends the compilers that the server has started."""
        found = processes()
        for pid in descendants(self.server.pid, found):
            if found[pid].parent != self.server.pid:  # the keeper's own child is the server
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def use(self) -> CacheUse:
        """How many files were compiled, and how many were taken from the cache."""
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

    Raises:
        BuildError: the block failed, and the server had ended before.
    """
    if not program.is_file():  # the package index has none for this machine's architecture
        yield None
        return
    with _socket_folder(scratch) as folder:
        socket = folder / "sccache.sock"
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
                cache = CompilerCache(program, socket, server, scratch)
                try:
                    yield cache
                except BuildError:
                    cache.require()
                    raise
                return
    output = _lines(scratch / "sccache.out")
    reason = output[-1] if output else "no reason given"
    report.warn(f"the compiler cache does not start; the build goes on without it: {reason}")
    yield None


@contextmanager
def _socket_folder(scratch: Path) -> Iterator[Path]:
    """The scratch folder; where its path is too long for a socket in it, a private folder of /tmp."""
    if len(os.fsencode(scratch / "sccache.sock")) <= LONGEST_SOCKET:
        yield scratch
        return
    with temporary_folder(Path("/tmp")) as folder:  # noqa: S108 - made anew, with mode 0700
        yield folder


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
