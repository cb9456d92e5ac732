"""Results on stdout, the rest on stderr; nothing cut in a pipe; a long step says that it goes on."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mambaport.report import Report, counted

LONG = "sudo apt-get install " + " ".join(f"package-number-{number}" for number in range(40))


def mambaport(
    *words: str, env: dict[str, str] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mambaport", *words]
    environ = {**os.environ, **(env or {})}
    return subprocess.run(command, text=True, env=environ, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "rpi"), "causal_conv1d-1.6.0.tar.gz"),
        (("profiles",), "jetson-orin"),
        (("doctor",), "network isolation"),
        (("cache", "info"), "archives"),
        (("patches", "list"), "revision"),
        (("doctor", "--explain", "-"), "B1"),
    ],
)
def test_results_go_to_stdout(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    text = "NameError: name 'bare_metal_version' is not defined"
    ran = mambaport(*words, env={"MAMBAPORT_CACHE": str(tmp_path)}, input=text, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert said in ran.stdout
    assert said not in ran.stderr


@pytest.mark.parametrize("columns", ["20", "80"])
def test_nothing_is_cut_or_wrapped_in_a_pipe(columns: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from mambaport.report import Report; r = Report(); text = sys.argv[1]\n"
    code += "r.line('x', text); r.result('x', text); r.warn(text)"
    ran = subprocess.run(
        [sys.executable, "-c", code, LONG],
        env={**os.environ, "COLUMNS": columns, "TERM": "xterm"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr.count(LONG) == 2
    assert ran.stdout.count(LONG) == 1


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "mambaport", "show", "rpi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdout is not None
        ran.stdout.close()
        assert ran.stderr is not None
        assert ran.stderr.read() == b""
    assert ran.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("words", "out", "err", "code"),
    [
        (("show", "rpi"), "/dev/full", "/dev/null", 12),
        (("show", "rpi", "--json"), "/dev/full", "/dev/null", 12),
        (("show", "rpi"), "/dev/null", "/dev/full", 0),
        (("show", "nothing"), "/dev/null", "/dev/full", 2),
        (("show", "nothing", "--json"), "/dev/full", "/dev/full", 2),
        (("no-such-command",), "/dev/null", "/dev/full", 2),
        (("show", "nothing", "--debug"), "/dev/null", "/dev/full", 2),
    ],
)
def test_a_full_device_gives_a_code(words: tuple[str, ...], out: str, err: str, code: int) -> None:
    with Path(out).open("w") as stdout, Path(err).open("w") as stderr:
        assert mambaport(*words, stdout=stdout, stderr=stderr).returncode == code


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("name", "code"), [("rpi", 0), ("nothing", 2)])
def test_closed_streams_change_no_exit_code(closed: str, name: str, code: int) -> None:
    line = f'"$0" -m mambaport show {name} {closed}'
    ran = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_long_step_says_how_far_it_is_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(every=0.05)
    with report.working("build", "mamba-ssm 2.2.4") as latest:
        latest("[3/29] nvcc selective_scan_fwd_fp16.cu\n")
        time.sleep(0.12)
        latest("ptxas info\n")
        time.sleep(0.12)
    said = capsys.readouterr().err
    assert "build    mamba-ssm 2.2.4: 0 s  3 of 29 files  nvcc selective_scan_fwd_fp16.cu" in said
    assert "3 of 29 files  ptxas info" in said
    before = said.count("\n")
    time.sleep(0.12)
    assert capsys.readouterr().err == "", f"{before} lines, and none after the step"


def test_a_long_step_counts_files_on_a_terminal() -> None:
    code = (
        "import time; from mambaport.report import Report\n"
        "with Report().working('build', 'demo') as latest:\n"
        "    latest('[3/29] nvcc a.cu'); time.sleep(0.4)\n"
    )
    environ = {**os.environ, "TERM": "xterm"}
    reader, writer = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=writer, env=environ) as ran:
        assert ran.wait(30) == 0
    os.close(writer)
    assert b"3 of 29 files" in os.read(reader, 65536)
    os.close(reader)


def test_one_is_singular() -> None:
    assert [counted(number, "wheel") for number in (0, 1, 2)] == ["0 wheels", "1 wheel", "2 wheels"]
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(3, "entry", "entries") == "3 entries"
