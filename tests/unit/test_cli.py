"""The command line: help everywhere, one JSON object on stdout, and the documented exit codes."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest
from helpers import (
    EM_X86_64,
    HOST,
    SOURCE,
    aarch64_library,
    diff,
    for_machine,
    member,
    pin_of,
    read_tree,
    shared_library,
    use_patches,
    write_package,
    write_sdist,
    write_set,
    write_tree,
    write_wheel,
)

from mambaport import __version__, interruption
from mambaport.cli import cli, main
from mambaport.cuda.machine import read_cuda
from mambaport.host import read_host
from mambaport.patching import refresh_lock
from mambaport.patchset import PatchSet
from mambaport.resources import profiles_dir

LINUX_PI = "py3-none-linux_aarch64"


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the entry point in this process."""

    def call(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["mambaport", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Ran(left.value.code, captured.out, captured.err)

    before = {number: signal.getsignal(number) for number in (*interruption.SIGNALS, signal.SIGALRM)}
    hook = sys.unraisablehook
    yield call
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


def leaves(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from leaves(below, *words, name)
    else:
        yield words, command


COMMANDS = dict(leaves(cli))
IDS = [" ".join(words) for words in COMMANDS]


# Every command --------------------------------------------------------------------------------------------


def test_the_commands_are_those_of_the_design() -> None:
    assert set(IDS) == {
        "profiles",
        "rebuild",
        "show",
        "fetch",
        "patch",
        "build",
        "audit",
        "install",
        "verify",
        "adopt",
        "index",
        "matrix",
        "infer",
        "evaluate",
        "bench",
        "export",
        "doctor",
        "patches list",
        "patches check",
        "patches new",
        "patches refresh",
        "cache info",
        "cache pull",
        "cache push",
        "cache clean",
    }


def test_doctor_explains_a_text_a_file_and_standard_input(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "NameError: name 'bare_metal_version' is not defined"
    log = tmp_path / "build.log"
    log.write_text(f"running build\n{text}\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode() + b"\xff")))
    for words in ([text], [f"line one\n{text}\n" + "x" * 5000], [log], ["-"]):
        ran = run("doctor", "--explain", *words)
        assert (ran.code, ran.out.split()[0]) == (0, "B1"), ran
    ran = run("doctor", "--explain", tmp_path / "absent.log")
    assert ran.code == 2
    assert "no such file" in ran.err


def test_a_start_imports_only_what_its_command_needs() -> None:
    """On a Raspberry Pi these imports take seconds."""
    code = "import sys; from mambaport.cli import cli; cli(['profiles'], standalone_mode=False)"
    code += "; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"bs4", "cyclonedx", "PIL", "numpy", "mambaport.cli.bench"}.isdisjoint(ran.stdout.split())


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_every_command_has_help_and_explains_each_option(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: mambaport {' '.join(words)}")
    command = COMMANDS[words]
    assert command.help
    assert command.help.splitlines()[0] in " ".join(ran.out.split())
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{option.opts} has no help"


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_every_command_has_json_quiet_and_debug(words: tuple[str, ...]) -> None:
    options = {word for option in COMMANDS[words].params for word in option.opts}
    assert {"--json", "--quiet", "--debug"} <= options


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_an_unknown_option_exits_2_and_is_one_object_with_json(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words, "--no-such-option").code == 2
    ran = run(*words, "--no-such-option", "--json")
    assert ran.code == 2
    assert ran.json["error"]["kind"] == "usage"
    assert "--no-such-option" in ran.json["error"]["what"]


def test_the_help_of_the_group_names_every_exit_code(run: Run) -> None:
    text = run("--help").out
    for code in (
        "0 done",
        "2 usage",
        "10 fetch",
        "11 patch",
        "12 ",
        "13 build",
        "14 audit",
        "15 ",
        "16 ",
        "17 ",
        "130 ",
    ):
        assert code in text
    assert run("--version").out == f"mambaport, version {__version__}\n"


def test_an_unknown_command_exits_2(run: Run) -> None:
    assert run("bild").code == 2


# Errors ---------------------------------------------------------------------------------------------------


def test_an_error_goes_to_people_on_stderr_and_to_programs_as_one_object(run: Run) -> None:
    plain = run("show", "pi5")
    assert (plain.code, plain.out) == (2, "")
    assert "There is no profile pi5" in plain.err
    assert "mambaport profiles" in plain.err
    assert "Traceback" not in plain.err
    ran = run("show", "pi5", "--json")
    assert ran.code == 2
    assert ran.json["error"]["kind"] == "usage"
    assert ran.json["error"]["exit_code"] == 2
    assert ran.json["error"]["found"] == "pi5"


def test_debug_shows_the_traceback(run: Run) -> None:
    ran = run("show", "pi5", "--debug")
    assert ran.code == 2
    assert "Traceback (most recent call last)" in ran.err
    assert "mambaport.errors.UsageError: There is no profile pi5" in ran.err


def test_brackets_in_a_message_are_printed_as_they_are(run: Run) -> None:
    assert "[bold]pi" in run("show", "[bold]pi").err


# Commands that read ---------------------------------------------------------------------------------------


def test_profiles_lists_the_built_in_ones(run: Run) -> None:
    ran = run("profiles", "--json")
    assert ran.code == 0
    assert {"rpi-cpu", "cpu"} <= {profile["name"] for profile in ran.json["profiles"]}
    assert "rpi-cpu" in run("profiles").out


def test_show_resolves_an_alias_to_sources_patches_and_environment(run: Run) -> None:
    data = run("show", "rpi", "--json").json
    assert data["profile"] == "rpi-cpu"
    assert data["target"]["arch"] == "aarch64"
    packages = {package["name"]: package for package in data["packages"]}
    assert [source["filename"] for source in packages["mamba-ssm"]["sources"]] == [
        "mamba_ssm-2.2.4.tar.gz",
        "mamba_ssm-2.2.5.tar.gz",
    ]
    for package in packages.values():
        for item in package["patch_sets"]:
            assert all(len(patch["sha256"]) == 64 and patch["why"] for patch in item["patches"])
    assert run("show", "rpi").code == 0


def test_show_takes_the_profile_as_other_commands_do_and_names_its_gpus(run: Run) -> None:
    ran = run("show", "-p", "jetson", "--variant", "jetpack7")
    assert "sm_87, CUDA 13.0" in ran.out
    assert run("show", "jetson", "--variant", "jetpack7").out == ran.out
    assert "gpu " not in run("show", "rpi").out


@pytest.mark.parametrize("words", [(), ("rpi", "-p", "rpi")])
def test_show_needs_one_profile(run: Run, words: tuple[str, ...]) -> None:
    ran = run("show", *words)
    assert ran.code == 2
    assert "one profile" in ran.err


@pytest.mark.parametrize("command", ["doctor", "show", "build", "verify"])
def test_an_empty_name_is_no_profile(run: Run, command: str) -> None:
    ran = run(command, "-p", "")
    assert ran.code == 2
    assert "There is no profile" in ran.err


def test_patches_list_gives_every_patch_with_its_reason(run: Run) -> None:
    packages = run("patches", "list", "--json").json["packages"]
    assert {package["name"] for package in packages} >= {"causal-conv1d", "mamba-ssm"}
    assert all(patch["why"] for package in packages for item in package["sets"] for patch in item["patches"])
    assert run("patches", "list").code == 0


def test_patches_list_of_one_package(run: Run) -> None:
    answer = run("patches", "list", "causal-conv1d", "--json").json
    assert {package["name"] for package in answer["packages"]} == {"causal-conv1d"}
    assert answer["checkouts"] == []
    assert run("patches", "list", "Causal_Conv1d", "--json").json == answer
    unknown = run("patches", "list", "causal-conv2d")
    assert unknown.code == 2
    assert "nearest: causal-conv1d" in unknown.err


def test_doctor_says_what_this_machine_is(run: Run) -> None:
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert ran.json["host"]["arch"] == read_host().arch
    assert ran.json["ok"] is True
    assert read_host().arch in run("doctor").out


def test_doctor_for_a_profile_gives_a_hint_for_all_that_is_missing(run: Run) -> None:
    ran = run("doctor", "-p", "rpi", "--python", sys.executable, "--json")
    missing = [check for check in ran.json["checks"] if check["state"] == "missing"]
    assert ran.code == (12 if missing else 0)
    assert ("error" in ran.json) == bool(missing)
    assert all(check["hint"] for check in missing)
    assert {"toolchain", "disk"} <= {check["name"] for check in ran.json["checks"]}


@pytest.mark.skipif(read_host().arch != "x86_64", reason="the wheels of rpi run on this machine")
@pytest.mark.parametrize("words", [(), ("--python", sys.executable)], ids=["", "python"])
def test_doctor_says_whether_wheels_run_here_or_are_built_alone(run: Run, words: tuple[str, ...]) -> None:
    ran = run("doctor", "-p", "rpi", *words)
    assert ran.code == 0
    assert "this machine can build the wheels of rpi" in ran.out + ran.err
    assert "works on this machine" not in ran.out + ran.err


def test_doctor_takes_a_release_line_and_names_those_that_exist(run: Run) -> None:
    ran = run("doctor", "-p", "rpi", "--line", "9.9", "--json")
    assert ran.code == 2
    assert "9.9" in ran.json["error"]["what"]
    assert "2.2.4" in str(ran.json["error"])
    usual, named = (run("doctor", "-p", "rpi", *words, "--json") for words in ((), ("--line", "2.2.4")))
    assert named.code == usual.code
    assert named.json["checks"] == usual.json["checks"]


def test_cache_info_and_clean_know_what_is_in_the_store(run: Run, tmp_path: Path) -> None:
    assert run("cache", "info", "--json").json["entries"] == []
    write_tree(tmp_path / "store/wheels/demo-1", {"x": "x"})
    write_tree(tmp_path / "store/archives/abc", {"x": "x"})
    data = run("cache", "info", "--json").json
    assert {(entry["kind"], entry["key"]) for entry in data["entries"]} == {
        ("wheels", "demo-1"),
        ("archives", "abc"),
    }
    assert data["size"] == sum(entry["size"] for entry in data["entries"]) > 0
    write_tree(tmp_path / "store/logs", {"demo-1+cpu.1-abcdef01.log": "x"})
    assert run("cache", "clean", "--kind", "wheels", "--yes", "--json").json["removed"] == 1
    assert (tmp_path / "store/logs").is_dir()
    assert [entry["kind"] for entry in run("cache", "info", "--json").json["entries"]] == ["archives"]
    assert "1 entry and 1 log removed" in run("cache", "clean", "--yes").err
    assert run("cache", "info", "--json").json["entries"] == []
    left = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert left == ["archives", "scratch", "wheels"]


def test_cache_clean_removes_nothing_unasked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    write_tree(tmp_path / "store/wheels/demo-1", {"x": "x"})
    assert run("cache", "clean").code == 0
    assert len(run("cache", "info", "--json").json["entries"]) == 1


# audit, 14 ------------------------------------------------------------------------------------------------


def test_audit_of_a_good_wheel_is_0_and_of_a_foreign_one_14_with_the_reason(run: Run, tmp_path: Path) -> None:
    good = write_wheel(tmp_path / "good", {"demo/x.so": aarch64_library()}, tag=LINUX_PI)
    bad = write_wheel(tmp_path / "bad", {"demo/x.so": for_machine(shared_library(), EM_X86_64)}, tag=LINUX_PI)
    ran = run("audit", good, "-p", "rpi")
    assert ran.code == 0
    assert "are checked too" not in ran.err
    assert "with -p PROFILE, its instructions, glibc and GPUs are checked too" in run("audit", good).err
    assert run("audit", bad, "-p", "rpi").code == 14
    ran = run("audit", good, bad, "-p", "rpi", "--json")
    assert ran.code == 14
    assert [audit["ok"] for audit in ran.json["audits"]] == [True, False]
    assert "demo/x.so is for x86_64" in ran.json["error"]["found"]


def test_audit_on_a_jetson_is_for_its_own_jetpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = "# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic\n"
    write_tree(tmp_path, {"etc/nv_tegra_release": release})
    jetson = replace(HOST, arch="aarch64", cuda=read_cuda(tmp_path, {}))
    module = importlib.import_module("mambaport.cli.audit")
    monkeypatch.setattr(module, "read_host", lambda: jetson)
    assert module._goal("jetson", None).glibc == "2.39"
    assert module._goal("jetson", "jetpack6").glibc == "2.35"
    assert module._goal("rpi", None).glibc == "2.28"


def test_audit_without_wheels_or_with_a_missing_one_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    assert run("audit").code == 2
    assert run("audit", tmp_path / "demo-1.0-py3-none-any.whl").code == 2


# install, 15; verify, 16; host, 12 ------------------------------------------------------------------------


@pytest.mark.parametrize("python", ["/nonexistent/python", "/bin/true", "/etc/passwd"])
def test_install_into_what_is_no_python_exits_15(run: Run, python: str) -> None:
    ran = run("install", "-p", "cpu", "--python", python, "--offline", "--json")
    assert ran.code == 15
    assert python in ran.json["error"]["what"]


def test_install_without_torch_exits_15_and_never_brings_one(run: Run) -> None:
    ran = run("install", "-p", "cpu", "--python", read_host().python_path, "--offline", "--json")
    assert ran.code == 15
    assert ran.json["error"]["kind"] == "install"


def test_install_for_another_machine_points_to_copying(run: Run, tmp_path: Path) -> None:
    arch = "x86_64" if read_host().arch == "aarch64" else "aarch64"
    ran = run("install", "-p", board(tmp_path, arch), "--python", sys.executable, "--offline", "--json")
    assert ran.code == 15
    assert "copy the wheelhouse" in ran.json["error"]["hint"]
    assert "--emulate" not in ran.json["error"]["hint"]  # this profile has no emulated system


def test_verify_without_the_packages_exits_16_and_says_how_to_install_them(run: Run) -> None:
    ran = run("verify", "-p", "cpu", "--python", read_host().python_path, "--json")
    assert ran.code == 16
    assert "causal-conv1d and mamba-ssm not installed" in ran.json["error"]["what"]
    assert "mambaport install -p cpu" in ran.json["error"]["hint"]


def test_an_unknown_emulated_cpu_is_answered_with_the_nearest(run: Run) -> None:
    ran = run("verify", "-p", "rpi", "--emulated-cpu", "cortex-a71")
    assert ran.code == 2
    assert "cortex-a71 cannot be emulated" in ran.err
    assert "nearest: cortex-a78, cortex-a76" in ran.err


def test_verify_on_a_machine_that_is_not_the_target_points_to_emulation(run: Run, tmp_path: Path) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[read_host().arch]
    board = tmp_path / "board.toml"
    board.write_text((profiles_dir() / "rpi-cpu.toml").read_text().replace('"aarch64"', f'"{other}"'))
    ran = run("verify", "-p", board, "--python", read_host().python_path, "--json")
    assert ran.code == 16
    assert "--emulate" in ran.json["error"]["hint"]


def test_a_toolchain_that_cannot_compile_for_the_target_exits_12(run: Run, tmp_path: Path) -> None:
    arch = "x86_64" if read_host().arch == "aarch64" else "aarch64"
    ran = run("build", "-p", board(tmp_path, arch), "--toolchain", "native", "--offline", "--json")
    assert ran.code == 12
    assert ran.json["error"]["kind"] == "host"


def board(folder: Path, arch: str) -> Path:
    """A user's own profile of the real packages for a machine of ``arch``."""
    path = folder / f"{arch}.toml"
    path.write_text(f"""
name = "my-board"
summary = "A board"
target = {{ arch = "{arch}", glibc = "2.28", cpu = "generic" }}
python = {{ minimum = "3.10" }}
package = [{{ name = "causal-conv1d", version = "1.6.0", patches = ["cpu"] }}]
build = {{ toolchains = ["native", "zig"] }}
""")
    return path


# fetch, 10; patch, 11: with a package, patch set and mirror of our own ------------------------------------

BEFORE = "".join(f"line {n}\n" for n in range(1, 21))
AFTER = BEFORE.replace("line 10\n", "line ten\n")


@dataclass(frozen=True)
class Demo:
    """A package of our own, pinned and patched."""

    root: Path
    mirror: Path
    profile: Path
    item: PatchSet

    def pin(self, text: str) -> None:
        """Publishes another archive, and pins it, as an upstream that changed a file."""
        archive = write_sdist(self.mirror / "demo-1.0.tar.gz", [member("demo-1.0/setup.py", text.encode())])
        pin = pin_of(archive)
        source = SOURCE.replace("0" * 64, pin.sha256).replace("size = 1", f"size = {pin.size}")
        (self.root / "releases/1.0/source.toml").write_text(source)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Demo:
    root = write_package(use_patches(monkeypatch, tmp_path / "patches") / "demo", ["cpu"])
    tree = write_tree(tmp_path / "pristine", {"setup.py": BEFORE})
    item = write_set(root / "cpu", {"0001-x.patch": diff("setup.py", BEFORE, AFTER)}, {"new.py": "n\n"})
    refresh_lock(tree, "demo", "1.0")
    (tmp_path / "mirror").mkdir()
    profile = board(tmp_path, "aarch64")
    profile.write_text(profile.read_text().replace("causal-conv1d", "demo").replace("1.6.0", "1.0"))
    made = Demo(root, tmp_path / "mirror", profile, item)
    made.pin(BEFORE)
    return made


def test_patch_writes_the_patched_tree_and_refuses_a_name_that_is_taken(
    run: Run, tmp_path: Path, demo: Demo
) -> None:
    words = ("patch", "-p", demo.profile, "-o", tmp_path / "out", "--mirror", demo.mirror, "--json")
    ran = run(*words)
    assert ran.code == 0
    assert ran.json == {"trees": {"demo": str(tmp_path / "out/demo")}}
    assert read_tree(tmp_path / "out/demo") == {"setup.py": AFTER, "new.py": "n\n"}
    assert run(*words).code == 2


def test_a_drifted_source_exits_11_with_file_hunk_and_lines(run: Run, tmp_path: Path, demo: Demo) -> None:
    demo.pin(BEFORE.replace("line 12\n", "line twelve\n"))
    ran = run("patch", "-p", demo.profile, "-o", tmp_path / "out", "--mirror", demo.mirror, "--json")
    assert ran.code == 11
    assert "setup.py, hunk 1 at line 7" in ran.json["error"]["what"]
    assert "-line 12" in ran.json["error"]["detail"]
    assert "+line twelve" in ran.json["error"]["detail"]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_hostile_patch_exits_11_and_writes_nothing_outside(run: Run, tmp_path: Path, demo: Demo) -> None:
    path = demo.item.folder / "0001-x.patch"
    path.write_text(
        path.read_text().replace("a/setup.py", "a/../setup.py").replace("b/setup.py", "b/../setup.py")
    )
    before = read_tree(demo.root)
    for words in (("check",), ("refresh",)):
        ran = run("patches", *words, "demo", "--mirror", demo.mirror, "--json")
        assert ran.code == 11
        assert "may leave the tree" in ran.json["error"]["found"]
    assert read_tree(demo.root) == before


def test_a_hostile_or_truncated_or_changed_archive_exits_10(run: Run, tmp_path: Path, demo: Demo) -> None:
    words = ("patch", "-p", demo.profile, "-o", tmp_path / "out", "--mirror", demo.mirror, "--json")
    archive = demo.mirror / "demo-1.0.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-20])
    assert "is truncated" in run(*words).json["error"]["what"]
    archive.write_bytes(whole[:-1] + b"!")
    assert "is not the pinned file" in run(*words).json["error"]["what"]
    write_sdist(archive, [member("demo-1.0/setup.py", b"x"), member("../x", b"x")])
    pin = pin_of(archive)
    (demo.root / "releases/1.0/source.toml").write_text(
        SOURCE.replace("0" * 64, pin.sha256).replace("size = 1", f"size = {pin.size}")
    )
    ran = run(*words)
    assert ran.code == 10
    assert "'../x'" in ran.json["error"]["found"]
    assert not (tmp_path / "x").exists()


def test_offline_with_an_empty_store_exits_10(run: Run, demo: Demo) -> None:
    ran = run("fetch", "-p", demo.profile, "--offline", "--json")
    assert ran.code == 10
    assert ran.json["error"]["kind"] == "fetch"


def test_a_mirror_that_is_no_folder_exits_2(run: Run, tmp_path: Path, demo: Demo) -> None:
    assert run("fetch", "-p", demo.profile, "--mirror", tmp_path / "missing").code == 2


def test_patches_check_passes_on_the_pinned_source_and_refresh_mends_a_lock(run: Run, demo: Demo) -> None:
    words = ("demo", "--mirror", demo.mirror, "--json")
    checked = run("patches", "check", *words)
    assert checked.code == 0
    assert [patch["verdict"] for patch in checked.json["patches"]] == ["applies"]
    assert run("patches", "refresh", *words).json == {"changed": []}
    path = demo.item.folder / "0001-x.patch"
    path.write_text(path.read_text().replace("+line ten", "+line X"))
    assert run("patches", "check", *words).code == 11
    assert run("patches", "refresh", *words).json == {"changed": [str(demo.root / "releases/1.0/lock.json")]}
    assert run("patches", "check", *words).code == 0


def test_patches_check_exits_11_when_a_patch_has_drifted_and_still_tells_each(run: Run, demo: Demo) -> None:
    demo.pin(BEFORE.replace("line 12\n", "line twelve\n"))
    ran = run("patches", "check", "demo", "--mirror", demo.mirror, "--json")
    assert ran.code == 11
    assert "error" in ran.json


def test_patches_of_an_unknown_package_are_a_usage_error(run: Run, demo: Demo) -> None:
    assert run("patches", "check", "other", "--mirror", demo.mirror).code == 2
    assert run("patches", "check", "--against", "2.0", "--mirror", demo.mirror).code == 2
    assert run("patches", "check", "demo", "--against", "2.0", "--mirror", demo.mirror).code == 10


def test_quiet_prints_errors_only(run: Run, tmp_path: Path, demo: Demo) -> None:
    ran = run("patch", "-p", demo.profile, "-o", tmp_path / "out", "--mirror", demo.mirror, "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_folder_that_cannot_be_written_is_an_error_and_no_traceback(
    run: Run, tmp_path: Path, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAMBAPORT_CACHE", str(tmp_path / "file" / "store"))
    ran = run("patch", "-p", demo.profile, "-o", tmp_path / "out", "--mirror", demo.mirror, "--json")
    assert ran.code == 12
    assert str(tmp_path / "file") in ran.json["error"]["found"]


# The shell's completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mambaport build -p r", {"rpi", "rpi-cpu"}),
        ("mambaport install --profile jet", {"jetson", "jetson-orin", "jetson-thor"}),
        ("mambaport show c", {"cpu", "cuda"}),
        ("mambaport doctor -p rpi-", {"rpi-cpu"}),
        ("mambaport build -p jetson --variant jetpack", {"jetpack6", "jetpack7"}),
        ("mambaport ver", {"verify"}),
    ],
)
def test_profiles_and_variants_complete_in_the_shell(line: str, offered: set[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "mambaport"],
        env={
            **os.environ,
            "_MAMBAPORT_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert {row.partition(",")[2] for row in answer.stdout.splitlines()} == offered


@pytest.mark.parametrize("name", ["{}", "a$b", "a\nb", "\udcff"], ids=ascii)
def test_a_store_that_builds_cannot_use_is_refused_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MAMBAPORT_CACHE", str(tmp_path / name))
    ran = run("build", "-p", "rpi", "--offline", "--json")
    assert ran.code == 2
    assert "MAMBAPORT_CACHE" in ran.json["error"]["hint"]
