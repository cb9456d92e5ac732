"""The failure catalogue: what breaks for users, and the parts of mambaport that handle each failure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mambaport.checkouts import checkout_sets, known_checkouts
from mambaport.models import Model, read_toml, validate
from mambaport.releases import all_sets, known_versions

CATALOGUE = Path(__file__).with_name("failures.toml")
CHINESE = Path(__file__).with_name("failures.zh-CN.toml")


class Failure(Model):
    """One row."""

    id: str
    """``B1`` and so on while building; ``R1``, ``N1`` and so on at import or run time."""
    symptom: str
    cause: str
    signature: str | None = None
    """Regular expression of what people see, with a group ``here`` where the place is not its beginning."""
    hint: str
    threads: tuple[str, ...] = ()
    """Public reports of the failure: ``owner/repository#number``."""
    also: tuple[str, ...] = ()
    """Parts of mambaport that handle the failure and are no patches."""
    owners: tuple[str, ...] = ()
    """Every part of mambaport that handles the failure; empty where none does."""


@cache
def catalogue() -> tuple[Failure, ...]:
    """Every row with its owners, in the order of the file; read once, since all patch sets are read.

    Raises:
        UsageError: the file is not valid.
        PatchError: a patch set is not valid.
    """
    patches: dict[str, list[str]] = {}
    sets = [
        (f"{name}/{item.name}", item)
        for name, version in known_versions()
        for item in all_sets(name, version)
    ]
    sets += [(f"checkouts/{name}", item) for name in known_checkouts() for item in checkout_sets(name)]
    for label, item in sets:
        for change in item.changes:
            for row in change.failures:
                owners = patches.setdefault(row, [])
                owner = f"{label}/{change.file.removesuffix('.patch')}"
                owners += [owner] if owner not in owners else []  # a patch of several releases
    rows = []
    for row, fields in read_toml(CATALOGUE).items():
        owners = [*patches.get(row, []), *fields.get("also", [])]
        rows.append(validate(Failure, {"id": row, "owners": owners, **fields}, CATALOGUE))
    return tuple(rows)


class Words(Model):
    """Cause and hint of a row in another language."""

    cause: str
    hint: str


@cache
def chinese() -> dict[str, Words]:
    """Row -> its cause and hint in Chinese.

    Raises:
        UsageError: the file is not valid.
    """
    return {row: validate(Words, fields, CHINESE) for row, fields in read_toml(CHINESE).items()}


@dataclass(frozen=True)
class Explanation:
    """A row of the catalogue whose signature matches a text."""

    failure: Failure
    line: str
    """The line of the text that the signature matches."""

    def to_json(self) -> dict[str, Any]:
        return {**self.failure.model_dump(include={"id", "symptom", "cause", "hint"}), "line": self.line}

    def __str__(self) -> str:
        return f"{self.failure.id}: {self.failure.cause}; {self.failure.hint}"


def explain(text: str) -> list[Explanation]:
    """The rows whose signature matches an error text or a log, in the order of the matches."""
    found: list[tuple[int, Explanation]] = []
    for failure in catalogue():
        match = re.search(failure.signature, text) if failure.signature is not None else None
        if match is not None:
            at = match.start("here" if "here" in match.groupdict() else 0)
            start = text.rfind("\n", 0, at) + 1
            line = text[start:].split("\n", maxsplit=1)[0].strip()
            found.append((at, Explanation(failure, line)))
    return [explanation for _place, explanation in sorted(found, key=lambda item: item[0])]


# Package in a traceback -> where its faults are reported.
TRACKERS = {
    "transformers": "github.com/huggingface/transformers/issues",
    "torchvision": "github.com/pytorch/vision/issues",
    "torch": "github.com/pytorch/pytorch/issues; for NVIDIA's build on a Jetson, NVIDIA's Jetson forum",
    "timm": "github.com/huggingface/pytorch-image-models/issues",
    "ultralytics": "github.com/ultralytics/ultralytics/issues, or the repository that carries its copy",
    "triton": "github.com/triton-lang/triton/issues",
}
COLLECT = (
    "COMMAND 2>&1 | tee error.log    (the whole text, from the command on)",
    "mambaport doctor --json > machine.json",
    "python3 -m pip freeze > packages.txt",
    "python3 -m torch.utils.collect_env > torch.txt",
)
"""Commands that collect facts about an error that no row explains; COMMAND is the command that failed."""


def where_to_ask(text: str) -> str:
    """Where an error that no row explains is reported, by the last package that its traceback names."""
    names = re.findall(r"(?:site|dist)-packages/(\w+)/", text)
    tracker = TRACKERS.get(names[-1]) if names else None
    if tracker is not None:
        return f"the traceback ends in {names[-1]}: {tracker}"
    return (
        "an error of a mambaport command, of causal_conv1d, mamba_ssm or their kernels: mambaport's issues. "
        "An error in a model's code: the issues of its repository"
    )
