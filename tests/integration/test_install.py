"""Real installations of small wheels: where they go, which settings of pip count, what is checked after."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import read_tree, rewrite_wheel, write_tree, write_wheel

from mambaport.errors import InstallError, UsageError
from mambaport.installing import install_wheels
from mambaport.interpreter import Interpreter, read_interpreter
from mambaport.locking import locked
from mambaport.pip_settings import pip_environment, pip_settings
from mambaport.profile import Profile, find_profile
from mambaport.report import Report
from mambaport.wheels import Wheel, read_wheel

TORCH = {
    "torch/__init__.py": "",
    "torch/version.py": "__version__ = '2.9.1+local'\ncuda = None\n",
    "torch-2.9.1.dist-info/METADATA": "Name: torch\nVersion: 2.9.1\n",
    "torch-2.9.1.dist-info/RECORD": "",
}
MINOR = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's home whose ~/.local has torch."""
    home = tmp_path / "home"
    write_tree(home / ".local" / "lib" / MINOR / "site-packages", TORCH)
    monkeypatch.setenv("HOME", str(home))
    for name in list(os.environ):
        if name.startswith(("PIP_", "PYTHON")):
            monkeypatch.delenv(name)
    pip_settings.cache_clear()
    yield home
    pip_settings.cache_clear()


@pytest.fixture
def profile() -> Profile:
    return find_profile("cpu").model_copy(
        update={"install": find_profile("cpu").install.model_copy(update={"requires": ()})}
    )


def venv(folder: Path, *options: str) -> Path:
    base = str(getattr(sys, "_base_executable", sys.executable))
    subprocess.run([base, "-m", "venv", "--without-pip", *options, folder], check=True)
    return folder / "bin" / "python"


def packages(python: Path) -> Path:
    return python.parent.parent / "lib" / MINOR / "site-packages"


def wheels(folder: Path, text: bytes = b"new = 1\n", version: str = "1.0+cpu.1") -> list[Wheel]:
    files = {"demo/__init__.py": text}
    return [read_wheel(write_wheel(folder, files, version=version, tag="py3-none-any"))]


def install(
    python: Path, items: list[Wheel], profile: Profile, prove: Callable[[], None] = lambda: None
) -> Interpreter:
    target = read_interpreter(python, ["demo"])
    install_wheels(target, items, profile, prove, Report(quiet=True))
    return read_interpreter(python, ["demo"])


# Where torch is ----------------------------------------------------------------------------------------


def test_torch_in_the_users_site_is_seen_from_a_virtual_environment_that_looks_there(
    home: Path, tmp_path: Path, profile: Profile
) -> None:
    python = venv(tmp_path / "venv", "--system-site-packages")
    target = read_interpreter(python, [])
    assert target.torch is not None
    assert target.torch.version == "2.9.1+local"
    assert target.torch.folder == home / ".local/lib" / MINOR / "site-packages/torch"
    after = install(python, wheels(tmp_path), profile)
    assert Path(after.packages["demo"].path).parent == packages(python)
    assert read_interpreter(venv(tmp_path / "closed"), []).torch is None


@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="coverage's variable reaches a Python without it")
def test_beside_torch_in_the_users_site_wheels_go_there_and_come_back_out(
    home: Path, tmp_path: Path, profile: Profile
) -> None:
    python = Path(str(getattr(sys, "_base_executable", sys.executable)))
    site = home / ".local/lib" / MINOR / "site-packages"
    target = read_interpreter(python, ["demo"])
    if target.externally_managed:
        pytest.skip(
            f"{python} is managed by the system, so pip installs nothing into its users' sites (PEP 668)"
        )
    assert target.for_user
    assert target.site == site
    after = install(python, wheels(tmp_path), profile)
    assert Path(after.packages["demo"].path).parent == site

    def fails() -> None:
        raise InstallError("no")

    with pytest.raises(InstallError, match="no"):
        install(python, wheels(tmp_path, b"newer = 1\n", "2.0+cpu.1"), profile, fails)
    assert (site / "demo/__init__.py").read_bytes() == b"new = 1\n"
    assert sorted(path.name for path in site.glob("demo*")) == ["demo", "demo-1.0+cpu.1.dist-info"]


@pytest.mark.parametrize("metadata", [True, False])
def test_torch_on_pythonpath_is_seen_whatever_the_working_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: bool, profile: Profile
) -> None:
    files = {name: text for name, text in TORCH.items() if metadata or "dist-info" not in name}
    write_tree(tmp_path / "here" / "libs", files)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}libs{os.pathsep}")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    python = venv(tmp_path / "venv")
    target = read_interpreter(python, [])
    assert target.torch is not None
    assert target.torch.folder == tmp_path / "here/libs/torch"
    after = install(python, wheels(tmp_path), profile)
    assert Path(after.packages["demo"].path).parent == packages(python)


def test_modules_of_mambaport_do_not_stand_for_the_environments(tmp_path: Path) -> None:
    """mambaport's folder has modules named `profile` and `wheels`; no distribution and no torch is theirs."""
    script = Path(read_interpreter.__code__.co_filename).with_name("inspect_interpreter.py")
    shutil.copy(script, tmp_path)
    write_tree(tmp_path, {**TORCH, "platform.py": "raise SystemExit('the wrong module')\n"})
    answer = subprocess.run(
        [sys.executable, tmp_path / script.name], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "+local" not in answer.stdout


# Which settings of pip count -------------------------------------------------------------------------


SETTINGS = ("dry-run", "target", "prefix", "root", "user", "no-deps", "require-hashes", "constraint")


@pytest.mark.parametrize("place", ["environment", "file"])
def test_no_setting_of_pips_decides_whether_or_where_wheels_go(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile, place: str
) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    install(python, wheels(tmp_path, b"old = 1\n"), profile)
    elsewhere = tmp_path / "elsewhere"
    folders = ("target", "prefix", "root", "constraint")
    values = {setting: str(elsewhere) if setting in folders else "1" for setting in SETTINGS}
    if place == "environment":
        for setting, value in values.items():
            monkeypatch.setenv(f"PIP_{setting.upper().replace('-', '_')}", value)
    else:
        lines = [f"{setting} = {value}" for setting, value in values.items()]
        write_tree(home / ".config" / "pip", {"pip.conf": "\n".join(["[install]", *lines]) + "\n"})
    after = install(python, wheels(tmp_path, b"newer = 1\n", "2.0+cpu.1"), profile)
    assert after.packages["demo"].version == "2.0+cpu.1"
    assert (packages(python) / "demo/__init__.py").read_bytes() == b"newer = 1\n"
    assert not elsewhere.exists()


def test_index_proxy_and_certificates_reach_pip_by_its_environment_and_nothing_else_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[global]\nindex-url = https://me:s3cret-word@index.test/simple\ndry-run = true\ntimeout = 7\n"
    text += "[install]\nextra-index-url =\n  https://one.test\n  https://two.test\nno-deps = true\n"
    write_tree(home / ".config" / "pip", {"pip.conf": text})
    monkeypatch.setenv("PIP_CERT", "/etc/certificates.pem")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    settings = pip_settings(sys.executable)
    given = {key: value for key, value in pip_environment(settings, os.environ).items() if "PIP_" in key}
    assert given.pop("PIP_EXTRA_INDEX_URL").split() == ["https://one.test", "https://two.test"]
    assert given == {
        "PIP_INDEX_URL": "https://me:s3cret-word@index.test/simple",
        "PIP_TIMEOUT": "7",
        "PIP_CERT": "/etc/certificates.pem",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INPUT": "1",
    }


def test_a_configuration_of_pips_that_cannot_be_read_is_said(home: Path) -> None:
    write_tree(home / ".config" / "pip", {"pip.conf": "index-url = no section\n"})
    with pytest.raises(UsageError, match="pip's configuration cannot be read"):
        pip_settings(sys.executable)


# The installed files are those of the wheels -------------------------------------------------------------


def test_another_copy_that_python_finds_first_is_an_install_error_and_undone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    other = {"demo/__init__.py": "", "demo-0.9.dist-info/METADATA": "Name: demo\nVersion: 0.9\n"}
    write_tree(tmp_path / "first", other)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))
    with pytest.raises(InstallError, match="differ from those of the wheels") as caught:
        install(python, wheels(tmp_path), profile)
    assert f"Python finds demo 0.9 in {tmp_path / 'first'}" in str(caught.value.found)
    assert not list(packages(python).glob("demo*"))
    assert (tmp_path / "first/demo/__init__.py").is_file()


def test_a_file_that_is_not_the_wheels_is_an_install_error_and_undone(
    home: Path, tmp_path: Path, profile: Profile
) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    (wheel,) = wheels(tmp_path)
    rewrite_wheel(wheel.path, {"demo/__init__.py": b"changed\n"})  # RECORD keeps the digest of before
    with pytest.raises(InstallError, match="differ from those of the wheels") as caught:
        install(python, [wheel], profile)
    assert "differs from the wheel's" in str(caught.value.found)
    assert not list(packages(python).glob("demo*"))
    shutil.rmtree(tmp_path / "venv")


# What a failed installation leaves -----------------------------------------------------------------------


def requiring(profile: Profile, *requires: str) -> Profile:
    return profile.model_copy(update={"install": profile.install.model_copy(update={"requires": requires})})


def fails() -> None:
    raise InstallError("no", hint="mend the proof")


def failing(python: Path, items: list[Wheel], profile: Profile, index: Path) -> InstallError:
    """The error of an installation whose proof fails, with requirements from the folder ``index``."""
    target = read_interpreter(python, ["demo", "light", "heavy"])
    options = ["--no-index", "--find-links", str(index)]
    with pytest.raises(InstallError) as caught:
        install_wheels(target, items, profile, fails, Report(quiet=True), options)
    return caught.value


def contents(root: Path) -> dict[str, bytes]:
    """Every file of an environment."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def requirement(index: Path, name: str, version: str, files: dict[str, bytes], needs: str = "") -> None:
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {needs}\n" if needs else ""
    write_wheel(index, files, name=name, version=version, tag="py3-none-any", metadata=metadata)


def test_a_failed_installation_removes_the_requirements_that_were_not_installed_before(
    home: Path, tmp_path: Path, profile: Profile
) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    requirement(tmp_path / "index", "light", "1.0", {"light.py": b""})
    before = read_tree(packages(python))
    error = failing(python, wheels(tmp_path), requiring(profile, "light>=1"), tmp_path / "index")
    assert read_tree(packages(python)) == before
    assert error.hint == (
        "mend the proof; the environment is as it was before (the new packages were removed again)"
    )


def test_requirements_are_installed_as_from_an_index(home: Path, tmp_path: Path, profile: Profile) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    requirement(tmp_path / "index", "light", "1.0", {"light.py": b""})
    target = read_interpreter(python, ["demo", "light"])
    options = ["--no-index", "--find-links", str(tmp_path / "index")]
    needing = requiring(profile, "light>=1")
    install_wheels(target, wheels(tmp_path), needing, lambda: None, Report(quiet=True), options)
    info = packages(python) / "light-1.0.dist-info"
    assert (info / "INSTALLER").read_text() == "pip\n"
    assert not (info / "direct_url.json").exists()  # it would name a folder that is gone


def test_a_failed_installation_restores_the_requirements_that_it_replaced(
    home: Path, tmp_path: Path, profile: Profile
) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), {**TORCH, "my_config.py": "the user's\n", "~emo/x": "the user's\n"})
    index = tmp_path / "index"
    script = {"light-1.0.dist-info/entry_points.txt": b"[console_scripts]\nlight = light:main\n"}
    requirement(index, "light", "1.0", {"light.py": b"", **script})
    install(python, [read_wheel(next(index.glob("light-1.0*")))], profile)
    requirement(index, "light", "2.0", {"light.py": b"2", "my_config.py": b"a wheel's\n"}, needs="heavy")
    requirement(index, "heavy", "3.0", {"heavy.py": b""})
    before = contents(tmp_path / "venv")
    assert "bin/light" in before
    error = failing(python, wheels(tmp_path), requiring(profile, "light>=2"), index)
    assert contents(tmp_path / "venv") == before
    assert "the environment is as it was before" in str(error.hint)


def test_requirements_that_change_torch_are_an_install_error(
    home: Path, tmp_path: Path, profile: Profile
) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    requirement(tmp_path / "index", "light", "1.0", {"torch/__init__.py": b"another = 1\n"})
    error = failing(python, wheels(tmp_path), requiring(profile, "light>=1"), tmp_path / "index")
    assert "torch changed" in error.what
    assert not list(packages(python).glob("demo*"))


def test_a_second_installation_at_the_same_time_is_refused_and_changes_nothing(
    home: Path, tmp_path: Path, profile: Profile
) -> None:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    second: list[InstallError] = []

    def prove() -> None:
        before = read_tree(packages(python))
        with pytest.raises(InstallError) as caught:
            install(python, wheels(tmp_path / "newer", b"newer = 1\n", "2.0+cpu.1"), profile)
        second.append(caught.value)
        assert read_tree(packages(python)) == before

    after = install(python, wheels(tmp_path), profile, prove)
    assert after.packages["demo"].version == "1.0+cpu.1"
    assert "Another installation" in second[0].what
    again = install(python, wheels(tmp_path, b"newer = 1\n", "2.0+cpu.1"), profile)
    assert again.packages["demo"].version == "2.0+cpu.1"
    assert sorted(path.name for path in packages(python).parent.iterdir()) == ["site-packages"]


def test_a_file_system_without_locks_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, InstallError("refused")):
        assert not list(tmp_path.iterdir())
