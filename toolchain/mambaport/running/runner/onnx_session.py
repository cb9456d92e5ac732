"""ONNX Runtime: the packages, a session on a file, and what a file says of itself. No torch is needed."""

import importlib
import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path

from answers import Refusal, send
from device import processor

LEAST = {"torch": (2, 9), "onnx": (1, 17), "onnxscript": (0, 5), "onnxruntime": (1, 20)}
PREFIX = "mambaport."
FUSED_DOMAIN = "ai.mambaport"


def require_versions(*packages):
    """Checks that packages are installed, and new enough.

    Raises:
        Refusal: a package is missing or too old; the refusal says how to install it.
    """
    for name in packages:
        least = ".".join(map(str, LEAST[name]))
        needed = {
            "expected": f"{name} {least} or newer",
            "hint": f"pip install '{name}>={least}', into the environment that --python names",
        }
        try:  # onnxruntime-gpu is onnxruntime too
            module = importlib.import_module(name) if name == "onnxruntime" else None
            version = module.__version__ if module else metadata.version(name)
        except (metadata.PackageNotFoundError, ImportError):
            raise Refusal("host", f"There is no {name} in this environment", **needed) from None
        numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
        if numbers < LEAST[name]:
            raise Refusal(
                "host", f"The {name} of this environment is too old for ONNX", f"{name} {version}", **needed
            )


def open_session(path, threads=None):
    """An InferenceSession on the CPU.

    Raises:
        Refusal: the file is missing, damaged, without its weights, or for operators that are not installed.
    """
    import onnxruntime as ort

    if not Path(path).is_file():
        raise Refusal(
            "usage", f"There is no file {path}", hint="check the path; `mambaport export` writes a file"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    register_operators(options)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as fault:  # the errors of ONNX Runtime have no common base
        raise _explain(path, str(fault)) from None


def register_operators(options):
    """Gives a session mambaport's operators, where their library is installed.

    Raises:
        Refusal: the library is of another architecture, or does not fit this ONNX Runtime.
    """
    if not has_operators():
        return
    import mambaport_onnx

    try:
        mambaport_onnx.register(options)
    except Exception as fault:
        raise Refusal(
            "host",
            "The library of mambaport's ONNX operators cannot be loaded",
            found=str(fault).splitlines()[0],
            hint="install this machine's wheel: mambaport install -p cpu --runtime onnx --python PATH",
        ) from None


def has_operators():
    """Whether the library of the fused form is installed."""
    if importlib.util.find_spec("mambaport_onnx") is None:
        return False
    import mambaport_onnx

    return hasattr(mambaport_onnx, "register")


def no_operators(path):
    """The refusal of a file in the fused form where the operators are not installed."""
    return Refusal(
        "host",
        f"{path} needs mambaport's operators for ONNX Runtime, which this environment does not have",
        found=f"nodes of the domain {FUSED_DOMAIN}",
        expected="the package mambaport_onnx, which is in the mamba-ssm wheel",
        hint="mambaport install -p cpu --runtime onnx --python PATH (on a Raspberry Pi: -p rpi); or export "
        "with --form standard",
    )


def _explain(path, text):
    text = text.strip()
    if FUSED_DOMAIN in text and not has_operators():
        return no_operators(path)
    if FUSED_DOMAIN in text:
        return Refusal(
            "run",
            f"{path} was exported for other kernels than those of this environment",
            found=text.splitlines()[0],
            hint="export the model again with the mambaport and the wheels of this environment",
        )
    if "external" in text.lower() or "cannot get file size" in text.lower():
        return Refusal(
            "run",
            f"The weights of {path} are not beside it",
            found=text.splitlines()[0],
            expected=f"{Path(path).name}.data in the same folder",
            hint="copy both files, and keep the name of the second",
        )
    return Refusal(
        "run",
        f"ONNX Runtime does not take {path}",
        found=text.splitlines()[0],
        hint="compare the file's size with that of its source; `mambaport export` writes such a file",
    )


def properties(session):
    """What `mambaport export` wrote into the file: model, form, digest of the checkpoint, versions."""
    found = session.get_modelmeta().custom_metadata_map
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}


def load(request):
    """The session on the file that a request names, its properties, and the facts that a time depends on.

    Raises:
        Refusal: as :func:`open_session`; or mambaport did not write the file.
    """
    require_versions("onnxruntime")
    import onnxruntime

    path, threads = request["checkpoint"], request["threads"] or os.cpu_count()
    send(stage=f"reading {path}")
    session = open_session(path, threads)
    described = properties(session)
    if not {"model", "form", "mamba_ssm", "causal_conv1d"} <= described.keys():
        raise not_exported(path, "no name of a model in the file")
    facts = {
        "python": platform.python_version(),
        "arch": platform.machine(),
        "processor": processor(),
        "torch": None,
        "onnxruntime": onnxruntime.__version__,
        "mamba_ssm": described["mamba_ssm"],
        "causal_conv1d": described["causal_conv1d"],
        "threads": threads,
        "device": "cpu",
        "kernels": described["form"] == "fused",
        "capability": None,
    }
    return session, described, facts


def not_exported(path, found, what="a model", model="vim-tiny"):
    """The refusal of a file that is not one of `mambaport export`, or not of the kind that a task needs."""
    return Refusal(
        "run",
        f"{path} is not {what} that mambaport exported",
        found=found,
        hint=f"write such a file: mambaport export --model {model}",
    )
