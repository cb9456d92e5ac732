"""Kills at random moments over build, fetch, adopt and install: what stays, and what the next run makes.

After SIGINT, SIGTERM and SIGHUP everything is undone at once. After SIGKILL, the next run undoes everything.
In both cases no program keeps running, and no temporary file stays.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import diff, write_set, write_tree, write_wheel
from tally import LENGTH, SEED, Tally
from victims import SOFT, Victim, be_subreaper, command, difference, digests, start, still_running

from mambaport import checkouts, interruption
from mambaport.cli import error_of
from mambaport.digests import file_sha256
from mambaport.errors import MambaportError
from mambaport.installing import install_wheels
from mambaport.interpreter import read_interpreter
from mambaport.patching import refresh_checkout_lock
from mambaport.profile import find_profile
from mambaport.report import Report
from mambaport.temporary import own_temporary_folder
from mambaport.wheels import read_wheel

COUNTS = {
    "short": {"build": 1, "fetch": 2, "adopt": 8, "install": 2, "command": 0},
    "": {"build": 15, "fetch": 30, "adopt": 60, "install": 10, "command": 8},
    "night": {"build": 60, "fetch": 150, "adopt": 220, "install": 44, "command": 30},
}[LENGTH]
"""Kills by area; ``command``: of a process of its own, so also during the imports."""
BOARD = """
name = "my-board"
summary = "A board of this machine's kind"
target = { arch = "host", glibc = "2.28", cpu = "generic" }
python = { minimum = "3.10" }
package = [{ name = "causal-conv1d", version = "1.6.0", patches = ["cpu"] }]
build = { toolchains = ["native", "zig"], environment = { CAUSAL_CONV1D_BUILD_CUDA = "FALSE" } }
"""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the whole session: empty at first, or the one that MAMBAPORT_TEST_STORE names."""
    named = os.environ.get("MAMBAPORT_TEST_STORE")
    return Path(named).resolve() if named else tmp_path_factory.mktemp("shared") / "store"


@pytest.fixture(autouse=True)
def subreaper() -> None:
    be_subreaper()


@dataclass
class Attack:
    """One area: what is killed, what must be left, and what the next run must make."""

    action: Callable[[], Callable[[], int | None]]
    """Chooses what runs: called before each fork."""
    reset: Callable[[], None]
    """Puts everything back to the beginning."""
    left: Callable[[], list[str]]
    """After an interruption: what is neither as before nor complete."""
    complete: Callable[[], list[str]]
    """After the next run: what is not as it should be."""
    temporary: Sequence[Path]
    """Folders that must be empty at the end."""
    variables: dict[str, str] = field(default_factory=dict)


def attack(area: str, count: int, it: Attack, tmp_path: Path, config: pytest.Config) -> None:
    """Kills ``count`` times, at moments spread over an undisturbed run."""
    generator = random.Random(f"{SEED} {area}")
    tally = Tally(f"kills: {area}", config)
    it.reset()
    whole = start(it.action(), tmp_path / "whole", it.variables)
    assert whole.ended(600)
    assert whole.code == 0, whole.text
    seconds = time.monotonic() - whole.started
    assert not it.complete(), whole.text
    for number in range(count):
        it.reset()
        kind = generator.choice([signal.SIGKILL, *SOFT])
        moment = seconds * 1.02 * (number + generator.random()) / count
        victim = start(it.action(), tmp_path / "victim", it.variables)
        if not victim.ended(moment):
            victim.send(kind)
            twice = kind != signal.SIGKILL and generator.random() < 0.15
            if twice and not victim.ended(generator.random() * 0.3):
                victim.send(signal.SIGKILL)
                kind = signal.SIGKILL
        name = f"{number}, {kind.name} after {moment:.2f} of {seconds:.2f} s"
        faults = judge(it, victim, kind)
        following = start(it.action(), tmp_path / "next", it.variables)
        if not following.ended(600) or following.code != 0:
            faults.append(f"the next run: {following.code}: {following.text[-500:]}")
        faults += [f"the next run: {fault}" for fault in it.complete()]
        faults += [f"running after the next run: {row}" for row in still_running()]
        tally.add(name, *faults, *stays(it))
    tally.check()


def judge(it: Attack, victim: Victim, kind: signal.Signals) -> list[str]:
    """What is wrong before the next run."""
    faults = []
    if not victim.ended(60):
        victim.send(signal.SIGKILL)
        victim.ended(10)
        faults.append("did not end")
    if "<frozen site>" in victim.text:  # Python itself was starting; nothing of mambaport had run
        return faults
    if "Traceback" in victim.text or "Exception ignored" in victim.text:
        faults.append(f"traceback: {victim.text[-700:]}")
    faults += [f"still runs: {row}" for row in still_running()]
    if kind != signal.SIGKILL:
        if victim.code not in (0, 130):
            faults.append(f"exit code {victim.code}: {victim.text[-300:]}")
        faults += it.left()
        faults += stays(it)
    return faults


def stays(it: Attack) -> list[str]:
    folders = [folder for folder in it.temporary if folder.is_dir()]
    return [f"stays: {path}" for folder in folders for path in sorted(folder.iterdir())[:5]]


# Build and fetch -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    """A profile, and its wheels built undisturbed."""

    profile: Path
    store: Path
    house: dict[str, str]
    trees: dict[str, str] = field(default_factory=dict)
    """The patched trees, where a test needs them."""


@pytest.fixture(scope="module")
def board(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("board")
    profile = folder / "my-board.toml"
    profile.write_text(BOARD)
    words = [sys.executable, "-m", "mambaport", "build", "-p", profile, "-o", folder / "house"]
    variables = {**os.environ, "MAMBAPORT_CACHE": str(shared)}
    ran = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if ran.returncode == 10:
        pytest.skip("the package index cannot be reached")
    assert ran.returncode == 0, ran.stderr
    return Board(profile, shared, digests(folder / "house"))


def share(shared: Path, store: Path) -> None:
    """A store that shares archives, the build environment and compiled objects with another."""
    store.mkdir(parents=True, exist_ok=True)
    (store / "seals").mkdir()
    for kind in ("archives", "environments", "compilations", "seals/environments"):
        (shared / kind).mkdir(parents=True, exist_ok=True)
        (store / kind).symlink_to(shared / kind)


def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of the victims: a TMPDIR and a store of their own."""
    for name in ("tmp", "home"):
        (tmp_path / name).mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "MAMBAPORT"))}
    names = {"TMPDIR": tmp_path / "tmp", "HOME": tmp_path / "home", "MAMBAPORT_CACHE": tmp_path / "store"}
    return {**kept, **{key: str(path) for key, path in names.items()}}


def building(board: Board, tmp_path: Path, *, spawned: bool = False) -> Attack:
    store, house = tmp_path / "store", tmp_path / "house"
    words = ("build", "-p", str(board.profile), "-o", str(house))

    def reset() -> None:
        for path in (store, house):
            shutil.rmtree(path, ignore_errors=True)
        share(board.store, store)

    def left() -> list[str]:
        wheels = list(house.glob("*")) if house.is_dir() else []
        entries = (store / "wheels").glob("*")
        faults = [f"stays: {path}" for path in wheels if path.name not in board.house]
        return faults + [f"half an entry: {path}" for path in entries if not (path / "audit.json").is_file()]

    def complete() -> list[str]:
        wrong = difference(digests(house), board.house)
        return [wrong] if wrong else []

    def action() -> Callable[[], int | None]:
        return spawn(words) if spawned else command(*words)

    temporary = [tmp_path / "tmp", store / "scratch", store / "locks"]
    return Attack(action, reset, left, complete, temporary, variables(tmp_path))


def spawn(words: Sequence[str]) -> Callable[[], int]:
    def action() -> int:
        os.execv(sys.executable, [sys.executable, "-m", "mambaport", *words])

    return action


def test_build(board: Board, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    attack("build", COUNTS["build"], building(board, tmp_path), tmp_path, pytestconfig)


def test_build_by_a_process_of_its_own(board: Board, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if not COUNTS["command"]:
        pytest.skip("not in the short form")
    it = building(board, tmp_path, spawned=True)
    attack("build, imports included", COUNTS["command"], it, tmp_path, pytestconfig)


def test_fetch(board: Board, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    store, mirror = tmp_path / "store", tmp_path / "mirror"
    mirror.mkdir()
    for path in (board.store / "archives").glob("*/*"):
        (mirror / path.name).symlink_to(path)
    words = ("fetch", "-p", str(board.profile), "--mirror", str(mirror))

    def complete() -> list[str]:
        """Every archive is there and has the digest that names its folder."""
        found = {path: file_sha256(path) for path in (store / "archives").glob("*/*")}
        wrong = [f"not its digest: {path}" for path, digest in found.items() if digest != path.parent.name]
        return wrong if len(found) >= 5 else [*wrong, f"only {len(found)} archives"]

    def left() -> list[str]:
        entries = (store / "archives").glob("*")
        return [f"half an entry: {path}" for path in entries if not list(path.iterdir())]

    it = Attack(
        lambda: command(*words),
        lambda: shutil.rmtree(store, ignore_errors=True),
        left,
        complete,
        [tmp_path / "tmp", store / "scratch", store / "locks"],
        variables(tmp_path),
    )
    attack("fetch", COUNTS["fetch"], it, tmp_path, pytestconfig)


# Adopt -----------------------------------------------------------------------------------------------------

FILES = {f"demo/part{n}/model.py": f"class Demo(\n{'line' * n}\n" + "x = 1\n" * 40 for n in range(40)}
AFTER = {name: text.replace("x = 1\n", "x = 2\n", 1) for name, text in FILES.items()}
OVERLAY = {f"demo/part{n}/portable.py": "ours\n" for n in range(40)}
META = """
title = "Demo"
repository = "someone/Demo"
license = "MIT"
needs = []
run = "python train.py"
[marks]
"demo/part0/model.py" = "class Demo("
"""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    """A pristine checkout of a repository with one patch set."""
    root = write_tree(tmp_path / "pristine", FILES)
    folder = write_tree(tmp_path / "patches/checkouts/demo", {"checkout.toml": META})
    text = "".join(diff(name, FILES[name], AFTER[name]) for name in FILES)
    refresh_checkout_lock(root, write_set(folder / "0123456789ab", {"0001-all.patch": text}, OVERLAY))
    before = checkouts.patches_dir
    checkouts.patches_dir = lambda: tmp_path / "patches"
    yield root
    checkouts.patches_dir = before


@pytest.mark.parametrize("undoing", [False, True], ids=["adopt", "undo"])
def test_adopt(demo: Path, tmp_path: Path, pytestconfig: pytest.Config, undoing: bool) -> None:
    root, adopted = tmp_path / "Demo", tmp_path / "adopted"
    before = digests(demo)
    shutil.copytree(demo, adopted)
    ended = start(command("adopt", adopted), tmp_path / "output", variables(tmp_path))
    assert ended.ended(60)
    assert ended.code == 0, ended.text
    after = digests(adopted)
    assert len(after) == len(before) + len(OVERLAY)
    words = ("adopt", str(root), *(["--undo"] if undoing else []))

    def reset() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(adopted if undoing else demo, root)

    def left() -> list[str]:
        found = digests(root)
        return [] if found in (before, after) else [f"half: {difference(found, before)}"]

    def complete() -> list[str]:
        wrong = difference(digests(root), before if undoing else after)
        return [wrong] if wrong else []

    it = Attack(lambda: command(*words), reset, left, complete, [tmp_path / "tmp"], variables(tmp_path))
    attack("adopt --undo" if undoing else "adopt", COUNTS["adopt"] // 2, it, tmp_path, pytestconfig)


# Install ---------------------------------------------------------------------------------------------------

TORCH = {
    "torch/__init__.py": "",
    "torch/version.py": "__version__ = '2.9.1+local'\ncuda = None\n",
    "torch-2.9.1.dist-info/METADATA": "Name: torch\nVersion: 2.9.1\n",
    "torch-2.9.1.dist-info/RECORD": "torch/__init__.py,,\ntorch/version.py,,\n",
}
USERS = {"my_config.py": "the user's\n", "~emo/x.py": "the user's\n", "demo/mine.py": "the user's\n"}
SCRIPTS = b"[console_scripts]\ndemo = demo:main\nhelper = demo:main\n"


def demo_wheel(folder: Path, version: str) -> Path:
    files = {f"demo/part{n}.py": f"version = {version!r}\n".encode() for n in range(150)}
    files["demo/__init__.py"] = b"def main(): pass\n"
    files[f"demo-{version}.dist-info/entry_points.txt"] = SCRIPTS
    return write_wheel(folder, files, version=version, tag="py3-none-any")


@dataclass
class Environment:
    """An environment with version 1.0 of a wheel, and what installs version 2.0 with a requirement."""

    root: Path
    """Where the environment is; made by :meth:`reset`."""
    template: Path
    index: Path
    wheels: dict[str, Path]

    def reset(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root, symlinks=True)

    def installing(self, version: str, *, proven: bool) -> Callable[[], int | None]:
        """An installation; 2.0 needs ``light``, whose wheel writes over a file of the user."""
        install = find_profile("cpu").install
        requires = ("light>=1",) if version == "2.0" else ()
        profile = find_profile("cpu").model_copy(
            update={"install": install.model_copy(update={"requires": requires})}
        )

        def prove() -> None:
            time.sleep(0.3)
            if not proven:
                raise MambaportError("the proof fails")

        def action() -> int:
            interruption.start()
            try:
                with own_temporary_folder():
                    target = read_interpreter(self.root / "bin" / "python", ["demo", "light"])
                    options = ["--no-index", "--find-links", str(self.index)]
                    wheel = read_wheel(self.wheels[version])
                    install_wheels(target, [wheel], profile, prove, Report(), options)
            except KeyboardInterrupt:
                return 130
            except (MambaportError, OSError) as fault:
                error = error_of(fault)  # as the command line does
                if error.what == "the proof fails":
                    return 0
                print(error.what)
                return error.exit_code
            return 0

        return action


@pytest.fixture
def installed(tmp_path: Path) -> Environment:
    template, root, index = tmp_path / "template", tmp_path / "place/env", tmp_path / "index"
    base = str(getattr(sys, "_base_executable", sys.executable))
    subprocess.run([base, "-m", "venv", "--without-pip", template], check=True)
    (site,) = template.glob("lib/python3*/site-packages")
    write_tree(site, {**TORCH, **USERS})
    wheels = {version: demo_wheel(tmp_path / version, version) for version in ("1.0", "2.0")}
    light = {"light.py": b"light\n", "my_config.py": b"a wheel's\n"}
    metadata = "Metadata-Version: 2.1\nName: light\nVersion: 1.0\n"
    write_wheel(index, light, name="light", version="1.0", tag="py3-none-any", metadata=metadata)
    root.parent.mkdir()
    shutil.copytree(template, root, symlinks=True)
    made = Environment(root, template, index, wheels)
    ran = start(made.installing("1.0", proven=True), tmp_path / "output", variables(tmp_path))
    assert ran.ended(300)
    assert ran.code == 0, ran.text
    made.template = shutil.copytree(root, tmp_path / "with-old", symlinks=True)
    assert any(path.name == "helper" for path in (root / "bin").iterdir())
    return made


@pytest.mark.parametrize("good", [True, False], ids=["proven", "a failed proof"])
def test_install(installed: Environment, tmp_path: Path, pytestconfig: pytest.Config, good: bool) -> None:
    settings = variables(tmp_path)
    before = digests(installed.root)
    ran = start(installed.installing("2.0", proven=True), tmp_path / "output", settings)
    assert ran.ended(300)
    assert ran.code == 0, ran.text
    after = digests(installed.root)
    assert difference(after, before)

    def left() -> list[str]:
        found = digests(installed.root)
        allowed = (before, after) if good else (before,)
        return [] if found in allowed else [f"half an environment: {difference(found, before)}"]

    def complete() -> list[str]:
        wrong = difference(digests(installed.root), after if good else before)
        return [wrong] if wrong else []

    action = installed.installing("2.0", proven=good)
    it = Attack(lambda: action, installed.reset, left, complete, [tmp_path / "tmp"], settings)
    area = "install" if good else "install, the proof fails"
    attack(area, (COUNTS["install"] + 1) // 2, it, tmp_path, pytestconfig)


def test_install_on_a_full_disk(installed: Environment, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The disk is full at one moment after another, until the disk is large enough."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    place, tally = installed.root.parent, Tally("install on a full disk", pytestconfig)
    ends = set()
    for more in {"short": (160, 2000), "": (2, 40, 160, 330, 2000)}.get(LENGTH, (*range(0, 400, 16), 2000)):
        shutil.rmtree(installed.root, ignore_errors=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
        try:
            installed.reset()
            disk = os.statvfs(place)
            size = (disk.f_blocks - disk.f_bfree + more) * disk.f_frsize
            subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)
            before = digests(installed.root)
            action = installed.installing("2.0", proven=more >= 2000)
            victim = start(action, tmp_path / "victim", variables(tmp_path))
            faults = [] if victim.ended(300) and victim.code in (0, 12) else [victim.text[-700:]]
            ends.add(victim.code)
            wrong = difference(digests(installed.root), before)
            tally.add(f"{more} pages", *faults, *([wrong] if wrong and more < 2000 else []))
        finally:
            subprocess.run(["umount", place], check=True)
    assert ends == {0, 12}
    tally.check()
