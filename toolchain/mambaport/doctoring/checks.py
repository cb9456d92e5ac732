"""The results of an examination: one check for each need."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["good", "optional", "missing"]


@dataclass(frozen=True)
class Check:
    """One thing that a profile needs, or can use, on this machine."""

    name: str
    state: State
    found: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
