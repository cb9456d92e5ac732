"""Wheels as files: names, wheelhouse, provenance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import write_wheel

from mambaport import wheels
from mambaport.errors import InstallError, UsageError


def test_a_wheel_says_what_its_name_says(tmp_path: Path) -> None:
    wheel = wheels.read_wheel(write_wheel(tmp_path, {}, name="causal_conv1d", version="1.6.0+rpi.cpu.1"))
    assert (wheel.name, wheel.version) == ("causal-conv1d", "1.6.0+rpi.cpu.1")
    assert wheel.tag == "py3-none-linux_aarch64"
    assert len(wheel.sha256) == 64


@pytest.mark.parametrize("name", ["demo.zip", "demo-1.0.whl", "demo-one-py3-none-any.whl"])
def test_a_name_that_is_no_wheels_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"is not a wheel's name"):
        wheels.read_wheel(tmp_path / name)
    with pytest.raises(UsageError, match="There is no wheel"):
        wheels.read_wheel(tmp_path / "missing-1.0-py3-none-any.whl")


def test_a_wheel_is_put_into_the_wheelhouse_whole_and_once(tmp_path: Path) -> None:
    built = write_wheel(tmp_path / "built", {"demo.py": b"x"})
    house = tmp_path / "new" / "house"
    put = wheels.put(built, house)
    assert put.read_bytes() == built.read_bytes()
    first = put.stat().st_mtime_ns
    assert wheels.put(built, house) == put
    assert put.stat().st_mtime_ns == first
    put.write_bytes(b"other")
    wheels.put(built, house)
    assert put.read_bytes() == built.read_bytes()
    assert [path.name for path in house.iterdir()] == [built.name]


def test_a_wheel_replaces_those_of_its_version_and_architecture_under_another_tag(tmp_path: Path) -> None:
    old = write_wheel(tmp_path, {}, tag="py3-none-manylinux_2_36_aarch64")
    stay = [
        write_wheel(tmp_path, {}, tag="py3-none-linux_x86_64"),
        write_wheel(tmp_path, {}, version="1.0+cpu.2", tag="py3-none-manylinux_2_36_aarch64"),
        write_wheel(tmp_path, {}, name="other", tag="py3-none-manylinux_2_36_aarch64"),
    ]
    new = write_wheel(tmp_path, {}, tag="py3-none-manylinux_2_17_aarch64")
    (tmp_path / "notes.whl").write_text("not a wheel's name")
    assert wheels.drop_replaced(wheels.read_wheel(new)) == [old.name]
    assert {path.name for path in tmp_path.iterdir()} == {
        new.name,
        "notes.whl",
        *(path.name for path in stay),
    }


def test_the_wheel_of_exactly_one_version_is_found(tmp_path: Path) -> None:
    write_wheel(tmp_path, {}, version="1.0+cpu.1")
    newer = write_wheel(tmp_path, {}, version="1.0+cpu.2")
    assert wheels.find(tmp_path, "demo", "1.0+cpu.2").path == newer
    with pytest.raises(InstallError, match=r"has no demo 1\.0\+cpu\.3") as caught:
        wheels.find(tmp_path, "demo", "1.0+cpu.3")
    assert newer.name in str(caught.value.found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InstallError) as caught:
        wheels.find(tmp_path / "empty", "demo", "1.0")
    assert "no wheels" in str(caught.value.found)


def test_provenance_is_read_from_inside_and_empty_for_foreign_wheels(tmp_path: Path) -> None:
    record = {"demo-1.0+cpu.1.dist-info/provenance.json": json.dumps({"key": "k"}).encode()}
    assert wheels.read_wheel(write_wheel(tmp_path, record)).provenance() == {"key": "k"}
    assert wheels.read_wheel(write_wheel(tmp_path / "other", {})).provenance() == {}


def test_a_wheelhouse_is_the_folder_of_a_profile_or_the_one_above(tmp_path: Path) -> None:
    pi = write_wheel(tmp_path / "rpi", {}, version="1.0+rpi.cpu.1")
    jetson = write_wheel(tmp_path / "jetson-jetpack6", {}, version="1.0+jetson.orin.1")
    (tmp_path / "rpi" / "not-a-wheel.whl").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "rpi"):
        assert wheels.find(folder, "demo", "1.0+rpi.cpu.1").path == pi
    assert wheels.find(tmp_path, "demo", "1.0+jetson.orin.1").path == jetson
    with pytest.raises(InstallError) as caught:
        wheels.find(tmp_path, "demo", "2.0")
    assert f"rpi/{pi.name}" in str(caught.value.found)
    with pytest.raises(InstallError) as caught:
        wheels.find(tmp_path / "missing", "demo", "1.0")
    assert "no folder" in str(caught.value.found)


def test_a_wheel_is_put_through_no_link_and_a_failure_leaves_no_part(tmp_path: Path) -> None:
    built = write_wheel(tmp_path / "built", {"demo.py": b"x"})
    house, victim = tmp_path / "house", tmp_path / "victim"
    house.mkdir()
    victim.write_bytes(b"the user's\n")
    (house / f".{built.name}.part").symlink_to(victim)
    put = wheels.put(built, house)
    assert victim.read_bytes() == b"the user's\n"
    assert not put.is_symlink()
    assert put.stat().st_mode & 0o777 == 0o644
    put.unlink()
    put.mkdir()  # no file can take a folder's place
    before = sorted(house.iterdir())
    with pytest.raises(IsADirectoryError):
        wheels.put(built, house)
    assert sorted(house.iterdir()) == before


def test_a_wheel_is_put_beside_another_process_that_puts_the_same(tmp_path: Path) -> None:
    built = write_wheel(tmp_path / "built", {"demo.py": b"x"})
    house = tmp_path / "house"
    house.mkdir()
    part = house / f".{built.name}.part"
    part.write_bytes(b"half of another process")
    assert wheels.put(built, house).read_bytes() == built.read_bytes()
    assert part.read_bytes() == b"half of another process"
