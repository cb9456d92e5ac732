"""Running programs: output kept and logged, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mambaport import activity, process


def gone(pid: int) -> bool:
    """Whether a process ended within a few seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_output_and_errors_come_together_with_the_exit_status() -> None:
    finished = process.run(["sh", "-c", "echo one; echo two >&2; exit 3"])
    assert (finished.output, finished.returncode, finished.ok) == ("one\ntwo\n", 3, False)


def test_the_command_and_its_output_are_appended_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process.run(["echo", "a b"], log=log)
    process.run(["echo", "second"], log=log)
    assert log.read_text() == "$ echo 'a b'\na b\n$ echo second\nsecond\n"


def test_an_argument_that_is_not_utf_8_is_escaped_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process.run(["true", "/tmp/\udcff"], log=log)
    assert log.read_text() == "$ true '/tmp/\\udcff'\n"


def test_bytes_that_are_not_text_do_not_stop_a_run(tmp_path: Path) -> None:
    finished = process.run(["printf", r"\377ok\n"], log=tmp_path / "log")
    assert finished.output.endswith("ok\n")


def test_the_tail_is_the_last_lines() -> None:
    finished = process.run(["seq", "100"])
    assert finished.tail.splitlines() == [str(n) for n in range(71, 101)]
    assert process.run(["seq", "100"], keep_lines=2).output == "99\n100\n"


def test_each_line_is_shown_as_it_comes() -> None:
    seen: list[str] = []
    process.run(["sh", "-c", "echo one; echo two"], on_line=seen.append)
    assert seen == ["one\n", "two\n"]


def test_the_environment_is_replaced_when_given() -> None:
    assert process.run(["/usr/bin/env"], env={"ONLY": "this"}).output == "ONLY=this\n"


def test_a_program_that_is_not_there_is_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError):
        process.run(["no-such-program-anywhere"])


def test_a_program_cannot_wait_for_input() -> None:
    assert process.run(["cat"]).output == ""


@pytest.mark.parametrize(
    "script",
    [
        "sleep 300 & echo $!; wait",  # sh starts the job deaf to SIGINT
        "(trap '' INT TERM; echo $$; exec sleep 300)",
        "sh -c 'echo $$; exec sleep 300'; true",
    ],
    ids=["a job in the background", "deaf to signals", "a child of a child"],
)
def test_an_interrupt_ends_the_whole_group(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)
    started: list[int] = []

    def interrupt(line: str) -> None:
        started.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run(["sh", "-c", script], on_line=interrupt)
    assert gone(started[0])


PARENT = """
import sys
from mambaport import process
process.run(["sh", "-c", f"echo $$ > {sys.argv[1]}; exec sleep 300"])
"""


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file)])
    while not (file.is_file() and file.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    child = int(file.read_text())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(child)


DAEMON = """
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen(["sleep", "300"], start_new_session=True)  # leaves the group and the session
Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid} ")
if len(sys.argv) > 2:
    time.sleep(300)
"""
ANY_PARENT = """
import sys
from mambaport import process
process.run([sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_grandchildren_in_sessions_of_their_own_end_when_mambaport_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    script, file = tmp_path / "daemon.py", tmp_path / "pids"
    script.write_text(DAEMON)
    parent = subprocess.Popen([sys.executable, "-c", ANY_PARENT, script, file, "stay"])
    while not (file.is_file() and file.read_text().count(" ") == 2):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.send_signal(number)
    parent.wait()
    assert all(gone(int(pid)) for pid in file.read_text().split())


def test_what_a_program_leaves_running_ends_with_the_program(tmp_path: Path) -> None:
    script, file = tmp_path / "daemon.py", tmp_path / "pids"
    script.write_text(DAEMON)
    started = time.monotonic()
    assert process.run([sys.executable, script, file]).ok
    assert time.monotonic() - started < 60
    assert all(gone(int(pid)) for pid in file.read_text().split())


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1"])
def test_no_locale_adds_a_variable(locale: str) -> None:
    assert process.run(["/usr/bin/env"], env={"LC_ALL": locale}).output == f"LC_ALL={locale}\n"


def test_a_program_for_another_machine_is_an_os_error(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + bytes(60))
    program.chmod(0o755)
    with pytest.raises(OSError, match="Exec format error"):
        process.run([program])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGPIPE])
def test_the_signal_that_ended_a_program_is_its_return_code(number: signal.Signals) -> None:
    assert process.run(["sh", "-c", f"kill -{int(number)} $$"]).returncode == -number


def test_signals_that_python_ignores_are_not_ignored_in_a_program() -> None:
    """SIGQUIT, for one, stays ignored where mambaport was started so, as a shell's background job is."""
    status = process.run(["grep", "SigIgn", "/proc/self/status"]).output
    ignored = int(status.split()[1], 16)
    restored = ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
    for number in (signal.Signals[name] for name in restored):
        assert not ignored >> (number - 1) & 1, number


def test_a_program_may_print_while_it_cleans_up_after_ctrl_c(tmp_path: Path) -> None:
    """Its output is read no more, and the pipe stays open until it has ended."""
    trap = f"trap 'echo cleaning; touch {tmp_path}/cleaned; exit' INT; echo up; while :; do sleep 0.01; done"

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run(["bash", "-c", trap], on_line=interrupt)
    assert (tmp_path / "cleaned").exists()


def test_a_program_that_stands_still_is_ended_with_its_descendants(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    finished = process.run(["sh", "-c", f"echo before; sleep 30 & echo $! > {file}; wait"], stalled_after=2.0)
    assert finished.stalled
    assert not finished.ok
    assert finished.output == "before\n"
    assert gone(int(file.read_text()))


@pytest.mark.parametrize(
    "script",
    [
        "end=$(( $(date +%s) + 3 )); while [ $(date +%s) -lt $end ]; do :; done",  # its children work
        "exec python3 -c 'import time; end = time.time() + 2.5\nwhile time.time() < end: pass'",
    ],
)
def test_a_program_that_works_may_be_silent_for_long(script: str) -> None:
    finished = process.run(["sh", "-c", script], stalled_after=1.0)
    assert (finished.ok, finished.stalled) == (True, False)


def test_a_program_may_wait_for_another_that_works(tmp_path: Path) -> None:
    """A compiler's client, for the server that compiles."""
    words = ["sh", "-c", "while :; do :; done"]
    with process.background(words, env=os.environ, log=tmp_path / "log"):
        finished = process.run(["sleep", "2.5"], stalled_after=1.0)
    assert (finished.ok, finished.stalled) == (True, False)


def test_a_program_that_ends_in_time_was_not_still() -> None:
    assert not process.run(["sleep", "0.2"], stalled_after=1.0).stalled


def test_time_in_which_no_line_is_read_does_not_count() -> None:
    """ctrl-S in a terminal stops mambaport, and then the program at its full pipe."""
    finished = process.run(["echo", "line"], stalled_after=0.5, on_line=lambda _line: time.sleep(1.5))
    assert (finished.ok, finished.stalled) == (True, False)


def proc(folder: Path, **rows: str) -> Path:
    """A folder in the form of /proc. A row: the state, the parent and utime of a process or of its thread."""
    for name, row in {"1": "S 0 0", **rows}.items():
        state, parent, ticks = row.split()
        pid, _, thread = name.strip("p").partition("t")
        path = folder / pid / ("task/" + thread if thread else "") / "stat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{pid} (a name) S) {state} {parent} 0 0 0 0 0 0 0 0 0 {ticks} 0 100 0 20 0")
    (folder / "self").symlink_to(str(os.getpid()))
    return folder


@pytest.mark.parametrize(("state", "busy"), [("S", False), ("R", True), ("D", True), ("T", False)])
def test_a_thread_that_is_ready_to_run_is_active_without_processor_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, busy: bool
) -> None:
    own = str(os.getpid())
    rows = {own: "S 1 7", "p90": f"S {own} 100", "p90t90": f"S {own} 100", "p90t91": f"{state} {own} 0"}
    monkeypatch.setattr(activity, "_PROC", proc(tmp_path, **rows, p80="R 1 500", p80t80="R 1 500"))
    found = activity.activity()
    assert found is not None
    hertz = os.sysconf("SC_CLK_TCK")
    # This process's own children that have ended, the child, and the child's own that have ended.
    assert (found.busy, round(found.seconds * hertz)) == (busy, 100 + 100 + 100)


def test_the_processes_of_another_namespace_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = proc(tmp_path)
    (folder / "self").unlink()
    (folder / "self").symlink_to("1")
    monkeypatch.setattr(activity, "_PROC", folder)
    assert activity.activity() is None
    assert not process.run(["sleep", "1.5"], stalled_after=0.5).stalled


def test_a_program_in_a_namespace_without_its_own_proc_ends_nothing_else() -> None:
    """There /proc has the numbers of other processes, and these numbers may be this namespace's too."""
    inside = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no namespaces")
    code = "from mambaport import process; print(process.run(['sh', '-c', 'sleep 30 & exit 3']).returncode)"
    words = [*inside, sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
