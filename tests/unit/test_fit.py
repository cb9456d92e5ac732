"""Whether a wheel with CUDA extensions fits an environment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import write_wheel

from mambaport.cuda.machine import Gpu
from mambaport.errors import InstallError
from mambaport.installing import check_fit
from mambaport.interpreter import Interpreter, Torch
from mambaport.wheels import Wheel, read_wheel

ORIN, DESKTOP = Gpu("Orin", "87"), Gpu("A100", "80")
FACTS = {
    "version": "12.6", "sm": ["87"], "ptx": [], "torch_minor": "2.5", "torch_cuda": "12.6",
}  # fmt: skip
JETSON = Interpreter(
    executable="/opt/mamba/bin/python", version="3.10.12", implementation="CPython", arch="aarch64", bits=64,
    glibc="2.35", prefix="/opt/mamba", virtual=True, purelib="/opt/mamba/lib", externally_managed=False,
    torch=Torch(version="2.5.0a0+872d972e41.nv24.8", cuda="12.6", path="/opt/torch.dist-info"), packages={},
)  # fmt: skip


def wheel(folder: Path, facts: dict[str, Any] | None) -> Wheel:
    record = json.dumps({} if facts is None else {"cuda": facts}).encode()
    return read_wheel(write_wheel(folder, {"demo-1.0+cpu.1.dist-info/provenance.json": record}))


def reasons(folder: Path, facts: dict[str, Any], target: Interpreter = JETSON, gpus: Any = (ORIN,)) -> str:
    with pytest.raises(InstallError) as caught:
        check_fit([wheel(folder, facts)], target, gpus)
    assert "/opt/mamba" in str(caught.value.expected)
    assert "mambaport build" in str(caught.value.hint)
    return str(caught.value.found)


def torch(version: str, cuda: str | None) -> Interpreter:
    return JETSON.model_copy(update={"torch": Torch(version=version, cuda=cuda, path="/opt/torch.dist-info")})


def test_the_devices_own_wheel_fits(tmp_path: Path) -> None:
    check_fit([wheel(tmp_path, FACTS)], JETSON, [ORIN])
    check_fit([wheel(tmp_path, FACTS)], JETSON, [])  # where no driver names the GPU
    check_fit([wheel(tmp_path, FACTS)], JETSON.model_copy(update={"version": "3.12.3"}), [ORIN])


def test_a_wheel_without_cuda_fits_everywhere(tmp_path: Path) -> None:
    check_fit([wheel(tmp_path, None)], torch("2.9.1+cpu", None), [])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (torch("2.6.0", "12.6"), "built for torch 2.5, this is 2.6"),
        (torch("2.5.1+cpu", None), "this torch has no CUDA"),
        (torch("2.5.1+cu130", "13.0"), "built for CUDA 12, this torch has CUDA 13"),
    ],
)
def test_another_torch_is_refused_with_the_reason(tmp_path: Path, target: Interpreter, said: str) -> None:
    assert said in reasons(tmp_path, FACTS, target)


def test_a_gpu_without_a_kernel_image_is_refused(tmp_path: Path) -> None:
    assert "built for sm_87, A100 is sm_80 (no kernel image)" in reasons(tmp_path, FACTS, gpus=[DESKTOP])
    # A cubin runs on later minors of its major; a Jetson's GPU is none of a desktop's.
    assert "Orin is sm_87" in reasons(tmp_path, {**FACTS, "sm": ["80"]})
    check_fit([wheel(tmp_path, {**FACTS, "sm": ["80"]})], JETSON, [replace(DESKTOP, sm="86")])
    check_fit([wheel(tmp_path, {**FACTS, "sm": [], "ptx": ["80"]})], JETSON, [ORIN])
