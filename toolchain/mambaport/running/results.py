"""What the runner found."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from mambaport.models import Model


class Result(Model):
    """Any of them; written with the names that the runner gives."""

    model_config = ConfigDict(alias_generator=None)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()


class Environment(Result):
    """What a time depends on, besides the machine."""

    python: str
    arch: str
    processor: str | None
    torch: str
    mamba_ssm: str
    causal_conv1d: str
    threads: int
    device: str
    """``cpu``, or the GPU's name."""
    kernels: bool
    """Whether compiled kernels were used, and not pure PyTorch."""
    capability: str
    """The instructions that torch chose."""


class Class(Result):
    """One class of an image."""

    index: int
    probability: float
    label: str | None = None


class Classified(Result):
    """One image."""

    path: str
    classes: tuple[Class, ...]
    """The likeliest first."""
    read_seconds: float
    seconds: float
    """The model's own time."""


class Inference(Result):
    """The answer of ``infer``."""

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
    """The answer of ``evaluate``."""

    model: str
    checkpoint: str | None
    data: str
    classes: int
    batch: int
    images: int
    top1: int
    top5: int
    seconds: float
    """The model's own time; reading images is not in it."""
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
    """Operations of one call."""

    total: int
    projections: int
    convolution: int
    scan: int


class Measure(Result):
    """One measure on one path."""

    measure: str
    """``image``, ``prefill`` or ``decode``."""
    variant: str
    """``default``, or ``fallback``: pure PyTorch."""
    unit: str
    flops: Flops
    peak_bytes: int | None
    runs: int
    p50_ms: float
    p95_ms: float
    least_ms: float
    per_second: float


class Throttling(Result):
    """What a Raspberry Pi says that it held back."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]


class State(Result):
    """The machine at one moment."""

    temperatures: dict[str, float]
    clock_mhz: int | None
    throttling: Throttling | None
    load: float
    """Processes that ran or waited, over the last minute."""


class Machine(Result):
    """Which machine it was, without a name or an address."""

    arch: str
    system: str
    device: str | None
    cores: int
    memory_mib: int


class Benchmark(Result):
    """The answer of ``bench``."""

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
