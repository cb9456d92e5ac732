"""What to compile for: a profile's target, with each ``host`` replaced by this machine's facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CudaGoal:
    """The CUDA side of a goal: which GPUs, and the torch that the extensions are tied to."""

    version: str
    """CUDA of the target, ``12.6``; a wheel needs its major version."""
    sm: tuple[str, ...]
    """``("87",)``: the wheel has one cubin for each, and no others."""
    ptx: tuple[str, ...]
    """Architectures whose PTX is in the wheel too."""
    flavour: str
    """``l4t``, ``sbsa`` or ``desktop``."""
    torch: str
    """torch's minor, ``2.5``."""

    @property
    def major(self) -> int:
        return int(self.version.split(".", maxsplit=1)[0])


@dataclass(frozen=True)
class Goal:
    """What to compile for: the profile's target with ``host`` resolved."""

    arch: str
    glibc: str
    """The newest glibc whose symbols may be used."""
    cpu: str
    cuda: CudaGoal | None = None

    @property
    def platform_tag(self) -> str:
        return f"linux_{self.arch}"
