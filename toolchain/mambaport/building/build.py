"""One package's build: its PEP 517 hook, run in the isolated environment, with a log."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pyproject_hooks import BackendUnavailable, BuildBackendHookCaller

from mambaport import process
from mambaport.building.compiler_cache import CompilerCache
from mambaport.building.cuda import CudaParts, cuda_config, cuda_environment
from mambaport.building.provenance import external_requirements, provenance
from mambaport.errors import BuildError, disk_full
from mambaport.failures import explain
from mambaport.plan import PackagePlan, Plan
from mambaport.report import Report
from mambaport.toolchains import Compiler
from mambaport.wheels import UNREADABLE_ZIP

# Names the configuration file for kernels/mambaport_build.
VARIABLE = "MAMBAPORT_BUILD_CONFIG"
BACKEND = "setuptools.build_meta"
# A port where nothing listens. Where the kernel cannot isolate a build, this proxy still stops downloads.
NOWHERE = "http://127.0.0.1:9"
STALLED_SECONDS = 300.0
"""How long a build may go on without using the processor. A link with zig has waited for over an hour."""


def build_wheel(
    plan: Plan,
    package: PackagePlan,
    tree: Path,
    python: Path,
    compiler: Compiler,
    parts: CudaParts | None,
    cache: CompilerCache | None,
    log: Path,
    destination: Path,
    scratch: Path,
    report: Report,
    tag_of: Callable[[Path], str],
) -> Path:
    """Builds one wheel from its patched tree into ``destination``.

    Args:
        parts: toolkit and torch of the package's CUDA library; None without one
        cache: the compiler cache; None where none runs
        tag_of: the platform tag for a wheel, by what is in it

    Raises:
        BuildError: the package's build failed; the error quotes the end of the log.
        HostError: the disk is full, or the host compiler cannot link.
    """
    environment = {
        **_environment(plan, package, compiler, scratch),
        **(cuda_environment(parts, plan.host.path) if parts else {}),
        **(cache.environment if cache else {}),
        VARIABLE: str(_write_config(plan, parts, cache, scratch)),
    }
    raw = scratch / "raw"
    raw.mkdir()
    with warnings.catch_warnings(), report.working("build", f"{package.name} {package.version}") as latest:
        finished: list[process.Finished] = []

        def runner(
            cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None
        ) -> None:
            words = [*(plan.host.network_isolation or ()), *cmd]
            for attempt in (1, 2):
                result = process.run(
                    words,
                    env={**environment, **(extra_environ or {})},
                    cwd=Path(cwd) if cwd else tree,
                    log=log,
                    on_line=latest,
                    stalled_after=STALLED_SECONDS,
                )
                if result.ok or not result.stalled:
                    break
                if attempt == 2:
                    raise _stalled(package, result.tail, log)
                if cache is not None:  # its compilers are no descendants of the program
                    cache.end_compilers()
                report.warn(f"the build of {package.name} stood still, and is started again where it was")
            finished.append(result)
            if not result.ok:
                raise _failed(package, result.returncode, result.tail, log)

        hooks = BuildBackendHookCaller(str(tree), BACKEND, runner=runner, python_executable=str(python))
        try:
            warnings.simplefilter("ignore")  # of the build backend; the log has them too
            name = hooks.build_wheel(str(raw))
        except BackendUnavailable as fault:
            raise _failed(package, 0, str(fault), log) from None
    wheel = raw / name
    try:
        platform = tag_of(wheel)
    except UNREADABLE_ZIP as fault:
        raise _failed(package, 0, f"a compiled file in {name} cannot be read: {fault}", log) from None
    return _with_provenance(plan, package, wheel, platform, destination, scratch, environment)


def _write_config(plan: Plan, parts: CudaParts | None, cache: CompilerCache | None, scratch: Path) -> Path:
    """The file that kernels/mambaport_build/config.py reads."""
    cuda = cuda_config(plan.cuda, parts, scratch) if plan.cuda is not None and parts is not None else None
    config = {
        "jobs": plan.jobs,
        "memory_mib": plan.host.available_mib,
        "launcher": [str(cache.program)] if cache else [],
        "wheel_tag": ["py3", "none", plan.goal.platform_tag],
        "cuda": cuda,
    }
    path = scratch / "build-config.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return path


def _environment(plan: Plan, package: PackagePlan, compiler: Compiler, scratch: Path) -> dict[str, str]:
    """All variables of a build. Of the caller's environment, only PATH is in it."""
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": plan.host.path,
        "HOME": str(home),
        "TMPDIR": str(home),
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_NO_INDEX": "1",
        "http_proxy": NOWHERE,
        "https_proxy": NOWHERE,
        "SOURCE_DATE_EPOCH": str(package.source.epoch),
        "CC": compiler.cc,
        "CFLAGS": compiler.cflags,
        package.source.local_version_variable: package.local_version,
        **dict(package.environment),
        **dict(compiler.environment),
    }


def _with_provenance(
    plan: Plan,
    package: PackagePlan,
    raw: Path,
    platform: str,
    destination: Path,
    scratch: Path,
    environment: Mapping[str, str],
) -> Path:
    """Adds provenance, SBOM and the platform tag to the wheel's .dist-info, and packs it anew with ``wheel``.

    Files get fixed modes and are packed under SOURCE_DATE_EPOCH, so the same content gives the same bytes.
    """
    from mambaport.building.sbom import sbom  # noqa: PLC0415 - slow to import, and most runs build no wheel

    opened = scratch / "opened"
    _wheel_tool(["unpack", str(raw), "--dest", str(opened)], environment)
    root = next(opened.iterdir())
    info = next(root.glob("*.dist-info"))
    (info / "provenance.json").write_text(provenance(plan, package), encoding="utf-8")
    _add_requirements(info / "METADATA", external_requirements(plan))
    _set_platform(info / "WHEEL", platform)
    (info / "sboms").mkdir()
    (info / "sboms" / f"{package.name}.cdx.json").write_text(sbom(plan, package), encoding="utf-8")
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)
    packed = scratch / "packed"
    packed.mkdir()
    _wheel_tool(["pack", str(root), "--dest-dir", str(packed)], environment)
    wheel = next(packed.glob("*.whl"))
    return Path(shutil.move(wheel, destination / wheel.name))


def _set_platform(record: Path, platform: str) -> None:
    """Replaces the platform of each tag in a WHEEL file; ``wheel pack`` names the wheel by them."""
    text = record.read_text(encoding="utf-8")
    record.write_text(re.sub(r"(?m)^(Tag: [^-\s]+-[^-\s]+-).*$", rf"\g<1>{platform}", text), encoding="utf-8")


def _add_requirements(metadata: Path, lines: list[str]) -> None:
    """Adds header lines to a METADATA file."""
    head, separator, body = metadata.read_text(encoding="utf-8").partition("\n\n")
    metadata.write_text("\n".join([head, *lines]) + separator + body, encoding="utf-8")


def _wheel_tool(arguments: list[str], environment: Mapping[str, str]) -> None:
    finished = process.run([sys.executable, "-I", "-m", "wheel", *arguments], env=environment)
    if not finished.ok:
        if "No space left" in finished.output:
            raise disk_full("a wheel")
        raise BuildError(f"`wheel {arguments[0]}` failed", detail=finished.tail)


def _stalled(package: PackagePlan, tail: str, log: Path) -> BuildError:
    return BuildError(
        f"The build of {package.name} {package.version} stood still twice, and was ended",
        found=f"for {STALLED_SECONDS:.0f} s, none of its programs used the processor or waited for a disk",
        expected="a compiler that ends",
        hint="the end of the log shows what ran last. Build with --jobs 1, or with another compiler "
        "(--toolchain). Where a variable of sccache names a shared cache, unset the variable; "
        f"the whole log is {log}",
        detail=tail,
    )


def _failed(package: PackagePlan, code: int, tail: str, log: Path) -> Exception:
    if "No space left on device" in tail:
        return disk_full(f"the build of {package.name}")
    known = "".join(f"{row}\n" for row in explain(tail))
    return BuildError(
        f"The build of {package.name} {package.version} failed",
        found=f"exit status {code}" if code else "no wheel",
        hint=f"{known}the end of its log is below; the whole log is {log}",
        detail=tail,
    )
