"""The interface between the Python packages and their C libraries: what a mismatch, a setting or a huge shape gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import causal_conv1d_cpu
import pytest
import selective_scan_cpu
import torch
from causal_conv1d_cpu import _lib as conv_lib
from causal_conv1d_cpu._interface import ABSENT, Floats, Library, View
from causal_conv1d_cpu._library import view
from selective_scan_cpu import _lib as scan_lib

sys.path.append(str(Path(__file__).parents[1]))
from mambaport_build.libraries import INSTRUCTION_SETS

HUGE = 2**56


def test_a_library_of_another_build(tmp_path):
    """Such as one that an older wheel left: importing the package fails, in a process of its own."""
    source = Path(selective_scan_cpu.__file__).parent
    package = tmp_path / source.name
    shutil.copytree(source, package)
    other = Path(causal_conv1d_cpu.__file__).parent / "libcausal_conv1d_cpu.so"
    shutil.copy(other, package / "libselective_scan_cpu.so")
    command = [sys.executable, "-c", "import selective_scan_cpu"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    text = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stderr
    assert "ImportError: selective_scan_cpu: the library and the Python files are of different builds" in text
    assert f"found in {package / 'libselective_scan_cpu.so'}: it has no selective_scan_forward" in text
    assert "expected by the Python files: selective_scan_forward: integer batch, integer heads" in text


def test_files_that_are_no_library_of_ours(tmp_path):
    library = tmp_path / "libcausal_conv1d_cpu.so"
    with pytest.raises(ModuleNotFoundError, match="causal_conv1d_cpu was built without its library: there is no "):
        Library("causal_conv1d_cpu", str(tmp_path))
    library.write_text("no library")
    with pytest.raises(ImportError, match="causal_conv1d_cpu: its library cannot be loaded") as error:
        Library("causal_conv1d_cpu", str(tmp_path))
    assert not isinstance(error.value, ModuleNotFoundError)
    library.unlink()
    library.symlink_to(torch._C.__file__)
    with pytest.raises(ImportError, match="it has no function kernel_interface"):
        Library("causal_conv1d_cpu", str(tmp_path))


def test_a_field_of_another_name_kind_or_place():
    def linear_step(*, rows: int, columns: int, threads: int, weight: View, x: View, out: View, bias: View) -> None: ...

    with pytest.raises(ImportError) as error:
        scan_lib.library.kernel(linear_step)
    assert "field 6 of 7 of linear_step is tensor bias, tensor out" in str(error.value)
    assert "field 6 of 7: tensor out, tensor bias" in str(error.value)

    def linear_step(*, rows: int, columns: int, threads: int, weight: View, x: View, bias: Floats, out: View): ...

    with pytest.raises(ImportError, match="expected by the Python files: field 6 of 7: floats bias, tensor out"):
        scan_lib.library.kernel(linear_step)

    def linear_step(*, rows: int, columns: int, threads: int, weight: View, x: View, bias: View) -> None: ...

    with pytest.raises(ImportError, match="field 7 of 6: no more fields"):
        scan_lib.library.kernel(linear_step)


def test_a_call_names_every_field():
    fields = {"rows": 1, "columns": 1, "threads": 1, "weight": ABSENT, "x": ABSENT, "bias": ABSENT}
    with pytest.raises(TypeError, match="out"):
        scan_lib.linear_step(**fields)
    with pytest.raises(TypeError, match="other"):
        scan_lib.linear_step(**fields, out=ABSENT, other=1)


@pytest.mark.parametrize("package", [causal_conv1d_cpu, selective_scan_cpu])
def test_the_instruction_set(package, monkeypatch):
    name, folder, library = package.__name__, str(Path(package.__file__).parent), package._lib.library
    assert package.instruction_set() == library.instruction_set
    try:
        for wanted in library.available:
            monkeypatch.setenv("MAMBAPORT_KERNEL_ISA", wanted)
            assert Library(name, folder).instruction_set == wanted
        monkeypatch.setenv("MAMBAPORT_KERNEL_ISA", "")
        assert Library(name, folder).instruction_set == library.available[-1]
    finally:  # the setting is the library's, which this process loads once
        monkeypatch.setenv("MAMBAPORT_KERNEL_ISA", library.instruction_set)
        Library(name, folder)
    names = list(INSTRUCTION_SETS[os.uname().machine])
    monkeypatch.setenv("MAMBAPORT_KERNEL_ISA", "AVX2")
    with pytest.raises(ValueError, match=f"is 'AVX2', and the names are {', '.join(names)}; set it to one of "):
        Library(name, folder)
    monkeypatch.setattr(Library, "available", ["base"])
    monkeypatch.setenv("MAMBAPORT_KERNEL_ISA", names[1])
    with pytest.raises(ValueError, match="which this processor does not have; set it to one of base, or unset it"):
        Library(name, folder)


def test_shapes_that_no_memory_can_hold():
    """The elements of an expanded tensor share memory, so a shape may be larger than any memory."""
    one = torch.zeros(1)
    u, A, B = torch.zeros(1, 4, 8), one.expand(4, HUGE), one.expand(1, HUGE, 8)
    with pytest.raises(MemoryError, match="selective_scan_forward: the shapes need more scratch memory"):
        selective_scan_cpu.selective_scan(u, u, A, B, B)
    with pytest.raises(MemoryError, match="not enough memory"):
        selective_scan_cpu.selective_scan(u, u, A[:, : 2**44], B[:, : 2**44], B[:, : 2**44])
    with pytest.raises(MemoryError, match="causal_conv1d_update: the shapes need more"):
        conv_lib.causal_conv1d_update(
            batch=1, dim=4, seqlen=8, width=4, silu=True, threads=1, state_len=HUGE, x=view(u), out=view(u),
            weight=view(torch.zeros(4, 4)), bias=ABSENT, state=view(one.expand(1, 4, HUGE)), cache_seqlens=0,
            state_indices=0,
        )  # fmt: skip
    with pytest.raises(MemoryError, match="mamba_mixer_step: the shapes need more"):
        scan_lib.mamba_mixer_step(
            inner=4, dstate=HUGE, rank=1, width=4, features=4, threads=1, x=view(u), out=view(u), in_weight=view(u),
            in_bias=ABSENT, conv_weight=ABSENT, conv_bias=ABSENT, conv_state=ABSENT, x_weight=ABSENT, dt_weight=ABSENT,
            dt_bias=ABSENT, A_log=ABSENT, D=ABSENT, state=ABSENT, out_weight=ABSENT, out_bias=ABSENT,
        )  # fmt: skip
