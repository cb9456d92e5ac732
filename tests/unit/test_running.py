"""Running models: the interpreter's answers, labels, a device's own words, and how a benchmark is shown."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from rich.console import Console

from mambaport import host
from mambaport.cli import cli
from mambaport.cli.infer import _named
from mambaport.cli.models import request
from mambaport.errors import HostError, MambaportError, RunError, UsageError
from mambaport.report import THEME, Report
from mambaport.running import (
    Benchmark,
    Inference,
    imagenet_labels,
    imagenet_wnids,
    read_labels,
    run_task,
)
from mambaport.running.plot import plot
from mambaport.running.run import RUNNER
from mambaport.running.runner.models import LANGUAGE, VISION
from mambaport.running.tables import VARIANTS, benchmark_table, classes_table, facts_lines

ASK = {"task": "infer", "model": "vim-tiny"}


def quiet() -> Report:
    return Report(quiet=True)


# The interpreter ------------------------------------------------------------------------------------------


def script(folder: Path, text: str) -> Path:
    """A program in place of a Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("variables", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "default")],
)
def test_waiting_threads_sleep_unless_the_user_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], spins: str
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "seen"
    python = script(tmp_path, f'printf %s "${{GOMP_SPINCOUNT:-default}}" > {seen}; exit 1')
    with pytest.raises(MambaportError):
        run_task(python, ASK, Inference, quiet())
    assert seen.read_text() == spins


@pytest.mark.parametrize(
    ("path", "found"), [("absent", "no such file"), ("text", "not a program"), (".", "not a program")]
)
def test_what_is_no_program_is_refused(tmp_path: Path, path: str, found: str) -> None:
    (tmp_path / "text").write_text("x")
    with pytest.raises(HostError) as error:
        run_task(tmp_path / path, ASK, Inference, quiet())
    assert error.value.found == found
    assert "--python" in (error.value.hint or "")


def test_an_interpreter_without_torch_is_told_so() -> None:
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("this environment has torch")
    with pytest.raises(HostError, match="There is no torch") as error:
        run_task(Path(sys.executable), ASK, Inference, quiet())
    assert error.value.found == f"none in {sys.prefix}"


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("kill -ILL $$", "an instruction that this CPU does not have", "torch 2.9.1"),
        ("kill -KILL $$", "was killed while it ran", "swap"),
        ("echo 'Traceback: boom'; exit 3", "did not finish", "output is below"),
        ("true", "did not finish", "output is below"),
    ],
)
def test_an_interpreter_that_dies_is_named_by_its_death(
    tmp_path: Path, text: str, what: str, hint: str
) -> None:
    with pytest.raises(RunError, match=what) as error:
        run_task(script(tmp_path, text), ASK, Inference, quiet())
    assert hint in (error.value.hint or "")
    if "boom" in text:
        assert "boom" in (error.value.detail or "")


@pytest.mark.parametrize(("kind", "error"), [("usage", UsageError), ("host", HostError), ("run", RunError)])
def test_the_runner_s_refusals_become_errors_of_their_kind(
    tmp_path: Path, kind: str, error: type[MambaportError]
) -> None:
    fields = {"kind": kind, "what": "W", "found": "F", "expected": None, "hint": "M"}
    line = "\x1emambaport " + json.dumps({"error": fields})
    (tmp_path / "answer").write_text(f"noise\n{line}\nnoise after it\n")
    with pytest.raises(error) as raised:
        run_task(script(tmp_path, f"cat '{tmp_path}/answer'; exit 1"), ASK, Inference, quiet())
    assert (raised.value.what, raised.value.found, raised.value.hint) == ("W", "F", "M")


def test_the_mark_is_the_same_on_both_sides() -> None:
    assert repr("\x1emambaport ")[1:-1] in (RUNNER / "answers.py").read_text()


# What is asked --------------------------------------------------------------------------------------------


def test_more_threads_than_processors_are_refused() -> None:
    cores = host.read_host().cores
    assert request("bench", "vim-tiny", cores, None)["threads"] == cores
    with pytest.raises(UsageError, match="threads are more") as error:
        request("bench", "vim-tiny", cores + 1, None)
    assert error.value.expected == f"--threads 1 to {cores}"


@pytest.mark.parametrize("size", [8, 100, 225])
def test_a_size_that_is_no_whole_number_of_patches_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"no image of {size} pixels"):
        request("infer", "vim-tiny", None, None, size=size)
    assert request("infer", "vim-tiny", None, None, size=64)["size"] == 64
    with pytest.raises(UsageError, match="reads no images"):
        request("bench", "mamba-130m", None, None, size=64)


def test_a_file_of_onnx_is_named_and_has_one_model() -> None:
    with pytest.raises(UsageError, match="none is named"):
        request("infer", "vim-tiny", None, None, runtime="onnx", checkpoint=None)
    with pytest.raises(UsageError, match="--size has no effect"):
        request("infer", "vim-tiny", None, None, runtime="onnx", checkpoint=Path("a.onnx"), size=224)
    with pytest.raises(UsageError, match="--device cuda has no effect"):
        request("infer", "vim-tiny", None, "cuda", runtime="onnx", checkpoint=Path("a.onnx"))


def test_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked = request("infer", "vim-tiny", None, None, checkpoint=Path("x.pth"))
    assert asked["checkpoint"] == str(tmp_path / "x.pth")


def test_models_have_the_grids_they_were_trained_with() -> None:
    assert {name: shape.grid for name, shape in VISION.items() if shape.stride == 8} == {
        "vim-tiny-stride8": 27,
        "vim-small-stride8": 27,
    }
    assert VISION["vim-tiny"].grid == 14
    assert VISION["vim-tiny"].position == 98
    assert VISION["vim-tiny-rope"].position == 0
    assert VISION["vim-tiny-rope-mean"].position is None
    assert set(LANGUAGE) == {"mamba-130m", "mamba2-130m"}


# Labels ---------------------------------------------------------------------------------------------------


def test_imagenet_s_names_are_built_in() -> None:
    labels, wnids = imagenet_labels(), imagenet_wnids()
    assert len(labels) == len(wnids) == 1000
    assert labels[0].startswith("tench")
    assert labels[281].startswith("tabby")
    assert labels[999].startswith("toilet tissue")
    assert list(wnids) == sorted(wnids)
    assert wnids[281] == "n02123045"


@pytest.mark.parametrize(
    "text", ["ant\nbee\ncat\n", '["ant", "bee", "cat"]', '{"0": "ant", "2": "cat", "1": "bee"}']
)
def test_labels_of_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels").write_text(text)
    assert list(read_labels(tmp_path / "labels")) == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "is not text"),
        (b"", "a class without a name"),
        (b"ant\n\nbee", "a class without a name"),
        (b'["ant", ', "is not a list of names"),
        (b'{"ant": 0}', "is not a list of names"),
        (b"[" * 100_000, "is not a list of names"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "labels"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=what):
        read_labels(path)


def classified(result: dict[str, Any], count: int) -> Inference:
    """An image of class 2 in a model of so many classes."""
    image = {
        "path": "x.jpg",
        "classes": [{"index": 2, "probability": 0.9}],
        "read_seconds": 0.1,
        "seconds": 0.2,
    }
    return Inference.model_validate(
        {
            "model": "vim-tiny",
            "checkpoint": None,
            "class_count": count,
            "size": 224,
            "load_seconds": 1.0,
            "images": [image],
            "peak_bytes": None,
            "environment": result["environment"],
        }
    )


def test_classes_get_their_names_or_keep_their_numbers(result: dict[str, Any]) -> None:
    def label(count: int, names: list[str] | None) -> str | None:
        path = None if names is None else Path("labels")
        named = _named(classified(result, count), names or imagenet_labels(), path)
        return named.images[0].classes[0].label

    assert label(3, ["ant", "bee", "cat"]) == "cat"
    assert (label(1000, None) or "").startswith("great white shark")
    assert label(3, None) is None
    assert "class 2" in shown(classes_table(classified(result, 3).images[0]))
    with pytest.raises(UsageError, match="does not name this model's classes") as error:
        label(3, ["ant", "bee"])
    assert error.value.found == "2 names"


# The device -----------------------------------------------------------------------------------------------


@pytest.fixture
def device() -> ModuleType:
    """The runner's file, which is not a part of the package."""
    spec = importlib.util.spec_from_file_location("runner_device", RUNNER / "device.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_every_zone_that_is_on_gives_its_temperature(device: ModuleType, tmp_path: Path) -> None:
    """As a Jetson has them: a zone that is off, one that gives an error, two of a name."""
    zones = [("cpu", "48500"), ("gpu", "-256000"), ("soc", "x"), ("soc", "41000"), ("soc", "42000")]
    for number, (kind, degrees) in enumerate(zones):
        folder = f"class/thermal/thermal_zone{number}"
        write(tmp_path, **{f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{degrees}\n"})
    assert device.temperatures(tmp_path) == {"cpu": 48.5, "soc": 41.0, "soc (4)": 42.0}
    assert device.temperatures(tmp_path / "absent") == {}


def test_a_raspberry_pi_s_flags_are_words(device: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, **{device.FIRMWARE: "50005\n"})
    assert device.throttling(tmp_path) == {
        "now": ["under-voltage", "throttled"],
        "since_boot": ["under-voltage", "throttled"],
    }
    write(tmp_path, **{device.FIRMWARE: "80000\n"})
    assert device.throttling(tmp_path) == {"now": [], "since_boot": ["soft temperature limit"]}


def test_vcgencmd_is_asked_where_the_kernel_does_not_say(
    device: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script(tmp_path, "echo throttled=0x2").rename(tmp_path / "vcgencmd")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert device.throttling(tmp_path) == {"now": ["frequency capped"], "since_boot": []}
    program.write_text("#!/bin/sh\nexit 1\n")
    assert device.throttling(tmp_path) is None


def test_clock_and_memory_are_the_kernel_s(device: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, **{"devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n"})
    assert device.clock_mhz(tmp_path) == 2400
    assert device.clock_mhz(tmp_path / "absent") is None
    if not device.reset_peak():
        pytest.skip("this kernel lets no process count its memory anew")
    before = device.peak_bytes()
    held = b"x" * 80_000_000
    # The kernel counts pages per CPU and adds them up late: the figure is some hundred kB old.
    assert device.peak_bytes() >= before + len(held) - 4_000_000
    del held
    device.reset_peak()
    assert device.peak_bytes() < before + 40_000_000


# The benchmark --------------------------------------------------------------------------------------------

FLOPS = {"total": 3_000_000_000, "projections": 2_400_000_000, "convolution": 0, "scan": 600_000_000}
STATE: dict[str, Any] = {"temperatures": {"cpu": 50.0}, "clock_mhz": 1800, "throttling": None, "load": 0.1}


def measured(variant: str = "default", p50: float = 100.0) -> dict[str, Any]:
    return {
        "measure": "image",
        "variant": variant,
        "unit": "images",
        "flops": FLOPS,
        "peak_bytes": 300_000_000,
        "runs": 9,
        "p50_ms": p50,
        "p95_ms": 2 * p50,
        "least_ms": p50,
        "per_second": 1e3 / p50,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "model": "vim-tiny",
        "parameters": 7_148_008,
        "size": 224,
        "depth": 24,
        "prompt": None,
        "measures": [measured(), measured("fallback", 1400.0)],
        "before": STATE,
        "after": {
            **STATE,
            "temperatures": {"cpu": 71.2},
            "throttling": {"now": ["throttled"], "since_boot": ["throttled"]},
        },
        "hottest": {"cpu": 72.0},
        "environment": {
            "python": "3.11.2",
            "arch": "aarch64",
            "processor": None,
            "torch": "2.9.1",
            "mamba_ssm": "2.2.4+rpi.cpu.1",
            "causal_conv1d": "1.6.0+rpi.cpu.1",
            "threads": 4,
            "device": "cpu",
            "kernels": True,
            "capability": "DEFAULT",
        },
        "machine": {
            "arch": "aarch64",
            "system": "Debian",
            "device": "Raspberry Pi 5 <Rev 1>",
            "cores": 4,
            "memory_mib": 8192,
        },
        "mambaport": "0.1.0",
    }


def shown(renderable: Any) -> str:
    console = Console(width=80, record=True, theme=THEME, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(renderable)
    return console.export_text()


def test_a_result_survives_its_file(result: dict[str, Any]) -> None:
    found = Benchmark.model_validate(result)
    assert Benchmark.model_validate_json(json.dumps(found.to_json())) == found


def test_the_table_and_the_facts_fit_a_terminal_and_say_it_all(result: dict[str, Any]) -> None:
    found = Benchmark.model_validate(result)
    text = shown(benchmark_table([found, found]))
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("7.15 M parameters", "pure PyTorch", "1400", "14 x", "30", "Raspberry Pi", "<Rev 1>"):
        assert word in text
    facts = dict(facts_lines(found))
    assert facts["FLOPs"] == "3 G per image: projections 80%, scan 20%, convolution 0%"
    assert facts["heat"] == "cpu 50 to 72 °C, 1800 MHz, held back now: throttled"
    assert "8.0 GiB" in facts["machine"]


def test_the_plot_is_well_formed_and_to_scale(result: dict[str, Any]) -> None:
    found = Benchmark.model_validate(result)
    tree = ET.fromstring(plot([found, found]))
    names = ["".join(item.itertext()) for item in tree if item.tag.endswith("text")]
    assert any("Raspberry Pi 5 <Rev 1>" in name for name in names)
    bars = [float(item.attrib["width"]) for item in tree if item.tag.endswith("rect") and "y" in item.attrib]
    assert len(bars) == 4
    assert bars[1] / bars[0] == pytest.approx(14, rel=0.01)


@pytest.mark.parametrize("variant", ["float32", "graph", "without"])
def test_every_variant_has_a_bar_and_a_name(result: dict[str, Any], variant: str) -> None:
    other = {**result["measures"][0], "variant": variant}
    found = Benchmark.model_validate({**result, "measures": [result["measures"][0], other]})
    assert VARIANTS[variant] in plot([found])


def test_a_variant_of_a_newer_mambaport_keeps_its_name(result: dict[str, Any]) -> None:
    other = {**result["measures"][0], "variant": "quantum"}
    newer = Benchmark.model_validate({**result, "measures": [result["measures"][0], other]})
    assert "quantum" in plot([Benchmark.model_validate(result), newer])


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf")])
def test_a_time_is_a_positive_number(result: dict[str, Any], number: float) -> None:
    bad = {**result["measures"][0], "p50_ms": number}
    with pytest.raises(ValidationError):
        Benchmark.model_validate({**result, "measures": [bad]})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (None, "The result to compare with cannot be read"),
        ("not json", "is not the result of a benchmark"),
        ({"parameters": "many"}, "is not the result of a benchmark"),
        ({"model": "vim-small"}, "measured another model"),
    ],
)
def test_what_cannot_be_compared_with_is_refused_before_the_run(
    tmp_path: Path, result: dict[str, Any], change: Any, what: str
) -> None:
    path = tmp_path / "other.json"
    if change is not None:
        path.write_text(change if isinstance(change, str) else json.dumps({**result, **change}))
    ran = CliRunner().invoke(cli, ["bench", "--compare", str(path)])
    assert isinstance(ran.exception, UsageError)
    assert what in str(ran.exception)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--runtime", "onnx"], "none is named"),
        (["--checkpoint", "vim.onnx"], "--checkpoint has no effect in torch"),
        (["--runtime", "onnx", "--checkpoint", "vim.onnx", "--compare", "fallback"], "needs torch"),
        (["--runtime", "onnx", "--checkpoint", "vim.onnx", "--model", "hf:config.json"], "in torch alone"),
        (["--runtime", "onnx", "--checkpoint", "vim.onnx", "--depth", "2"], "--depth has no effect"),
        (["--runtime", "onnx", "--checkpoint", "vim.onnx", "--weights", "int8"], "--weights has no effect"),
        (["--weights", "int4", "--device", "cuda"], "--weights int4 is for a CPU"),
        (["--weights", "int8", "--model", "hf:config.json"], "one of transformers"),
        (["--compare", "float32"], "float32 with itself"),
    ],
)
def test_options_that_do_not_fit_the_runtime_are_refused(words: list[str], what: str) -> None:
    ran = CliRunner().invoke(cli, ["bench", *words])
    assert isinstance(ran.exception, UsageError)
    assert what in str(ran.exception)


def test_a_run_of_another_runtime_is_named_in_the_table(result: dict[str, Any]) -> None:
    found = Benchmark.model_validate(result)
    environment = found.environment.model_copy(update={"torch": None, "onnxruntime": "1.24.4"})
    other = found.model_copy(update={"environment": environment})
    assert "ONNX Runtime" in shown(benchmark_table([found, other]))
    assert "ONNX Runtime" not in shown(benchmark_table([found, found]))


def test_weights_of_fewer_bits_are_named_with_what_they_change(result: dict[str, Any]) -> None:
    found = Benchmark.model_validate(
        {
            **result,
            "weights": "int8",
            "largest_change": 0.0093,
            "measures": [measured(), measured("float32", 220.0)],
        }
    )
    text = shown(benchmark_table([found]))
    assert "parameters in int8" in text
    assert "float32" in text
    assert dict(facts_lines(found))["change"] == "of a logit by int8: 0.93% of the largest logit at most"
    plain = Benchmark.model_validate(result)
    assert "int8" not in shown(benchmark_table([plain, plain]))
    assert "int8" in shown(benchmark_table([plain, found]))
