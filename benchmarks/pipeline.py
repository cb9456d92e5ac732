"""Cycles of the kernels' hot loops on aarch64 cores, by LLVM's models of the cores (llvm-mca): no device.

    python -m benchmarks.pipeline                            # a table in Markdown
    python -m benchmarks.pipeline --kernels OTHER/kernels    # of another checkout, to compare with
    python -m benchmarks.pipeline --wheels wheelhouse/rpi    # the bytes of code of each instruction set

Run with a Python that has mambaport, whose pinned zig compiles the loops as it compiles the wheels. Debian's
package llvm has llvm-mca. The models assume that all data lies in the first cache and that every branch is
predicted. The cycles are those of one more iteration of a long loop: dependences between iterations count.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mambaport.auditing.elf import read_libraries
from mambaport.building import unpacked_toolchain
from mambaport.cli.options import open_session
from mambaport.toolchains import TOOLCHAINS

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "kernels"))
from mambaport_build.libraries import INSTRUCTION_SETS, OPERATORS, ZIG_OPTIONS  # noqa: E402
from mambaport_build.units import KERNEL_FLAGS  # noqa: E402

BASE = "-mcpu=cortex_a72"
# llvm-mca's models, and the best instruction set of each core.
CORES = {"cortex-a72": "base", "neoverse-n1": "dotprod", "neoverse-n2": "sve"}


@dataclass(frozen=True)
class Loop:
    name: str
    operator: str
    """The file of kernels/csrc/*/operators that has the loop."""
    title: str
    unit: str
    per_iteration: int | None
    """Units of work in an iteration; None for products, whose multiply-adds are counted in the code."""


LOOPS = (
    Loop("scan", "scan_block", "scan, four states at once", "state update", 16),
    Loop("product", "product", "matrix product, float32", "multiply-add", None),
    Loop("gemm", "gemm", "many rows times float32 weights", "multiply-add", None),
    Loop("row_float32", "linear", "one row times float32 weights", "multiply-add", None),
    Loop("row_bfloat16", "linear", "one row times bfloat16 weights", "multiply-add", None),
    Loop("row_float16", "linear", "one row times float16 weights", "multiply-add", None),
    Loop("int8", "quantized", "int8 weights times one token", "multiply-add", 4 * 4 * 32),
    Loop("int4", "quantized", "int4 weights times one token", "multiply-add", 4 * 4 * 32),
    Loop("conv_silu", "conv", "convolution of width 4 + silu", "output", 4),
    Loop("load_float16", "tile", "read float16", "element", 4),
    Loop("store_float16", "tile", "write float16", "element", 4),
    Loop("load_bfloat16", "tile", "read bfloat16", "element", 4),
    Loop("store_bfloat16", "tile", "write bfloat16", "element", 4),
    Loop("load_float16_apart", "norm", "read float16 with a stride, or fewer than 4", "element", 1),
    Loop("store_float16_apart", "norm", "write float16 with a stride, or fewer than 4", "element", 1),
    Loop("store_bfloat16_apart", "norm", "write bfloat16 with a stride, or fewer than 4", "element", 1),
)
# Instruction of a product -> the multiply-adds in one.
MULTIPLY_ADDS = {"fmla": 4, "sdot": 16, "usdot": 16, "smmla": 32}


@dataclass(frozen=True)
class Measured:
    cycles: float
    """Per unit of work."""
    instructions: float
    """Per unit of work."""


def measure(loop: Loop, isa: str, core: str, kernels: Path, compiler: list[str], mca: str) -> Measured:
    lines = hot_loop(assembly(loop, isa, kernels, compiler))
    words = [line.split()[0] for line in lines]
    units = loop.per_iteration or sum(MULTIPLY_ADDS.get(word, 0) for word in words)
    few, many = (total_cycles(lines, core, mca, count) for count in (100, 200))
    return Measured((many - few) / 100 / units, len(words) / units)


def assembly(loop: Loop, isa: str, kernels: Path, compiler: list[str]) -> str:
    options = ZIG_OPTIONS.get(isa) or INSTRUCTION_SETS["aarch64"].get(isa) or (BASE,)
    # Without further unrolling an iteration is one of the source's.
    words = [
        *compiler,
        *KERNEL_FLAGS,
        *options,
        "-fno-unroll-loops",
        "-fno-vectorize",
        "-mno-outline-atomics",
    ]
    words += [
        f"-I{kernels / 'csrc' / folder}" for folder in ("common", "causal_conv1d_cpu", "selective_scan_cpu")
    ]
    words += [f"-DISA={isa}", f"-DLOOP_{loop.name}", f"-DPER_STEP={loop.per_iteration}", "-Wno-unused"]
    with tempfile.NamedTemporaryFile(suffix=".s") as file:
        words += ["-g0", "-S", "-o", file.name, str(HERE / "pipeline.c")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{loop.name} does not compile for {isa}:\n{done.stderr}")
        return Path(file.name).read_text(encoding="utf-8")


def hot_loop(text: str) -> list[str]:
    """The instructions of the innermost loop of `hot_loop` that has the most of them."""
    body = text[text.index("\nhot_loop:") : text.index(".size\thot_loop")]
    lines = [line.split("//")[0].strip() for line in body.splitlines()]
    lines = [line for line in lines if line and (not line.startswith(".") or line.endswith(":"))]
    labels = {line[:-1]: at for at, line in enumerate(lines) if line.endswith(":")}
    found = []
    for at, line in enumerate(lines):
        jump = re.match(r"(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        if jump and labels[jump[1]] < at:
            found.append((labels[jump[1]], at + 1))
    inner = [(a, b) for a, b in found if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in found)]
    first, last = max(inner, key=lambda span: span[1] - span[0])
    return [line for line in lines[first:last] if not line.endswith(":")]


def total_cycles(lines: list[str], core: str, mca: str, iterations: int) -> int:
    words = [mca, "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={iterations}"]
    words += ["-instruction-info=0", "-resource-pressure=0"]
    done = subprocess.run(words, input="\n".join(lines), capture_output=True, text=True, check=True)
    match = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert match is not None, done.stdout
    return int(match[1])


def compiled_for(loop: Loop, best: str) -> str:
    """The best set that the loop is compiled for, `best` or one before it."""
    sets = list(INSTRUCTION_SETS["aarch64"])
    chosen = OPERATORS["aarch64"]
    wanted = sets[: sets.index(best) + 1]
    return [isa for isa in wanted if isa == "base" or loop.operator in chosen[isa]][-1]


def figure(number: float) -> str:
    """A number with three digits."""
    return f"{number:.{2 if number >= 1 else 3}f}"


def rows(loops: list[Loop], kernels: Path, compiler: list[str], mca: str) -> Iterator[list[str]]:
    """The cells of the head, then those of each loop: the base's cycles; then those of the best set."""
    yield ["loop", "per", "instructions", *(f"cycles, {core}" for core in CORES)]
    for loop in loops:
        base = measure(loop, "base", "cortex-a72", kernels, compiler, mca)
        cells = []
        for core, best in CORES.items():
            own = measure(loop, "base", core, kernels, compiler, mca)
            cell = figure(own.cycles)
            isa = compiled_for(loop, best)
            if isa != "base" and (kernels / "csrc" / "common" / f"simd_{isa}.h").is_file():
                other = measure(loop, isa, core, kernels, compiler, mca)
                if abs(other.cycles - own.cycles) > 0.1 * own.cycles:  # less is another order of instructions
                    cell += f"; {isa} {figure(other.cycles)}"
            cells.append(cell)
        yield [loop.title, loop.unit, figure(base.instructions), *cells]


def sizes(wheels: Path) -> Iterator[list[str]]:
    """The bytes of code in each compiled file of the wheels: in the base, and in each set's section."""
    names = [name for name in INSTRUCTION_SETS["aarch64"] if name != "base"]
    yield ["library", "base", *names]
    for path in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(path) as archive:
            for library in read_libraries(archive):
                sections = {part.name: part.size for part in library.image.sections}
                bytes_of = [
                    sections.get(name, 0) for name in (".text", *(f"mambaport_{name}" for name in names))
                ]
                yield [library.name.rsplit("/", 1)[-1], *(f"{count:,}" for count in bytes_of)]


def print_table(table: Iterator[list[str]]) -> None:
    for number, cells in enumerate(table):
        print("| " + " | ".join(cells) + " |", flush=True)
        if not number:
            print("|" + "---|" * len(cells), flush=True)


def zig() -> list[str]:
    """The pinned zig as a C compiler for aarch64."""
    shop = open_session(as_json=True, quiet=True).shop
    tools = unpacked_toolchain(shop, TOOLCHAINS["zig"].pins(shop.host))
    assert tools is not None
    return [str(tools / "ziglang" / "zig"), "cc", "-target", "aarch64-linux-gnu.2.28"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--kernels", type=Path, default=HERE.parent / "kernels", help="the folder kernels of a checkout"
    )
    names = [loop.name for loop in LOOPS]
    parser.add_argument(
        "--only", choices=names, nargs="+", default=names, metavar="LOOP", help=", ".join(names)
    )
    parser.add_argument("--mca", default="llvm-mca", help="llvm-mca of LLVM 16 or newer, such as llvm-mca-19")
    parser.add_argument("--wheels", type=Path, help="print the bytes of code in the wheels of this folder")
    options = parser.parse_args()
    if options.wheels:
        print_table(sizes(options.wheels))
        return
    if shutil.which(options.mca) is None:
        raise SystemExit(f"{options.mca} was not found: `sudo apt-get install llvm` installs it")
    loops = [loop for loop in LOOPS if loop.name in options.only]
    with tempfile.TemporaryDirectory() as cache:
        compiler = ["env", f"ZIG_LOCAL_CACHE_DIR={cache}", f"ZIG_GLOBAL_CACHE_DIR={cache}", *zig()]
        print_table(rows(loops, options.kernels.resolve(), compiler, options.mca))


if __name__ == "__main__":
    main()
