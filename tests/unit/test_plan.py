"""The plan: what decides a wheel's bytes decides its key, and nothing else does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HOST, SOURCE, diff, use_patches, write_package, write_set, write_tree

import mambaport
from mambaport import boards, pins, plan
from mambaport.errors import HostError, PatchError, UsageError
from mambaport.host import Host, Program
from mambaport.plan import PackagePlan, Plan, make_plan
from mambaport.profile import Profile, make_profile

CC = Program("/usr/bin/cc", "cc 12")
GCC = Program("/usr/bin/aarch64-linux-gnu-gcc", "gcc 12")
PI = replace(HOST, arch="aarch64", cc=CC, glibc="2.36")
X86 = replace(HOST, cc=CC, gcc_aarch64=GCC)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A patches/ folder with one package, two sets."""
    root = write_package(use_patches(monkeypatch, tmp_path / "patches") / "demo", ["low", "cpu"], revision=2)
    write_set(root / "low", {"0001-x.patch": diff("x", "a\n", "b\n")})
    write_set(root / "cpu", {}, {"new.py": "x"}, needs=["low"])
    return root


def profile(**changes: object) -> Profile:
    data: dict[str, object] = {
        "name": "my-board",
        "summary": "A board",
        "target": {"arch": "aarch64", "glibc": "2.28", "cpu": "cortex-a72"},
        "python": {"minimum": "3.10"},
        "package": [{"name": "demo", "version": "1.0", "patches": ["low", "cpu"]}],
        "build": {"toolchains": ["native", "zig", "gcc-aarch64"], "environment": {"DEMO_CUDA": "FALSE"}},
        "variant": {
            "new": {"summary": "x", "target": {"arch": "aarch64", "glibc": "2.36", "cpu": "cortex-a76"}}
        },
    }
    return make_profile({**data, **changes}, Path("my-board.toml"))


def package(
    which: Profile | None = None, host: Host = X86, environ: dict[str, str] | None = None, **options: str
) -> PackagePlan:
    return whole(which, host, environ, **options).packages[0]


def whole(
    which: Profile | None = None, host: Host = X86, environ: dict[str, str] | None = None, **options: str
) -> Plan:
    return make_plan(
        which or profile(),
        host,
        environ=environ or {},
        variant=options.get("variant"),
        toolchain=options.get("toolchain"),
    )


def test_the_same_inputs_have_the_same_key() -> None:
    assert package().key == package().key


def test_what_the_machine_merely_is_does_not_change_the_key() -> None:
    other = replace(
        X86, system="Another", cores=2, memory_mib=512, available_mib=256, python="3.11.9", device="Pi"
    )
    assert package(host=other).key == package().key
    assert package(host=replace(X86, glibc="2.41", cc=None)).key == package().key  # zig brings its own


def test_a_reason_written_anew_changes_the_key_since_the_provenance_holds_it(root: Path) -> None:
    before = package().key
    path = root / "low/patchset.toml"
    path.write_text(path.read_text().replace("A reason", "The same reason"))
    assert package().key != before


def test_the_options_of_the_cpu_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = package().key
    known = boards.cpus()
    changed = tuple(cpu.model_copy(update={"zig": f"{cpu.zig}-other"}) for cpu in known)
    monkeypatch.setattr(boards, "cpus", lambda: changed)
    assert package().key != before


@pytest.mark.parametrize("name", ["rpi", "jetson"])
def test_a_key_is_the_same_in_every_process(name: str) -> None:
    """Python orders sets by a number of the process."""
    code = (
        "from mambaport.host import read_host; from mambaport.plan import make_plan; "
        "from mambaport.profile import find_profile; "
        f"print([package.key for package in make_plan(find_profile({name!r}), read_host()).packages])"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(keys) == 1


def test_wheels_without_kernels_have_a_folder_of_their_own() -> None:
    with_kernels = make_plan(profile(), X86, environ={})
    without = make_plan(profile(), X86, environ={"DEMO_FORCE_FALLBACK": "TRUE"})
    assert without.folder == f"{with_kernels.folder}-fallback"


def test_each_input_changes_the_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = {"toolchains": ["zig"], "environment": {"DEMO_CUDA": "TRUE"}}
    keys = {
        "as it is": package().key,
        "another name": package(profile(name="other")).key,
        "another environment": package(profile(build=build)).key,
        "another variant": package(variant="new").key,
        "fewer sets": package(profile(package=[{"name": "demo", "version": "1.0", "patches": ["low"]}])).key,
        "another toolchain": package(toolchain="gcc-aarch64").key,
        "another compiler": package(
            host=replace(X86, gcc_aarch64=Program("x", "gcc 14")), toolchain="gcc-aarch64"
        ).key,
        "another Python minor": package(host=replace(X86, python="3.13.0")).key,
        "without kernels": package(environ={"DEMO_FORCE_FALLBACK": "TRUE"}).key,
    }
    for cpu, glibc in (("cortex-a53", "2.28"), ("cortex-a72", "2.31")):
        target = {"arch": "aarch64", "glibc": glibc, "cpu": cpu}
        keys[f"{cpu} {glibc}"] = package(profile(target=target)).key
    changes = {
        "another overlay file": ("cpu/overlay/new.py", "y"),
        "another patch": ("low/0001-x.patch", diff("x", "a\n", "c\n")),
        "another archive": ("releases/1.0/source.toml", SOURCE.replace("0" * 64, "1" * 64)),
        "another epoch": ("releases/1.0/source.toml", SOURCE.replace("1700000000", "1700000001")),
    }
    for label, (name, text) in changes.items():
        write_tree(root, {name: text})
        keys[label] = package().key
    with monkeypatch.context() as patched:
        patched.setattr(plan, "BUILD_FORMAT", plan.BUILD_FORMAT + 1)
        keys["another build format"] = package().key
    requirements = pins.build_requirements()
    fewer = requirements.model_copy(update={"pin": requirements.pin[:-1]})
    with monkeypatch.context() as patched:
        patched.setattr(pins, "build_requirements", lambda: fewer)
        keys["other build requirements"] = package().key
    assert len(set(keys.values())) == len(keys), keys


def test_two_compilers_with_one_version_are_two(tmp_path: Path) -> None:
    keys = set()
    for text in ("one", "other"):
        path = tmp_path / text
        path.write_text(text)
        keys.add(package(host=replace(PI, cc=Program(str(path), "cc 12"))).key)
    copied = Program(str(shutil.copy(tmp_path / "one", tmp_path / "copy")), "cc 12")
    keys.add(package(host=replace(PI, cc=copied)).key)
    assert len(keys) == 2


def test_what_decides_no_byte_is_not_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mambaport, "__version__", "99")
    for jobs in (1, 7):
        here = replace(X86, python="3.11.9", path="/y")
        made = make_plan(profile(), here, environ={"PATH": "/x", "CC": "y"}, jobs=jobs)
        assert made.jobs == jobs
        assert made.packages[0].key == package().key
    assert package(host=replace(PI, python="3.11.9")).key == package(host=PI).key


def test_the_version_carries_profile_and_revision() -> None:
    assert package().version == "1.0+my.board.2"
    assert package(environ={"DEMO_FORCE_FALLBACK": "1"}).version == "1.0+my.board.2.fallback"


def test_a_set_brings_what_it_needs_in_the_packages_order() -> None:
    made = package(profile(package=[{"name": "demo", "version": "1.0", "patches": ["cpu"]}]))
    assert [item.name for item in made.sets] == ["low", "cpu"]
    assert made.key == package().key


@pytest.mark.parametrize("word", ["TRUE", "true", "1", "Yes", " on "])
def test_the_fallback_variable_is_read_in_all_its_spellings(word: str) -> None:
    made = package(environ={"DEMO_FORCE_FALLBACK": word})
    assert made.local_version.endswith(".fallback")
    assert dict(made.environment) == {"DEMO_CUDA": "FALSE", "DEMO_FORCE_FALLBACK": "TRUE"}


@pytest.mark.parametrize("word", ["", "FALSE", "0", "no", "maybe"])
def test_anything_else_is_no_fallback(word: str) -> None:
    assert package(environ={"DEMO_FORCE_FALLBACK": word}).key == package().key


def test_a_profile_may_ask_for_the_fallback_itself() -> None:
    build = {"toolchains": ["zig"], "environment": {"DEMO_FORCE_FALLBACK": "yes"}}
    made = package(profile(build=build))
    assert made.fallback
    assert made.local_version.endswith(".fallback")
    assert not package().fallback


def test_the_fallback_variable_of_one_package_leaves_the_other_alone(tmp_path: Path) -> None:
    write_set(write_package(tmp_path / "patches/other", ["cpu"]) / "cpu", {})
    two = [
        {"name": "demo", "version": "1.0", "patches": ["low"]},
        {"name": "other", "version": "1.0", "patches": ["cpu"]},
    ]
    made = whole(profile(package=two), environ={"OTHER_FORCE_FALLBACK": "TRUE"})
    assert [item.local_version for item in made.packages] == ["my.board.2", "my.board.1.fallback"]


def test_the_toolchain_is_the_first_that_works_here() -> None:
    assert whole(host=PI).toolchain.name == "native"
    assert whole(host=replace(PI, cc=None)).toolchain.name == "zig"
    assert whole(host=X86).toolchain.name == "zig"
    assert whole(host=X86, toolchain="gcc-aarch64").toolchain.name == "gcc-aarch64"


def test_a_machine_without_any_toolchain_is_told_each_reason_and_the_hint() -> None:
    riscv = replace(HOST, arch="riscv64")
    with pytest.raises(HostError, match="No toolchain here compiles for aarch64") as caught:
        whole(host=riscv)
    assert [line.split(":")[0] for line in str(caught.value.found).splitlines()] == [
        "native",
        "zig",
        "gcc-aarch64",
    ]
    assert "apt-get install gcc-aarch64-linux-gnu" in str(caught.value.found)
    assert caught.value.exit_code == 12


def test_a_toolchain_asked_for_that_cannot_is_refused() -> None:
    with pytest.raises(HostError) as caught:
        whole(host=X86, toolchain="native")
    assert "compiles for x86_64, not for aarch64" in str(caught.value.found)


def test_host_as_target_means_this_machine() -> None:
    here = profile(target={"arch": "host", "glibc": "2.28", "cpu": "generic"})
    made = whole(here, PI)
    assert (made.goal.arch, made.native) == ("aarch64", True)
    assert whole(here, X86).goal.arch == "x86_64"
    assert not whole(host=X86).native


def test_a_toolchain_that_cannot_choose_its_glibc_says_what_it_links() -> None:
    assert whole(host=X86, toolchain="zig").goal.glibc == "2.28"
    assert whole(host=replace(PI, glibc="2.41")).goal.glibc == "2.41"


def test_unknown_variants_and_versions_and_sets_are_refused() -> None:
    with pytest.raises(UsageError, match="has no variant old"):
        package(variant="old")
    with pytest.raises(UsageError, match="no pinned source"):
        package(profile(package=[{"name": "demo", "version": "3.0", "patches": ["cpu"]}]))
    with pytest.raises(PatchError, match="no patch set gone") as caught:
        package(profile(package=[{"name": "demo", "version": "1.0", "patches": ["gone"]}]))
    assert caught.value.expected == "one of: low, cpu"


def test_a_plan_prints_as_plain_data_with_digests() -> None:
    data = whole().to_json()
    (one,) = data["packages"]
    assert one["sources"] == [{"filename": "demo-1.0.tar.gz", "sha256": "0" * 64}]
    assert (one["revision"], [item["name"] for item in one["patch_sets"]]) == (2, ["low", "cpu"])
    assert len(one["patch_sets"][0]["patches"][0]["sha256"]) == 64
    assert one["patch_sets"][1]["overlay"] == ["new.py"]
    assert data["toolchain"]["name"] == "zig"


@pytest.mark.parametrize("old", ["gcc (Debian 9.3.0-1) 9.3.0", "Debian clang version 13.0.1"])
def test_a_compiler_too_old_for_the_kernels_gives_way_to_zig(old: str) -> None:
    here = replace(PI, cc=Program("/usr/bin/cc", old))
    assert whole(host=here).toolchain.name == "zig"
    with pytest.raises(HostError) as caught:
        whole(host=here, toolchain="native")
    assert "the kernels need" in str(caught.value.found)


@pytest.mark.parametrize(
    ("version", "cpu", "option"),
    [
        ("gcc (Debian 12.2.0-14) 12.2.0", "cortex-a72", "-mcpu=cortex-a72"),
        ("gcc (Debian 12.2.0-14) 12.2.0", "generic", "-march=armv8-a"),
        ("gcc (Debian 12.2.0-14) 12.2.0", "neoverse-v3ae", "-march=armv8.6-a+fp16"),
        ("gcc (GCC) 15.1.0", "neoverse-v3ae", "-mcpu=neoverse-v3ae"),
        ("Debian clang version 14.0.6", "cortex-a78ae", "-march=armv8.2-a+fp16+dotprod+rcpc"),
        ("an unknown compiler", "cortex-a78ae", "-mcpu=cortex-a78ae"),
    ],
)
def test_a_compiler_older_than_the_cpu_gets_the_cpus_architecture(
    version: str, cpu: str, option: str, tmp_path: Path
) -> None:
    target = {"arch": "aarch64", "glibc": "2.28", "cpu": cpu}
    made = whole(profile(target=target), host=replace(PI, cc=Program("/usr/bin/cc", version)))
    assert made.toolchain.compiler(made.host, made.goal, None, tmp_path).cflags == option


def test_a_plan_without_the_library_is_none_for_onnx_runtime() -> None:
    with pytest.raises(UsageError, match="no wheel for ONNX Runtime") as caught:
        make_plan(profile(), X86).for_onnx()
    assert "mambaport_onnx" in str(caught.value.found)
