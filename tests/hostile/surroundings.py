"""Odd environments of a command: variables, folders, limits, streams, signals, locales, clocks.

The rule is that an environment changes no byte of a wheel. ``codes`` names the exit codes that an environment
may end with instead of 0; each needs a named error.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Surroundings:
    """One environment."""

    name: str
    variables: Mapping[str, str | None] = field(default_factory=dict)
    """None: the variable is not set."""
    prepare: Callable[[], object] = lambda: None
    """Called in the process, before the command takes the place of the process."""
    codes: tuple[int, ...] = (0,)
    store: str | None = None
    """The store's path, relative to the attack's folder."""
    house: str = "house"
    """The wheelhouse's path, relative to the attack's folder."""
    output: bool = True
    """Whether stdout can be read."""
    builds: bool = False
    """Whether a wheel is built, which takes seconds; else trees are patched."""


def surroundings(arena: Path) -> Iterator[Surroundings]:
    """Every environment. ``arena`` has the folders that :func:`make_arena` makes."""
    kinds = (
        *(_homes(arena), _temporary_folders(arena), _paths(arena), _locales(), _python_variables(arena)),
        *(_build_variables(arena), _stores(), _streams(arena), _limits(), _signals(), _folders(arena)),
        _clocks(arena),
    )
    for kind in kinds:
        for case in kind:
            yield replace(case, builds=case.name in BUILT)


BUILT = frozenset(
    {
        *("HOME missing", "TMPDIR not UTF-8", "TMPDIR does not exist", "PATH missing"),
        "PATH without compilers",
        *("PATH with the current folder", "programs of PATH that fail", "LC_ALL='de_DE.ISO-8859-1'"),
        *("PYTHONIOENCODING=ascii", "PYTHONOPTIMIZE=2", "PYTHONWARNINGS=error", "SOURCE_DATE_EPOCH=nonsense"),
        *("CFLAGS=-O0 -march=native -DNOTHING", "LDFLAGS=-lnothing", "GCC_EXEC_PREFIX=/nonexistent/"),
        *("DIST_EXTRA_CONFIG=/nonexistent", "SCCACHE_RECACHE", "the store's path: 'café/store'"),
        *("the store's path: 'with space/store'", "the store's path: 'link'", "all closed", "stderr full"),
        *("16 open files", "files of 10 kB", "umask 777", "SIGCHLD ignored", "every signal blocked"),
        *("the clock in 1970", "the clock in 2040", "400 MB of addresses"),
    }
)
"""The environments in which a wheel is built."""


def make_arena(arena: Path) -> None:
    """The files that the environments name."""
    for name in ("with space", "emptybin", "fakes", "modules", "gone", "café", "xdg", "bytes\udcff"):
        (arena / name).mkdir(parents=True)
    (arena / "file").write_text("a file\n")
    for name in ("python3", "env", "sh", "git", "ninja", "sccache", "uname", "ld", "setpriv", "unshare"):
        path = arena / "fakes" / name
        path.write_text("#!/bin/false\n")
        path.chmod(0o755)
    for name in ("json", "click", "pip", "mambaport", "torch", "setuptools"):
        (arena / "modules" / f"{name}.py").write_text("raise SystemExit('a module of the current folder')\n")
    (arena / "stdio.h").write_text("#error the wrong stdio.h\n")


def _homes(arena: Path) -> Iterator[Surroundings]:
    for name, value in {
        "missing": None,
        "empty": "",
        "of a folder that does not exist": "/nonexistent/home",
        "read-only": "/proc",
        "a file": "/dev/null",
        "with spaces": str(arena / "with space"),
        "relative": ".",
        "not UTF-8": str(arena / "bytes\udcff"),
        "with a line end": "/tmp/a\nb",
        "very long": "/" + "x/" * 3000,
    }.items():
        yield Surroundings(f"HOME {name}", {"HOME": value})
    yield Surroundings("XDG_CACHE_HOME relative", {"XDG_CACHE_HOME": "cache"})
    yield Surroundings("XDG_CONFIG_HOME a file", {"XDG_CONFIG_HOME": str(arena / "file")})
    yield Surroundings("no store can be made", {"MAMBAPORT_CACHE": "/proc/store"}, codes=(10, 12))
    yield Surroundings("the store is a file", {"MAMBAPORT_CACHE": str(arena / "file")}, codes=(10, 12))
    yield Surroundings("the store is a device", {"MAMBAPORT_CACHE": "/dev/null/store"}, codes=(10, 12))


def _temporary_folders(arena: Path) -> Iterator[Surroundings]:
    for name, value in {
        "missing": None,
        "empty": "",
        "does not exist": "/nonexistent/tmp",
        "a file": str(arena / "file"),
        "read-only": "/proc",
        "with spaces": str(arena / "with space"),
        "not ASCII": str(arena / "café"),
        "not UTF-8": str(arena / "bytes\udcff"),
        "relative": "tmp",
        "very long": str(arena) + "/x" * 3000,
    }.items():
        yield Surroundings(f"TMPDIR {name}", {"TMPDIR": value})
    yield Surroundings("TEMP and TMP odd", {"TEMP": "/proc", "TMP": "\\", "TMPDIR": None})


def _paths(arena: Path) -> Iterator[Surroundings]:
    path = os.environ["PATH"]
    lacking = (0, 10, 12)  # without a compiler, zig is needed, which is not in the store
    yield Surroundings("PATH missing", {"PATH": None}, codes=lacking)
    yield Surroundings("PATH empty", {"PATH": ""}, codes=lacking)
    yield Surroundings("PATH without compilers", {"PATH": str(arena / "emptybin")}, codes=(10, 12))
    yield Surroundings("PATH not found", {"PATH": "/nonexistent"}, codes=lacking)
    for name, value in {
        "with the current folder": f".:{path}",
        "with empty parts": f":{path}::",
        "with spaces": f"{arena / 'with space'}:{path}",
        "not UTF-8": f"{arena / 'bytes'}\udcff:{path}",
        "with files": f"{arena / 'file'}:/dev/null:{path}",
        "very long": ":".join(["/nonexistent/" + "x" * 50] * 1000) + f":{path}",
    }.items():
        yield Surroundings(f"PATH {name}", {"PATH": value})
    fakes = f"{arena / 'fakes'}:{path}"
    yield Surroundings("programs of PATH that fail", {"PATH": fakes}, codes=(0, 10, 12, 13))


def _locales() -> Iterator[Surroundings]:
    known = ("C", "POSIX", "C.UTF-8", "de_DE.ISO-8859-1", "tr_TR.UTF-8", "ja_JP.eucJP")
    for value in (*known, "xx", "", "\udcff"):
        yield Surroundings(f"LC_ALL={value!a}", {"LC_ALL": value})
    yield Surroundings("LANG and LANGUAGE", {"LANG": "de_DE.ISO-8859-1", "LANGUAGE": "de:tr", "LC_ALL": None})
    for value in ("ascii", "latin-1", "utf-16", "cp037", "ascii:strict"):
        readable = value not in ("utf-16", "cp037")
        yield Surroundings(f"PYTHONIOENCODING={value}", {"PYTHONIOENCODING": value}, output=readable)
    yield Surroundings("PYTHONUTF8=0 in C", {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})
    yield Surroundings("PYTHONUTF8=1", {"PYTHONUTF8": "1", "LC_ALL": "de_DE.ISO-8859-1"})
    yield Surroundings("TZ wrong", {"TZ": "Nowhere/Town"})
    yield Surroundings("TZ far east", {"TZ": "XXX-14"})


def _python_variables(arena: Path) -> Iterator[Surroundings]:
    for text in (
        "PYTHONOPTIMIZE=1",
        "PYTHONOPTIMIZE=2",
        "PYTHONHASHSEED=0",
        "PYTHONHASHSEED=4294967295",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
        "PYTHONWARNINGS=error",
        "PYTHONWARNINGS=nonsense",
        "PYTHONFAULTHANDLER=1",
        "PYTHONTRACEMALLOC=5",
        "PYTHONDEVMODE=1",
        "PYTHONNOUSERSITE=1",
        "PYTHONUSERBASE=/nonexistent",
        "PYTHONSAFEPATH=1",
        "PYTHONPYCACHEPREFIX=/nonexistent",
        "PYTHONPATH=/nonexistent:relative:",
        "PYTHONSTARTUP=/nonexistent.py",
        "PYTHONMALLOC=debug",
        "PYTHONINTMAXSTRDIGITS=640",
        "PYTHONNODEBUGRANGES=1",
        "PYTHONPLATLIBDIR=lib64x",
        "PYTHONBREAKPOINT=os.abort",
    ):
        name, _, value = text.partition("=")
        # With PYTHONPLATLIBDIR, Python finds no compiled module of its own.
        yield Surroundings(text, {name: value}, codes=(0, 1) if name == "PYTHONPLATLIBDIR" else (0,))
    yield Surroundings("PYTHONPATH with spaces", {"PYTHONPATH": str(arena / "with space")})
    for text in (
        "PIP_TARGET=/nonexistent",
        "PIP_CONFIG_FILE=/nonexistent",
        "PIP_INDEX_URL=nonsense",
        "PIP_REQUIRE_VIRTUALENV=1",
        "PIP_NO_INDEX=1",
        "PIP_PYTHON=/nonexistent",
        "PIP_CERT=/nonexistent",
        "PIP_TIMEOUT=soon",
    ):
        name, _, value = text.partition("=")
        yield Surroundings(text, {name: value}, codes=(0, 2))


def _build_variables(arena: Path) -> Iterator[Surroundings]:
    for text in (
        "SOURCE_DATE_EPOCH=0",
        "SOURCE_DATE_EPOCH=nonsense",
        "CFLAGS=-O0 -march=native -DNOTHING",
        "CPPFLAGS=-fno-nothing",
        "LDFLAGS=-lnothing",
        "LDSHARED=/bin/false",
        f"CPATH={arena}",
        f"C_INCLUDE_PATH={arena}",
        "LIBRARY_PATH=/nonexistent",
        "LD_LIBRARY_PATH=/nonexistent",
        "COMPILER_PATH=/nonexistent",
        "GCC_EXEC_PREFIX=/nonexistent/",
        "MAKEFLAGS=-j99 -n",
        "NINJA_STATUS=%q",
        "DISTUTILS_DEBUG=1",
        "DIST_EXTRA_CONFIG=/nonexistent",
        "SETUPTOOLS_USE_DISTUTILS=stdlib",
        "CAUSAL_CONV1D_BUILD_CUDA=TRUE",
        "CAUSAL_CONV1D_LOCAL_VERSION=mine",
        "MAMBAPORT_BUILD_CONFIG=/nonexistent",
        "MAMBAPORT_UNKNOWN=1",
        "http_proxy=nonsense://",
        "https_proxy=http://127.0.0.1:1",
        "no_proxy=*",
        "GIT_DIR=/nonexistent",
        "TERM=dumb",
        "TERM=nonsense",
        "COLUMNS=1",
        "COLUMNS=nonsense",
        "LINES=0",
        "NO_COLOR=1",
        "FORCE_COLOR=1",
        "POSIXLY_CORRECT=1",
        "GCC_COLORS=nonsense",
        "TMOUT=1",
        "IFS=/",
        "BASH_ENV=/nonexistent",
        "ENV=/nonexistent",
    ):
        name, _, value = text.partition("=")
        yield Surroundings(text, {name: value})
    yield Surroundings("SCCACHE_RECACHE", {"SCCACHE_RECACHE": "1"})
    yield Surroundings("SCCACHE_IDLE_TIMEOUT", {"SCCACHE_IDLE_TIMEOUT": "1"})
    yield Surroundings("a variable of 100 kB", {"LARGE": "x" * 100_000})
    yield Surroundings("3000 variables", {f"V{number}": "x" for number in range(3000)})
    yield Surroundings("a variable that is not UTF-8", {"ODD\udcff": "\udcfe"})


def _stores() -> Iterator[Surroundings]:
    for name in (
        "with space/store",
        "café/store",
        "quote'\"store",
        "semi;colon&store",
        "per%cent#store",
        "-dash",
        "~tilde",
        "new/../store",
        "colon:store",
        "comma,store",
        "star*[x]?store",
        "back\\slash",
        "equal=store",
        "tab\tstore",
        "at@store",
        "(paren)",
        "link",
        "long/" + "d" * 60 + "/" + "e" * 60,
    ):
        yield Surroundings(f"the store's path: {name[:30]!r}", store=name)
    for name in ("bra{ce}", "dol$lar", "line\nend", "bytes\udcff/store"):
        yield Surroundings(f"the store's path: {name!a}", store=name, codes=(0, 2))
    for name in ("with space/house", "café/house", "bytes\udcff/house", "-house", "a/b/c/house"):
        yield Surroundings(f"the wheelhouse's path: {name!a}", house=name)


def _streams(arena: Path) -> Iterator[Surroundings]:
    def on(path: str, *numbers: int) -> Callable[[], None]:
        def prepare() -> None:
            handle = os.open(path, os.O_RDWR if path.startswith("/dev") else os.O_RDONLY)
            for number in numbers:
                os.dup2(handle, number)

        return prepare

    def pipe(number: int) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, number)

    yield Surroundings("stdin closed", prepare=lambda: os.close(0))
    # Python itself refuses a folder, with exit code 1, before it reads the program.
    yield Surroundings("stdin a folder", prepare=on(str(arena), 0), codes=(1,), output=False)
    yield Surroundings("stdout closed", prepare=lambda: os.close(1), output=False)
    yield Surroundings("stderr closed", prepare=lambda: os.close(2))
    yield Surroundings("all closed", prepare=lambda: os.closerange(0, 3), output=False)
    yield Surroundings("stdin and stderr closed", prepare=lambda: (os.close(0), os.close(2)))
    yield Surroundings("stdout full", prepare=on("/dev/full", 1), codes=(12,), output=False)
    yield Surroundings("stderr full", prepare=on("/dev/full", 2))
    yield Surroundings("stdout a closed pipe", prepare=lambda: pipe(1), codes=(141,), output=False)
    yield Surroundings("stderr a closed pipe", prepare=lambda: pipe(2))
    yield Surroundings("many open files", prepare=lambda: [os.open("/dev/null", 0) for _ in range(200)])


def _limits() -> Iterator[Surroundings]:
    def limit(which: int, soft: int, hard: int | None = None) -> Callable[[], None]:
        return lambda: resource.setrlimit(which, (soft, soft if hard is None else hard))

    everything = resource.RLIM_INFINITY
    yield Surroundings("64 open files, soft", prepare=limit(resource.RLIMIT_NOFILE, 64, 4096))
    for number in (8, 16, 24, 40, 64):
        few = limit(resource.RLIMIT_NOFILE, number)
        yield Surroundings(f"{number} open files", prepare=few, codes=(0, 1, 12, 13), output=number > 16)
    yield Surroundings("no core files", prepare=limit(resource.RLIMIT_CORE, 0))
    yield Surroundings("core files", prepare=limit(resource.RLIMIT_CORE, everything))
    yield Surroundings("files of 10 kB", prepare=limit(resource.RLIMIT_FSIZE, 10_000), codes=(12, 13))
    empty = limit(resource.RLIMIT_FSIZE, 0)
    yield Surroundings("files of no byte", prepare=empty, codes=(12, 13), output=False)
    for size in (100, 200, 400, 1000):
        memory = limit(resource.RLIMIT_AS, size << 20)
        yield Surroundings(f"{size} MB of addresses", prepare=memory, codes=(0, 12, 13))
    yield Surroundings("a stack of 256 kB", prepare=limit(resource.RLIMIT_STACK, 256 << 10), codes=(0, 13))
    yield Surroundings("an unlimited stack", prepare=limit(resource.RLIMIT_STACK, everything))
    for mask in (0o000, 0o027, 0o077, 0o477, 0o777):
        yield Surroundings(f"umask {mask:03o}", prepare=lambda mask=mask: os.umask(mask))
    yield Surroundings("the lowest priority", prepare=lambda: os.nice(19))


def _signals() -> Iterator[Surroundings]:
    def ignore(number: signal.Signals) -> Callable[[], object]:
        return lambda: signal.signal(number, signal.SIG_IGN)

    for name in ("SIGCHLD", "SIGHUP", "SIGINT", "SIGTERM", "SIGPIPE", "SIGALRM", "SIGXFSZ", "SIGTTOU"):
        yield Surroundings(f"{name} ignored", prepare=ignore(getattr(signal, name)))
    every = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    yield Surroundings(
        "every signal blocked", prepare=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, every)
    )


def _folders(arena: Path) -> Iterator[Surroundings]:
    def deleted() -> None:
        os.chdir(arena / "gone")
        (arena / "gone").rmdir()

    def deep() -> None:
        os.chdir(arena)
        for _ in range(40):
            Path("d" * 120).mkdir(exist_ok=True)
            os.chdir("d" * 120)

    yield Surroundings("cwd deleted", prepare=deleted, codes=(12,))
    yield Surroundings("cwd with modules", prepare=lambda: os.chdir(arena / "modules"))
    yield Surroundings("cwd not UTF-8", prepare=lambda: os.chdir(arena / "bytes\udcff"))
    yield Surroundings("cwd with spaces", prepare=lambda: os.chdir(arena / "with space"))
    yield Surroundings("cwd /", prepare=lambda: os.chdir("/"))
    yield Surroundings("cwd /proc/self", prepare=lambda: os.chdir("/proc/self"))
    yield Surroundings("cwd deeper than a path may be", prepare=deep, codes=(0, 12))


def _clocks(arena: Path) -> Iterator[Surroundings]:
    """``clock.so`` is made by the test. Without a compiler there is none: ordinary environments."""
    years = {"1970": 86_400, "1979": 283_996_800, "2000": 946_684_800, "2040": 2_208_988_800}
    for name, seconds in years.items():
        clock = {"LD_PRELOAD": str(arena / "clock.so"), "CLOCK": str(seconds)}
        yield Surroundings(f"the clock in {name}", clock)
    yield Surroundings("LD_PRELOAD not found", {"LD_PRELOAD": "/nonexistent.so"})
