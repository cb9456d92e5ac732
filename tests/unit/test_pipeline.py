"""The pipeline over a small package: fetched from a mirror, patched, compiled by a small backend, audited."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    diff,
    member,
    pin_of,
    use_patches,
    write_package,
    write_sdist,
    write_set,
    write_tree,
    write_wheel,
)

from mambaport import pins
from mambaport import wheels as wheelfiles
from mambaport.auditing import require
from mambaport.building import build_wheel
from mambaport.commit import Commit
from mambaport.errors import AuditError, BuildError, FetchError, InstallError, PatchError
from mambaport.host import read_host
from mambaport.patching.apply import lock_of
from mambaport.pipeline import Pipeline
from mambaport.plan import make_plan
from mambaport.profile import make_profile
from mambaport.releases import ReleaseLock, combination
from mambaport.report import Report
from mambaport.sources import Fetcher, Workshop
from mambaport.sources.index import IndexSettings
from mambaport.store import Store
from mambaport.wheels import STATEMENT

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on PATH")

# Compiles one file and packs a wheel, as setuptools would; setuptools itself is in the integration tests.
BACKEND = b"""
import os, pathlib, shlex, subprocess, zipfile, base64, hashlib

def build_wheel(folder, config_settings=None, metadata_directory=None):
    words = [*shlex.split(os.environ["CC"]), *shlex.split(os.environ["CFLAGS"])]
    words += shlex.split(os.environ.get("LDFLAGS", ""))
    subprocess.run([*words, "-shared", "-fPIC", "-Wl,-z,noexecstack,-z,now", "-Wl,--build-id=none", "-s",
                    "demo.c", "-o", "libdemo.so"], check=True)
    version = "1.0+" + os.environ["DEMO_LOCAL_VERSION"]
    info = f"demo-{version}.dist-info"
    tag = "py3-none-linux_" + os.uname().machine
    files = {
        "demo/__init__.py": pathlib.Path("demo.py").read_bytes(),
        "demo/libdemo.so": pathlib.Path("libdemo.so").read_bytes(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: demo\\nVersion: {version}\\n\\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\\nRoot-Is-Purelib: false\\nTag: {tag}\\n".encode(),
    }
    name = f"demo-{version}-{tag}.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        rows = []
        for path, data in files.items():
            archive.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(data)}")
        archive.writestr(f"{info}/RECORD", "\\n".join([*rows, f"{info}/RECORD,,"]) + "\\n")
    return name
"""


SOURCE = {
    "demo-1.0/demo.c": b"int demo(void) { return 1; }\n",
    "demo-1.0/demo.py": b"x = 1\n",
    "demo-1.0/pyproject.toml": b"[build-system]\nrequires = []\n",
}


class _NoTools:
    """No ninja and no sccache: the backend needs neither."""

    @staticmethod
    def for_host(_arch: str) -> tuple[pins.Pin, ...]:
        return ()


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    members = [member(name, text) for name, text in SOURCE.items()]
    sdist = pin_of(write_sdist(mirror / "demo-1.0.tar.gz", members))
    backend = write_wheel(
        mirror,
        {"setuptools/__init__.py": b"", "setuptools/build_meta.py": BACKEND},
        name="setuptools",
        version="99.0",
        tag="py3-none-any",
    )
    requirements = pins.BuildRequirements(pin=(pin_of(backend, "setuptools", "99.0"),))
    monkeypatch.setattr(pins, "build_requirements", lambda: requirements)
    monkeypatch.setattr(pins, "build_tools", _NoTools)
    root = write_package(use_patches(monkeypatch, tmp_path / "patches") / "demo", ["cpu"])
    source = root / "releases" / "1.0" / "source.toml"
    text = source.read_text().replace("0" * 64, sdist.sha256).replace("size = 1\n", f"size = {sdist.size}\n")
    source.write_text(text)
    item = write_set(root / "cpu", {"0001-two.patch": diff("demo.py", "x = 1\n", "x = 2\n")})
    tree = write_tree(
        tmp_path / "tree", {name.partition("/")[2]: text.decode() for name, text in SOURCE.items()}
    )
    lock = ReleaseLock(combinations={combination([item]): lock_of(tree, [item])})
    (source.parent / "lock.json").write_text(lock.model_dump_json())
    profile = make_profile(
        {
            "name": "cpu",
            "summary": "This machine",
            "target": {"arch": "host", "glibc": "2.28", "cpu": "generic"},
            "python": {"minimum": "3.10"},
            "package": [{"name": "demo", "version": "1.0", "patches": ["cpu"]}],
            "build": {"toolchains": ["native"]},
        },
        Path("cpu.toml"),
    )
    store, report = Store(tmp_path / "store"), Report()
    fetcher = Fetcher(store, IndexSettings(None, mirror), report)
    host = read_host()
    return Pipeline(
        make_plan(profile, host, environ={"PATH": host.path}), Workshop(store, fetcher, report, host)
    )


def test_a_package_is_built_once_and_put_into_the_wheelhouse(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house = tmp_path / "house"
    old = write_wheel(house, {}, version="1.0+cpu.1", tag=f"py3-none-linux_{platform.machine()}_old")
    old = old.rename(old.with_name(f"demo-1.0+cpu.1-py3-none-manylinux_2_99_{platform.machine()}.whl"))
    (made,) = pipeline.build(house)
    assert not made.cached
    assert made.wheel.path.parent == house
    assert [path.name for path in house.iterdir()] == [made.wheel.path.name]
    said = capsys.readouterr().err
    assert f"replace  {old.name}" in said
    record = made.wheel.provenance()
    assert [item["name"] for item in record["patch_sets"]] == ["cpu"]
    again = tmp_path / "again"
    (kept,) = pipeline.build(again)
    assert kept.cached
    assert kept.wheel.sha256 == made.wheel.sha256
    assert kept.to_json()["sha256"] == made.wheel.sha256
    assert pipeline.wheels(again)[0].path.name == made.wheel.path.name
    assert pipeline.wheels(None)[0].sha256 == made.wheel.sha256


def test_a_damaged_wheel_in_the_store_is_built_again_to_the_same_bytes(pipeline: Pipeline) -> None:
    (made,) = pipeline.build()
    first = made.wheel.sha256
    made.wheel.path.chmod(0o644)
    made.wheel.path.write_bytes(b"damaged")
    (again,) = pipeline.build()
    assert (again.cached, again.wheel.sha256) == (False, first)


def test_a_statement_of_an_earlier_wheel_does_not_stay_beside_a_new_one(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (made,) = pipeline.build(tmp_path, statements=True)
    beside = made.wheel.path.with_name(made.wheel.path.name + STATEMENT)
    assert made.wheel.sha256 in beside.read_text()
    beside.write_text(beside.read_text().replace(made.wheel.sha256, "0" * 64))
    with pytest.raises(AuditError):
        require(pipeline.audit(made.wheel))
    (made,) = pipeline.build(tmp_path)
    assert not beside.exists()
    require(pipeline.audit(made.wheel))
    pipeline.build(tmp_path, statements=True)
    assert made.wheel.sha256 in beside.read_text()


def test_the_statement_of_a_stored_wheel_names_the_commit_that_built_it(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = [Commit("a" * 40, ("kernels/x.c",)), Commit("b" * 40, ())]
    monkeypatch.setattr("mambaport.commit.read_commit", lambda: commits[0])
    pipeline.build()
    monkeypatch.setattr("mambaport.commit.read_commit", lambda: commits[1])
    (made,) = pipeline.build(tmp_path / "house", statements=True)
    assert made.cached
    path = made.wheel.path.with_name(made.wheel.path.name + STATEMENT)
    stated = json.loads(path.read_text())["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    assert stated["digest"] == {"gitCommit": "a" * 40}
    assert stated["annotations"] == {"changed": ["kernels/x.c"]}
    (key,) = [item.key for item in pipeline.store.entries() if item.kind == "wheels"]
    pipeline.store.update(
        "wheels", key, lambda folder: (folder / "builder.json").unlink()
    )  # an older store's
    pipeline.build(tmp_path / "house", statements=True)
    assert "gitCommit" not in path.read_text()


def test_a_patch_set_that_is_edited_before_it_is_applied_stops_the_build(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    edit(pipeline)
    with pytest.raises(PatchError, match="was changed during the build") as caught:
        pipeline.build(tmp_path / "house")
    assert "run the command again" in str(caught.value.hint)
    assert not (tmp_path / "house").exists()
    assert not [entry for entry in pipeline.store.entries() if entry.kind == "wheels"]


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_a_patch_that_is_changed_while_the_wheel_is_built_stops_the_build(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def build(*words: Any) -> Path:
        wheel = build_wheel(*words)
        edit(pipeline) if change == "edit" else patch_of(pipeline).unlink()
        return wheel

    monkeypatch.setattr("mambaport.making.build_wheel", build)
    with pytest.raises(PatchError, match="was changed during the build"):
        pipeline.build()
    assert not [entry for entry in pipeline.store.entries() if entry.kind == "wheels"]


def patch_of(pipeline: Pipeline) -> Path:
    return pipeline.plan.packages[0].sets[0].folder / "0001-two.patch"


def edit(pipeline: Pipeline) -> None:
    """Gives the set a further overlay file, which no lock names."""
    write_tree(patch_of(pipeline).parent / "overlay", {"further.py": "y = 1\n"})


def test_a_package_that_does_not_compile_is_a_build_error_with_its_log(pipeline: Pipeline) -> None:
    plan = replace(
        pipeline.plan,
        packages=tuple(
            replace(item, environment=(("CC", "cc -include no/such.h"),)) for item in pipeline.plan.packages
        ),
    )
    broken = Pipeline(plan, pipeline.shop)
    with pytest.raises(BuildError, match=r"The build of demo 1\.0\+cpu\.1 failed") as fault:
        broken.build()
    assert "no/such.h" in str(fault.value.detail)
    (log,) = pipeline.store.logs.glob("demo-*.log")
    assert "no/such.h" in log.read_text()
    assert str(log) in str(fault.value.hint)


def test_everything_that_a_build_needs_can_be_fetched_before(pipeline: Pipeline, tmp_path: Path) -> None:
    assert {path.name for path in pipeline.fetch()} == {
        "demo-1.0.tar.gz",
        "setuptools-99.0-py3-none-any.whl",
    }
    shutil.rmtree(tmp_path / "mirror")
    offline = replace(
        pipeline.shop,
        fetcher=Fetcher(pipeline.store, IndexSettings(None, None), pipeline.report, offline=True),
    )
    assert len(Pipeline(pipeline.plan, offline).build()) == 1
    Store(tmp_path / "store").discard("archives", pipeline.plan.build_requirements[0].sha256)
    with pytest.raises(FetchError, match="is not in the store"):
        Pipeline(pipeline.plan, offline).fetch()


def test_a_wheelhouse_without_the_wheel_says_which_is_missing(pipeline: Pipeline, tmp_path: Path) -> None:
    write_wheel(tmp_path / "house", {}, version="0.9+cpu.1")
    with pytest.raises(InstallError, match=r"has no demo 1\.0\+cpu\.1"):
        pipeline.wheels(tmp_path / "house")


def test_a_wheel_for_another_machine_is_refused_by_the_audit(pipeline: Pipeline, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {"demo/lib.so": b"\x7fELF no library"}, tag="py3-none-linux_riscv64")
    audit = pipeline.audit(wheelfiles.read_wheel(wheel))
    assert not audit.ok
    with pytest.raises(AuditError):
        require(audit)
