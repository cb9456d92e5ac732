"""The results of the runner's tasks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from mambaport.models import Model

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Result(Model):
    """The base of all results. JSON keys are the names of the fields."""

    model_config = ConfigDict(alias_generator=None)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()


class Environment(Result):
    """The facts, besides the machine, that a time depends on."""

    python: str
    arch: str
    processor: str | None
    torch: str | None
    """None: ONNX Runtime ran the model."""
    onnxruntime: str | None = None
    mamba_ssm: str
    """In ONNX Runtime: the version that the file was exported with; so too the next."""
    causal_conv1d: str
    threads: int
    device: str
    """``cpu``, or the GPU's name."""
    kernels: bool
    """Whether compiled kernels were used; False means pure PyTorch, or ONNX's own operators."""
    capability: str | None
    """The CPU instruction set that torch chose."""
    transformers: str | None = None
    """None where the model is not one of transformers."""


class Class(Result):
    """One class of an image."""

    index: int
    probability: float
    label: str | None = None


class Classified(Result):
    """The result for one image."""

    path: str
    classes: tuple[Class, ...]
    """In order of probability, the highest first."""
    read_seconds: float
    seconds: float
    """The time of the model alone."""


class Inference(Result):
    """The result of ``infer``."""

    model: str
    checkpoint: str | None
    """None: the weights are random."""
    class_count: int
    size: int
    load_seconds: float
    images: tuple[Classified, ...]
    peak_bytes: int | None
    environment: Environment


class Unreadable(Result):
    """An image that was left out."""

    path: str
    kind: str
    what: str
    found: str | None = None
    expected: str | None = None
    hint: str | None = None


class Evaluation(Result):
    """The result of ``evaluate``."""

    model: str
    checkpoint: str | None
    data: str
    classes: int
    batch: int
    images: int
    top1: int
    top5: int
    seconds: float
    """The time of the model alone, without reading images."""
    all_seconds: float
    unreadable: tuple[Unreadable, ...]
    peak_bytes: int | None
    environment: Environment

    def to_json(self) -> dict[str, Any]:
        rates = {
            "top1_accuracy": self.top1 / self.images,
            "top5_accuracy": self.top5 / self.images,
            "images_per_second": self.images / self.all_seconds,
            "model_images_per_second": self.images / self.seconds,
        }
        return {**super().to_json(), **rates}


class Flops(Result):
    """Floating-point operations of one call."""

    total: int
    projections: int
    convolution: int
    scan: int


class Measure(Result):
    """One measure of one variant."""

    measure: str
    """``image``, ``prefill`` or ``decode``."""
    variant: str
    """``default``, ``fallback`` (the packages in pure PyTorch), ``float32`` (beside weights of fewer bits),
    ``without`` (transformers without the packages) or ``graph`` (a CUDA graph of the default)."""
    unit: str
    flops: Flops | None
    """None: not counted, as for a model of transformers."""
    peak_bytes: int | None
    runs: int
    p50_ms: Positive
    p95_ms: Positive
    least_ms: Positive
    per_second: Positive


class Throttling(Result):
    """The limits that a Raspberry Pi's firmware reports, such as under-voltage."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]


class State(Result):
    """The machine at one moment."""

    temperatures: dict[str, float]
    clock_mhz: int | None
    throttling: Throttling | None
    load: float
    """The number of processes that ran or waited, averaged over the last minute."""


class Machine(Result):
    """The machine of a run, without host name or address."""

    arch: str
    system: str
    device: str | None
    cores: int
    memory_mib: int


class Benchmark(Result):
    """The result of ``bench``."""

    model: str
    parameters: int
    size: int | None
    depth: int
    prompt: int | None
    measures: tuple[Measure, ...]
    before: State
    after: State
    hottest: dict[str, float]
    environment: Environment
    machine: Machine | None = None
    mambaport: str | None = None
    weights: str = "float32"
    """``float32``, ``int8`` or ``int4``."""
    largest_change: float | None = None
    """Of a logit by the weights, relative to the largest logit; None where float32 was not measured too."""


class Compared(Result):
    """One comparison of an ONNX file with PyTorch."""

    batch: int
    length: int | None
    """Tokens of the prompt, after which more tokens were decoded one by one; None for an image."""
    difference: float
    """The largest difference of a logit, relative to the largest logit."""


class Times(Result):
    """Medians of one measure, in ms, in PyTorch and in ONNX Runtime."""

    measure: str
    """``image``, ``prefill`` or ``decode``."""
    torch_ms: float
    onnx_ms: float
    runs: int


class Export(Result):
    """The result of ``export``."""

    model: str
    checkpoint: str | None
    form: str
    int8: bool
    path: str
    bytes: int
    opset: int
    nodes: int
    """Those in the bodies of scans included."""
    fused_nodes: int
    """Nodes of mambaport's own operators."""
    compared: tuple[Compared, ...]
    largest_difference: float
    allowed_difference: float
    times: tuple[Times, ...]
    onnxruntime: str
    environment: Environment
