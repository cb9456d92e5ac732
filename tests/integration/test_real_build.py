"""Real wheels: fetched from the index, patched, compiled, audited; and the same again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from real import digests, mambaport, scratch, sha256, store_beside

from mambaport.releases import read_source

pytestmark = pytest.mark.network
PACKAGES = ["causal-conv1d", "mamba-ssm"]


def test_the_answer_has_every_wheel_with_its_digests(rpi: Any) -> None:
    assert rpi["profile"] == "rpi-cpu"
    assert [wheel["name"] for wheel in rpi["wheels"]] == PACKAGES
    for wheel in rpi["wheels"]:
        path = Path(wheel["path"])
        assert path.parent == Path(rpi["wheelhouse"])
        assert wheel["tag"] == "py3-none-manylinux_2_17_aarch64"
        assert (wheel["sha256"], wheel["size"]) == (sha256(path), path.stat().st_size)
        assert Path(wheel["log"]).read_text().count("compile kernels/csrc/") >= 5
        pinned = read_source(wheel["name"], wheel["version"].partition("+")[0])
        assert wheel["sources"] == [{"filename": a.filename, "sha256": a.sha256} for a in pinned.archive]
        patches = [patch for item in wheel["patch_sets"] for patch in item["patches"]]
        assert patches
        assert all(len(patch["sha256"]) == 64 for patch in patches)
        assert wheel["audit"]["ok"] is True
        rules = {finding["rule"]: finding["verdict"] for finding in wheel["audit"]["findings"]}
        assert set(rules.values()) == {"pass"}
        assert {"RECORD", "METADATA", "tag", "origin", "arch", "glibc", "needed", "isa"} <= set(rules)


def test_the_version_has_a_local_label_and_still_matches_upstreams(rpi: Any) -> None:
    for wheel, asked in zip(rpi["wheels"], ["==1.6.0", "==2.2.4"], strict=True):
        assert "+rpi.cpu." in wheel["version"]
        assert SpecifierSet(asked).contains(wheel["version"])


def test_a_wheel_carries_its_provenance_and_sbom(rpi: Any) -> None:
    for wheel in rpi["wheels"]:
        with zipfile.ZipFile(wheel["path"]) as archive:
            (record,) = (name for name in archive.namelist() if name.endswith("provenance.json"))
            (bom,) = (name for name in archive.namelist() if "/sboms/" in name)
            provenance, components = json.loads(archive.read(record)), json.loads(archive.read(bom))
        assert provenance["sources"] == wheel["sources"]
        assert provenance["patch_sets"] == wheel["patch_sets"]
        assert provenance["toolchain"]["name"] == "zig"
        assert components["bomFormat"] == "CycloneDX"
        text = json.dumps([provenance, components])
        assert "/tmp" not in text
        assert str(Path.home()) not in text


def test_the_second_time_everything_comes_from_the_store_without_network(
    rpi: Any, shared: Path, tmp_path: Path
) -> None:
    words = ("-p", "rpi", "--toolchain", "zig", "--offline")
    again = mambaport(shared, "build", *words, "-o", tmp_path / "house").good()
    assert [wheel["cached"] for wheel in again["wheels"]] == [True, True]
    assert digests(again) == digests(rpi)
    files = mambaport(shared, "fetch", *words).good()["files"]
    assert all(sha256(Path(file["path"])) == file["sha256"] for file in files)
    assert {file["filename"] for file in files} >= {
        "causal_conv1d-1.6.0.tar.gz",
        "mamba_ssm-2.2.4.tar.gz",
        "mamba_ssm-2.2.5.tar.gz",
    }


def test_another_store_another_folder_and_a_mirror_give_the_same_bytes(
    rpi: Any, shared: Path, mirror: Path, tmp_path: Path
) -> None:
    store = store_beside(shared, tmp_path / "quite" / "another place", "toolchains")
    words = ("build", "-p", "rpi", "--toolchain", "zig", "--mirror", mirror, "-o", tmp_path / "house")
    again = mambaport(store, *words).good()
    assert [wheel["cached"] for wheel in again["wheels"]] == [False, False]
    assert digests(again) == digests(rpi)
    assert scratch(store) == []


def test_a_wheel_damaged_in_the_store_is_built_again(
    board: Path, board_wheels: Any, shared: Path, tmp_path: Path
) -> None:
    store = store_beside(shared, tmp_path, "archives", "environments", "toolchains")
    for entry in (shared / "wheels").iterdir():
        shutil.copytree(entry, store / "wheels" / entry.name)
    (kept,) = (store / "wheels").glob("*/*my.board*.whl")
    kept.write_bytes(kept.read_bytes()[:-1])
    again = mambaport(store, "build", "-p", board, "-o", tmp_path / "house").good()
    assert again["wheels"][0]["cached"] is False
    assert digests(again) == digests(board_wheels)


def test_gcc_makes_wheels_that_pass_the_same_audit(rpi: Any, shared: Path, tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no aarch64-linux-gnu-gcc here")
    words = ("-p", "rpi", "--toolchain", "gcc-aarch64")
    made = mambaport(shared, "build", *words, "-o", tmp_path / "house").good()
    assert all(wheel["audit"]["ok"] for wheel in made["wheels"])
    # The glibc of the machine that builds decides N.
    assert all(re.fullmatch(r"py3-none-manylinux_2_\d+_aarch64", wheel["tag"]) for wheel in made["wheels"])


def test_zig_compiles_for_the_machine_it_runs_on_too(board: Path, shared: Path, tmp_path: Path) -> None:
    made = mambaport(shared, "build", "-p", board, "--toolchain", "zig", "-o", tmp_path / "house").good()
    assert made["wheels"][0]["audit"]["ok"]


@pytest.mark.parametrize(
    ("variables", "tags"),
    [
        (("CAUSAL_CONV1D_FORCE_FALLBACK", "SELECTIVE_SCAN_FORCE_FALLBACK"), ["any", "any"]),
        (("SELECTIVE_SCAN_FORCE_FALLBACK",), ["manylinux_2_17_aarch64", "any"]),
    ],
    ids=["both", "one"],
)
def test_a_fallback_build_has_nothing_compiled_and_fits_every_machine(
    rpi: Any, shared: Path, tmp_path: Path, variables: tuple[str, ...], tags: list[str]
) -> None:
    words = ("build", "-p", "rpi", "--toolchain", "zig", "-o", tmp_path / "house")
    made = mambaport(shared, *words, **dict.fromkeys(variables, "TRUE")).good()
    assert [wheel["tag"] for wheel in made["wheels"]] == [f"py3-none-{tag}" for tag in tags]
    for wheel in made["wheels"]:
        with zipfile.ZipFile(wheel["path"]) as archive:
            compiled = [name for name in archive.namelist() if archive.read(name)[:4] == b"\x7fELF"]
        assert bool(compiled) == (not wheel["tag"].endswith("any"))
        assert wheel["version"].endswith(".fallback") == wheel["tag"].endswith("any")


def test_an_x86_64_library_in_an_aarch64_wheel_is_refused(
    rpi: Any, cpu: Any, shared: Path, tmp_path: Path
) -> None:
    native = cpu["wheels"][0]
    if not native["tag"].endswith("x86_64"):
        pytest.skip("this machine makes no x86-64 libraries")
    target = rpi["wheels"][0]
    opened = tmp_path / "opened"
    wheel_tool("unpack", target["path"], "--dest", opened)
    (root,) = opened.iterdir()
    name = "causal_conv1d_cpu/libcausal_conv1d_cpu.so"
    with zipfile.ZipFile(native["path"]) as archive:
        (root / name).write_bytes(archive.read(name))
    wheel_tool("pack", root, "--dest-dir", tmp_path)
    (forged,) = tmp_path.glob("*.whl")
    assert forged.name == Path(target["path"]).name
    ran = mambaport(shared, "audit", forged, "-p", "rpi")
    assert ran.code == 14
    assert f"{name} is for x86_64" in ran.json["error"]["found"]
    findings = ran.json["audits"][0]["findings"]
    assert "arch" in [finding["rule"] for finding in findings if finding["verdict"] == "fail"]


def wheel_tool(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "wheel", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def test_the_patched_trees_can_be_written_out_to_read(rpi: Any, shared: Path, tmp_path: Path) -> None:
    trees = mambaport(shared, "patch", "-p", "rpi", "-o", tmp_path / "trees", "--offline").good()["trees"]
    assert list(trees) == PACKAGES
    for tree in map(Path, trees.values()):
        assert (tree / "mambaport_build" / "setup_commands.py").is_file()
        assert list((tree / "kernels" / "csrc").glob("*_cpu/*.c"))
        assert not list(tree.rglob("*.orig"))
        sources = [str(path) for path in tree.rglob("*.py")]
        subprocess.run([sys.executable, "-m", "py_compile", *sources], check=True)


def test_every_patch_set_matches_its_source_and_lock(rpi: Any, shared: Path) -> None:
    patches = mambaport(shared, "patches", "check").good()["patches"]  # of every pinned release
    assert {patch["verdict"] for patch in patches} <= {"applies", "moved"}
    assert mambaport(shared, "patches", "refresh", "--offline").good() == {"changed": []}


def test_patches_are_held_against_a_version_that_is_not_pinned(shared: Path) -> None:
    ran = mambaport(shared, "patches", "check", "mamba-ssm", "--against", "2.2.2")
    verdicts = {(patch["set"], patch["patch"]): patch for patch in ran.json["patches"]}
    found = {patch["verdict"] for patch in verdicts.values()}
    assert found <= {"applies", "moved", "upstream", "drifted", "replaced-file-changed"}
    assert ran.code == 11
    # 2.2.2 differs in some of the places that the patches change, not in all.
    assert {"applies", "drifted"} <= found
    for patch in verdicts.values():
        states = {place["state"] for place in patch["places"]}
        assert ("moved" in states) >= (patch["verdict"] == "moved")
        assert bool(states & {"drifted", "applied", "no file"}) >= (patch["verdict"] == "drifted")


def test_a_newer_version_has_what_is_backported_to_an_older(shared: Path) -> None:
    ran = mambaport(shared, "patches", "check", "mamba-ssm", "--against", "2.3.0").good()
    verdicts = {(patch["set"], patch["patch"]): patch for patch in ran["patches"]}
    backport = verdicts["backports", "0011-conv-through-functions.patch"]
    assert (backport["verdict"], backport["note"]) == ("upstream", "since 2.2.5, differently")


def test_a_version_that_does_not_exist_exits_10(shared: Path) -> None:
    ran = mambaport(shared, "patches", "check", "mamba-ssm", "--against", "99.0")
    assert ran.code == 10
    assert "mamba-ssm 99.0" in ran.json["error"]["what"]
