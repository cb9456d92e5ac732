"""What an audit says: one finding per rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One rule's verdict on one wheel."""

    rule: str
    verdict: Verdict
    found: str
    expected: str = ""


@dataclass(frozen=True)
class WheelAudit:
    """All findings on one wheel."""

    wheel: str
    sha256: str
    size: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict == "fail"]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def judge(rule: str, faults: list[str], found: str, expected: str = "") -> Finding:
    """A finding that fails when there are faults, and then says them in place of ``found``."""
    if faults:
        return Finding(rule, "fail", "; ".join(faults), expected)
    return Finding(rule, "pass", found)
