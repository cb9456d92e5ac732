"""Results on stdout, the rest on stderr; nothing cut in a pipe; a long step says that it goes on."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import Run

from mambaport.report import Report, counted

LONG = "sudo apt-get install " + " ".join(f"package-number-{number}" for number in range(40))


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
def test_results_go_to_stdout(
    run: Run, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO("NameError: name 'bare_metal_version' is not defined")
    monkeypatch.setattr(sys, "stdin", text)
    ran = run(*words)
    assert ran.code == 0, ran.err
    assert said in ran.out
    assert said not in ran.err


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


def test_a_long_step_says_how_far_it_is_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(every=0.05)
    with report.working("build", "mamba-ssm 2.2.4") as latest:
        latest("[3/29] nvcc selective_scan_fwd_fp16.cu\n")
        time.sleep(0.12)
        latest("ptxas info\n")
        latest('{"an answer": "for mambaport"}\n')
        time.sleep(0.12)
    said = capsys.readouterr().err
    assert "build    mamba-ssm 2.2.4: 0 s  3 of 29 files  nvcc selective_scan_fwd_fp16.cu" in said
    assert "3 of 29 files  ptxas info" in said
    assert "answer" not in said
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


def test_a_table_in_a_pipe_has_no_spaces_at_the_ends_of_lines(run: Run) -> None:
    ran = run("profiles")
    assert "jetson-orin" in ran.out
    assert not [line for line in ran.out.splitlines() if line != line.rstrip()]


def test_a_table_that_stderr_cannot_take_is_lost_and_work_goes_on() -> None:
    """With --json, tables go to stderr."""
    code = "from mambaport.report import Report; Report(as_json=True).show('a table')"
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([sys.executable, "-c", code], stderr=full, check=False).returncode == 0
