"""Running the probe: by an interpreter of this machine, or by an emulated one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambaport import process
from mambaport.interpreter import quiet_environment
from mambaport.report import Report
from mambaport.verifying.emulation import EmulatedRoot
from mambaport.verifying.results import Verification, parse

PROBE = Path(__file__).with_name("probe")
PROBE_ONNX = Path(__file__).with_name("probe_onnx")


def probe_interpreter(python: Path, report: Report, compiled: Sequence[str] = ()) -> Verification:
    """Probes what an environment has installed; ``compiled`` are modules that must be there and compute.

    Raises:
        VerifyError: the probe did not finish.
    """
    with report.working("verify", str(python)) as latest:
        finished = process.run(
            [python, PROBE, *compiled], env=quiet_environment(), on_line=latest, cwd=Path("/")
        )
    return parse(finished)


def probe_onnx(python: Path, report: Report) -> Verification:
    """Probes the operators for ONNX Runtime in an environment, which needs no torch.

    Raises:
        VerifyError: the probe did not finish.
    """
    with report.working("verify", str(python)) as latest:
        finished = process.run([python, PROBE_ONNX], env=quiet_environment(), on_line=latest, cwd=Path("/"))
    return parse(finished, runtime="onnxruntime")


def probe_emulated(
    root: EmulatedRoot, site: Path, report: Report, compiled: Sequence[str] = ()
) -> Verification:
    """Probes wheels unpacked in ``site`` under an emulated aarch64 Python; ``compiled`` as above.

    Raises:
        VerifyError: the probe did not finish.
    """
    where = f"{root.system.name}, {root.cpu or 'max'}"
    with report.working("verify", f"aarch64 Python {root.system.python} ({where}), emulated") as latest:
        finished = root.run([str(PROBE), *compiled], [site], on_line=latest)
    return parse(finished, emulated=root.system.name, emulated_cpu=root.cpu or "max")
