"""Kernels for newer CPUs in a section of their own: what the audit allows, and that the guard is there.

The library is what a kernel with a level looks like: one function in the section, one without, and a guard
that asks the CPU. ``kernels/wheels.toml`` names the sections of the wheels' libraries, and their guards.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mambaport.auditing.elf import Library
from mambaport.auditing.isa import isa_finding
from mambaport.contents import Level, contents
from mambaport.goal import Goal

CC, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
pytestmark = pytest.mark.skipif(
    shutil.which(CC) is None or shutil.which(QEMU) is None, reason=f"needs {CC} and {QEMU}"
)
PI = Goal("aarch64", "2.28", "cortex-a72")
DOTPROD = Level(section="mambaport_dotprod", features=frozenset({"dotprod"}), guard="has_dotprod")
KERNEL = """
#include <arm_neon.h>
#include <stdint.h>
#include <sys/auxv.h>
#define LEVEL __attribute__((noinline, section("mambaport_dotprod"), target("arch=armv8.2-a+dotprod")))

LEVEL static int32_t dot_new(const int8_t *a, const int8_t *b) {
  return vaddvq_s32(vdotq_s32(vdupq_n_s32(0), vld1q_s8(a), vld1q_s8(b)));
}
static int32_t dot_old(const int8_t *a, const int8_t *b) {
  return vaddlvq_s16(vaddq_s16(vmull_s8(vld1_s8(a), vld1_s8(b)), vmull_s8(vld1_s8(a + 8), vld1_s8(b + 8))));
}
static int has_dotprod(void) { return GUARD; }
int32_t dot(const int8_t *a, const int8_t *b) { return has_dotprod() ? dot_new(a, b) : dot_old(a, b); }
"""
MAIN = """
#include <stdint.h>
int32_t dot(const int8_t *, const int8_t *);
int main(void) {
  int8_t a[16], b[16];
  for (int i = 0; i < 16; i++) a[i] = i - 8, b[i] = 3 * i - 20;
  return dot(a, b) == 1000 ? 0 : 1;
}
"""
ASKS = "(getauxval(AT_HWCAP) >> 20) & 1"


def compiled(folder: Path, guard: str) -> Path:
    (folder / "kernel.c").write_text(KERNEL.replace("GUARD", guard), encoding="utf-8")
    library = folder / "libkernel.so"
    flags = ["-mcpu=cortex-a72", "-O2", "-fPIC", "-shared", "-s", "-Wl,-z,separate-code"]
    subprocess.run([CC, *flags, "kernel.c", "-o", library], cwd=folder, check=True)
    return library


def verdict(library: Path, *levels: Level) -> tuple[str, str]:
    found = isa_finding([Library("libkernel.so", library.read_bytes())], PI, levels)
    return found.verdict, found.found


def test_a_level_is_allowed_in_its_section_and_nowhere_else(tmp_path: Path) -> None:
    library = compiled(tmp_path, ASKS)
    assert verdict(library)[0] == "fail"
    assert "dotprod, such as" in verdict(library)[1]
    allowed = verdict(library, DOTPROD)
    assert allowed[0] == "pass"
    assert allowed[1].endswith("none above cortex-a72 but in mambaport_dotprod")
    other = DOTPROD.model_copy(update={"section": "mambaport_other"})
    assert verdict(library, other)[0] == "fail"
    lesser = DOTPROD.model_copy(update={"features": frozenset({"crc"})})
    assert "libkernel.so, section mambaport_dotprod: dotprod, such as" in verdict(library, lesser)[1]


def run(folder: Path, cpu: str) -> int:
    (folder / "main.c").write_text(MAIN, encoding="utf-8")
    subprocess.run(
        [CC, "-static", "main.c", "kernel.c", "-mcpu=cortex-a72", "-O2", "-o", "main"], cwd=folder, check=True
    )
    return subprocess.run(
        [QEMU, "-cpu", cpu, "./main"], cwd=folder, check=False, capture_output=True
    ).returncode


def test_the_guard_keeps_a_level_from_a_cpu_without_it(tmp_path: Path) -> None:
    compiled(tmp_path, ASKS)
    assert run(tmp_path, "cortex-a72") == 0
    assert run(tmp_path, "max") == 0


def test_a_guard_that_asks_nothing_is_found_out(tmp_path: Path) -> None:
    compiled(tmp_path, "1")
    assert run(tmp_path, "max") == 0
    assert run(tmp_path, "cortex-a72") not in (0, 1)  # an illegal instruction


@pytest.mark.parametrize("level", contents().level, ids=lambda level: level.section)
def test_every_level_of_the_kernels_has_its_guard(level: Level) -> None:
    """The sources name the guard; the emulated suites run the libraries on a Cortex-A72."""
    sources = Path(__file__).parents[2] / "kernels" / "csrc"
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(sources.rglob("*.[ch]")))
    assert f"{level.guard}(" in text
