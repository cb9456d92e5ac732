"""The command line: one thin file per command. The stages do the work."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TextIO

import click

from mambaport import __version__, interruption
from mambaport.errors import DISK_FULL, HostError, Interrupted, MambaportError, UsageError, disk_full
from mambaport.redaction import redact, redact_all
from mambaport.report import escape, open_console
from mambaport.temporary import own_temporary_folder

EXAMPLES = """\b
Examples:
  mambaport build --profile rpi                 wheels for a Raspberry Pi, on any machine
  mambaport verify -p rpi --emulate             prove them on an emulated aarch64 system
  mambaport install -p rpi --python venv/bin/python    on the Pi itself
  mambaport infer --image cat.jpg               the classes of an image, by Vision Mamba
  mambaport doctor -p rpi                       what this machine lacks, and the hint

\b
Exit codes: 0 done, 2 usage, 10 fetch, 11 patch, 12 machine or toolchain, 13 build,
14 audit, 15 install, 16 verify, 17 run, 18 index, 130 interrupted (ctrl-C, SIGTERM, SIGHUP).
"""


COMMANDS = (
    "profiles",
    "show",
    "fetch",
    "patch",
    "build",
    "audit",
    "rebuild",
    "index",
    "matrix",
    "install",
    "verify",
    "infer",
    "evaluate",
    "bench",
    "export",
    "adopt",
    "doctor",
    "patches",
    "cache",
)
"""The commands: each is a module of this package, with a function of the same name."""


class Commands(click.Group):
    """Imports a command's module when the command runs: a start costs only what the command needs."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXAMPLES,
)
@click.version_option(__version__, prog_name="mambaport")
def cli() -> None:
    """Builds, proves and installs Mamba for ARM edge devices.

    mambaport fetches the pinned sources of causal-conv1d and mamba-ssm, applies the patch sets of a target
    profile, builds wheels on whatever machine it is started on, audits them, and installs them. Vision Mamba
    runs on what was installed.
    """


def main() -> NoReturn:
    """The entry point: runs a command, and turns every failure into a message and an exit code."""
    interruption.start()
    _open_streams()
    arguments = sys.argv[1:]
    try:
        code = _run(arguments)
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        sys.exit(code)
    except KeyboardInterrupt:  # between the end of the work and the message
        interruption.end()
        sys.exit(Interrupted.exit_code)


def _run(arguments: list[str]) -> int:
    """Runs a command, and prints its failure. Returns the exit code."""
    try:
        try:
            _prepare()
            with own_temporary_folder():
                cli.main(args=arguments, prog_name="mambaport", standalone_mode=False)
        finally:
            interruption.end()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (BrokenPipeError, SystemExit):  # `mambaport show rpi | head`: the reader has closed the pipe
        _drop(sys.stdout)  # click raises SystemExit for nothing else where standalone_mode is off
        return PIPE_CLOSED
    except (Exception, KeyboardInterrupt) as fault:
        interruption.end()
        if isinstance(fault, click.ClickException) and "--json" not in arguments:
            with contextlib.suppress(OSError):
                fault.show()
            return UsageError.exit_code
        error = error_of(fault)
        if "--debug" in arguments and not isinstance(error, Interrupted):
            _trace()
        return _print_error(error, arguments)
    return _finish(arguments)


PIPE_CLOSED = 128 + signal.SIGPIPE
OPEN_FILES = 1024
"""The least number of files that a process may have open, where the system allows the number."""


def _open_streams() -> None:
    """Gives stdin, stdout and stderr that the caller has closed to the null device.

    A file of mambaport's that got the number of such a stream would be written to by the programs it starts.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(number, True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - open while the process runs
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # names in an encoding that the terminal lacks are escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _prepare() -> None:
    """Puts right what the caller's settings would make fail.

    Raises:
        HostError: the current folder was deleted.
    """
    os.umask(os.umask(0o022) & 0o077)  # files of mambaport are readable and writable by their owner
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        Path.cwd()
    except FileNotFoundError:
        raise HostError(
            "The current folder does not exist any more",
            found="a folder that was deleted",
            expected="a folder, because relative paths and the wheelhouse begin there",
            hint="change to another folder (cd), then run the same command again",
        ) from None


def _finish(arguments: list[str]) -> int:
    """Flushes the results. Returns the exit code: 0, or an error's where stdout cannot take the results."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout)
        return PIPE_CLOSED
    except OSError as fault:
        _drop(sys.stdout)
        fault.filename = fault.filename or "stdout"
        return _print_error(_unforeseen(fault), [word for word in arguments if word != "--json"])
    return 0


def _flush(stream: TextIO) -> None:
    """Flushes a stream. A failure is ignored: Python would end with a traceback and another exit code."""
    try:
        stream.flush()
    except OSError:
        _drop(stream)


def _drop(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_RUN_AGAIN = "nothing half-done was kept; run the same command again to go on"


def error_of(fault: BaseException) -> MambaportError:
    """The error that a command's exception stands for."""
    if isinstance(fault, MambaportError):
        return fault
    if isinstance(fault, (click.exceptions.Abort, KeyboardInterrupt)):
        return Interrupted("Interrupted", hint=_RUN_AGAIN)
    if isinstance(fault, click.ClickException):
        return UsageError(fault.format_message())
    return _unforeseen(fault)


def _unforeseen(fault: BaseException) -> MambaportError:
    """The error for an exception that no stage has caught: a refusal of the system, or a bug."""
    if isinstance(fault, OSError) and fault.errno in DISK_FULL:
        return disk_full(str(fault.filename or "a file"))
    if isinstance(fault, OSError):
        return HostError(
            f"The system refused: {fault.strerror or fault}",
            found=str(fault.filename or type(fault).__name__),
            hint="check that this path exists and may be written to; MAMBAPORT_CACHE moves the store",
        )
    if isinstance(fault, MemoryError) or "can't start new thread" in str(fault):
        return HostError(
            "The memory is full, or a limit is reached",
            found=f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__,
            hint="close other programs, or raise the limits (`ulimit -a`); then run the same command again",
        )
    return MambaportError(
        "mambaport itself has failed",
        found=f"{type(fault).__name__}: {fault}",
        hint="this is a bug; run the command again with --debug and report its output",
    )


def _trace() -> None:
    """Prints the traceback of the current exception, with passwords hidden."""
    with contextlib.suppress(OSError):
        click.echo(redact(traceback.format_exc()), err=True)


def _print_error(error: MambaportError, arguments: list[str]) -> int:
    """Prints an error: for people on stderr, and as one object on stdout with ``--json``."""
    console = open_console(stderr=True)
    console.print(f"[bad]error[/bad]    {escape(error.what)}", soft_wrap=True)
    for label, text in (("found", error.found), ("expected", error.expected), ("hint", error.hint)):
        if text:
            indented = text.replace("\n", "\n" + " " * 11)
            console.print(f"  [stage]{label:<9}[/stage]{escape(indented)}", soft_wrap=True)
    if error.detail:
        console.print(f"[quiet]{escape(error.detail)}[/quiet]", soft_wrap=True)
    if "--json" in arguments:
        try:
            click.echo(json.dumps(redact_all({**error.data, "error": error.to_json()}), indent=2))
            sys.stdout.flush()
        except OSError:  # stdout is full or closed; stderr has the error
            _drop(sys.stdout)
    _flush(sys.stderr)
    return error.exit_code
