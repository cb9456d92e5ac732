"""The data of boards: every CPU whole and once, and unknown names answered with the nearest."""

from __future__ import annotations

import pytest

from mambaport.boards import cpus, find_cpu, nearest


def test_every_cpu_stands_once() -> None:
    names = [(cpu.name, cpu.arch) for cpu in cpus()]
    assert len(set(names)) == len(names)
    assert {("generic", "aarch64"), ("generic", "x86_64"), ("cortex-a72", "aarch64")} <= set(names)


def test_a_newer_core_has_what_an_older_of_its_family_has() -> None:
    features = {cpu.name: cpu.features for cpu in cpus() if cpu.arch == "aarch64"}
    assert features["generic"] <= features["cortex-a53"] <= features["cortex-a72"] < features["cortex-a76"]
    assert features["neoverse-v1"] - features["neoverse-v2"] == {"sm4"}
    assert features["cortex-x925"] == features["cortex-a725"]
    assert "aes" not in features["cortex-a72"]  # the Raspberry Pi 4 has no cryptography


def test_an_unknown_cpu_is_answered_with_the_nearest_names() -> None:
    assert find_cpu("cortex-a76", "aarch64").zig == "cortex_a76"
    with pytest.raises(LookupError, match=r"unknown CPU cortex-a71 for aarch64; nearest: .*cortex-a72"):
        find_cpu("cortex-a71", "aarch64")
    with pytest.raises(LookupError, match="unknown CPU cortex-a72 for x86_64; known: generic, x86-64-v2"):
        find_cpu("cortex-a72", "x86_64")
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
