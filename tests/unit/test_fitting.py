"""doctor names the profiles that fit a machine, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import HOST

from mambaport.boards import cubin_runs_on, runs_on
from mambaport.cuda.machine import CudaMachine, Gpu, Jetson
from mambaport.doctoring.fitting import fitting_profiles
from mambaport.host import Host


def machine(arch: str, glibc: str, sm: str = "", l4t: str = "", bits: int = 64) -> Host:
    gpus = (Gpu("a GPU", sm),) if sm else ()
    cuda = CudaMachine(gpus=gpus, jetson=Jetson(l4t, l4t) if l4t else None)
    return replace(HOST, arch=arch, glibc=glibc, cuda=cuda, bits=bits)


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (machine("aarch64", "2.36"), ["aarch64-cpu", "cpu", "rpi"]),
        (machine("aarch64", "2.27"), ["cpu"]),
        (machine("armv7l", "2.36", bits=32), []),
        (
            machine("aarch64", "2.35", l4t="36.4.3"),
            ["jetson --variant jetpack6", "aarch64-cpu", "cpu", "rpi"],
        ),
        (
            machine("aarch64", "2.39", sm="87", l4t="38.2.0"),
            ["cuda", "jetson --variant jetpack7", "aarch64-cpu", "cpu", "rpi"],
        ),
        (machine("aarch64", "2.39", sm="110", l4t="38.2.0"), ["cuda", "thor", "aarch64-cpu", "cpu", "rpi"]),
        (machine("aarch64", "2.39", sm="121"), ["cuda", "sbsa", "aarch64-cpu", "cpu", "rpi"]),
        (machine("aarch64", "2.35", sm="90"), ["cuda", "sbsa", "aarch64-cpu", "cpu", "rpi"]),
        (machine("x86_64", "2.36"), ["cpu", "x86-64-cpu"]),
        (machine("x86_64", "2.39", sm="89"), ["cuda", "x86-64-cuda", "cpu", "x86-64-cpu"]),
        (machine("x86_64", "2.39", sm="103"), ["cuda", "x86-64-cuda", "cpu", "x86-64-cpu"]),
        (machine("x86_64", "2.39", sm="75"), ["cuda", "cpu", "x86-64-cpu"]),
    ],
    ids=[
        "server",
        "old",
        "32 bit",
        "orin 6",
        "orin 7",
        "thor",
        "spark",
        "gh200",
        "laptop",
        "rtx 40",
        "b300",
        "rtx 20",
    ],
)
def test_the_profiles_that_fit(host: Host, names: list[str]) -> None:
    assert fitting_profiles(host) == names


@pytest.mark.parametrize(
    ("cubin", "sm", "runs"),
    [
        ("80", "80", True),
        ("80", "89", True),
        ("100", "103", True),
        ("90", "80", False),
        ("80", "90", False),
        ("80", "87", False),  # a Jetson's
        ("87", "89", False),
        ("87", "87", True),
    ],
)
def test_a_cubin_runs_on_later_minors_of_its_major(cubin: str, sm: str, runs: bool) -> None:
    assert cubin_runs_on(cubin, sm) is runs
    assert runs_on(sm, [cubin], []) is runs
    assert runs_on(sm, [cubin], [cubin]) is (int(cubin) <= int(sm))
