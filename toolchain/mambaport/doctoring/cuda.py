"""The CUDA side of an examination: toolkit, JetPack, memory for nvcc, torch's GPU, the extensions, power."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mambaport import process
from mambaport.boards import jetpack_of, runs_on
from mambaport.doctoring.checks import Check
from mambaport.failures import explain
from mambaport.goal import CudaGoal
from mambaport.host import Host
from mambaport.interpreter import python_environment
from mambaport.profile import Profile
from mambaport.settings import read_settings

_ASK = Path(__file__).with_name("ask_torch.py")
_FULL_POWER = "sudo nvpmodel -m 0 && sudo jetson_clocks"


def cuda_facts(host: Host) -> dict[str, str]:
    """CUDA on this machine, for people; empty without CUDA."""
    machine = host.cuda
    found = {}
    if machine.jetson is not None:
        found["Jetson"] = f"L4T {machine.jetson.l4t} (JetPack {machine.jetson.jetpack})"
    if machine.gpus:
        found["GPU"] = ", ".join(f"{gpu.name} (sm_{gpu.sm})" for gpu in machine.gpus)
    if machine.toolkits:
        found["CUDA"] = ", ".join(f"{item.release} ({item.origin})" for item in machine.toolkits)
    return found


def cuda_checks(profile: Profile, goal: CudaGoal, host: Host, *, native: bool) -> list[Check]:
    """What building the CUDA extensions needs."""
    checks = [_toolkit(goal, host, native=native), _memory(profile, host)]
    return [_jetpack(host), *checks, _power()] if host.cuda.jetson is not None else checks


def gpu_checks(goal: CudaGoal, host: Host, python: Path) -> list[Check]:
    """What running the extensions needs: a GPU that torch can use, and extensions that load.

    Runs ``python``, which imports torch."""
    facts = _ask(python)
    if facts is None:
        return []  # the check "environment" reports this
    torch = facts["torch"]
    checks = [_torch(torch, goal, host)]
    if torch.get("available"):
        checks.append(_kernels(torch, goal))
    for name, fault in facts["extensions"].items():
        checks.append(Check(name, "good", "loads") if fault is None else _explained(name, fault))
    found = "installed" if facts["triton"] else "not installed: norms and Mamba-2 run in PyTorch on the GPU"
    checks.append(Check("triton", "good" if facts["triton"] else "optional", found))
    return checks


def _toolkit(goal: CudaGoal, host: Host, *, native: bool) -> Check:
    name = "CUDA toolkit"
    toolkit = host.cuda.toolkit(goal.version)
    if toolkit is not None:
        unset = "" if read_settings().cuda_home else "; CUDA_HOME is unset, mambaport sets it for the build"
        return Check(name, "good", f"{toolkit.release} ({toolkit.origin}){unset if native else ''}")
    others = ", ".join(f"{item.release} ({item.origin})" for item in host.cuda.toolkits)
    if not native:
        return Check(name, "good", f"CUDA {goal.major} is fetched into the store when a build needs it")
    rejected = "; ".join(host.cuda.looked)
    hint = "sudo apt-get install nvidia-jetpack" if host.cuda.jetson else f"install CUDA {goal.major}"
    found = f"CUDA {goal.major} is needed, this machine has {others}" if others else rejected or "no nvcc"
    return Check(name, "missing", found, f"{hint}; or name it with --cuda-home DIR")


def _memory(profile: Profile, host: Host) -> Check:
    each = profile.build.memory_per_job_mib
    jobs = max(1, min(host.cores, host.available_mib // each))
    found = (
        f"{host.available_mib / 1024:.1f} GiB available and {host.swap_mib / 1024:.1f} GiB swap: "
        f"{jobs} compiler job{'s' if jobs > 1 else ''} of {each / 1024:.1f} GiB"
    )
    if host.available_mib + host.swap_mib >= each:
        return Check("memory for nvcc", "good", found)
    hint = (
        "close other programs, or add swap: sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && "
        "sudo mkswap /swapfile && sudo swapon /swapfile"
    )
    return Check("memory for nvcc", "missing", found, hint)


def _jetpack(host: Host) -> Check:
    jetson = host.cuda.jetson
    assert jetson is not None
    found = f"L4T {jetson.l4t}, JetPack {jetson.jetpack}"
    platform = jetpack_of(jetson.l4t_major)
    if platform is not None and platform.supported:
        return Check("JetPack", "good", found)
    return Check("JetPack", "missing", found, "update the Jetson to JetPack 6 or 7: CUDA 11 is too old")


def _power() -> Check:
    program = shutil.which("nvpmodel")
    if program is None:
        return Check("power mode", "optional", "no nvpmodel on PATH", "")
    output = process.run([program, "-q"]).output
    mode = next((line.split(":", 1)[1].strip() for line in output.splitlines() if "Power Mode" in line), "")
    if mode.upper().startswith("MAXN"):
        return Check("power mode", "good", mode)
    return Check(
        "power mode", "optional", mode or "not reported by nvpmodel", f"for full speed: {_FULL_POWER}"
    )


def _torch(torch: dict[str, Any], goal: CudaGoal, host: Host) -> Check:
    name = "torch's GPU"
    if "fault" in torch:
        return _explained(name, torch["fault"])
    jetson = host.cuda.jetson
    version, cuda = torch["version"], torch["cuda"]
    right = "install NVIDIA's torch for this JetPack" if jetson else "install a torch with CUDA"
    if cuda is None:
        return Check(name, "missing", f"torch {version} is built without CUDA", right)
    # A torch of another CUDA major than the JetPack's is not made for the Jetson.
    platform = jetpack_of(jetson.l4t_major) if jetson else None
    wanted = platform.cuda_major if platform else None if jetson else goal.major
    if wanted is not None and int(cuda.split(".")[0]) != wanted:
        what = "a build for ARM servers, from the package index" if jetson else "another CUDA"
        return Check(name, "missing", f"torch {version} has CUDA {cuda}, not {wanted}: {what}", right)
    if not torch["available"]:
        hint = "check the driver, and that this user may open the GPU: sudo usermod -aG video,render $USER"
        return Check(name, "missing", f"torch {version}, CUDA {cuda}, sees no GPU", hint)
    return Check(name, "good", f"{torch['gpu']}, sm_{torch['sm']}, torch {version}, CUDA {cuda}")


def _kernels(torch: dict[str, Any], goal: CudaGoal) -> Check:
    name = "kernels for this GPU"
    if "kernel_fault" in torch:
        return _explained(name, torch["kernel_fault"])
    if goal.sm and not runs_on(torch["sm"], goal.sm, goal.ptx):
        wanted = ", ".join(f"sm_{sm}" for sm in goal.sm)
        hint = "build with `-p cuda`, which builds for this machine's GPU"
        hint += ", and without TORCH_CUDA_ARCH_LIST" if read_settings().cuda_architectures else ""
        return Check(name, "missing", f"the profile is for {wanted}, this GPU is sm_{torch['sm']}", hint)
    return Check(name, "good", f"torch runs one, of {' '.join(torch['architectures'])}")


def _explained(name: str, fault: str) -> Check:
    rows = explain(fault)
    return Check(name, "missing", fault, rows[0].failure.hint if rows else "see the error")


def _ask(python: Path) -> dict[str, Any] | None:
    try:
        finished = process.run([python, _ASK], env=python_environment(), cwd=Path("/"))
    except OSError:
        return None
    for line in reversed(finished.output.splitlines()):
        if line.startswith('{"torch"'):
            found: dict[str, Any] = json.loads(line)
            return found
    return {"torch": {"fault": finished.tail}, "triton": False, "extensions": {}}
