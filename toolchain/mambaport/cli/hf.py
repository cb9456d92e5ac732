"""``--model hf:CONFIG.json``: a configuration of transformers that the user names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mambaport.errors import UsageError

HF = "hf:"


class ModelType(click.Choice):  # type: ignore[type-arg]
    """One of the known models, or ``hf:`` and the path of a file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith(HF):
            return value
        return super().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(str(choice) for choice in self.choices)}|{HF}CONFIG.json]"


def read_config(path: Path, size: int | None, depth: int | None) -> dict[str, Any]:
    """The configuration in a file, as transformers writes config.json.

    Raises:
        UsageError: the file cannot be read, or is not such a configuration; or ``size`` or ``depth`` is
            given, which the file determines.
    """
    for option, value in (("--size", size), ("--depth", depth)):
        if value is not None:
            raise UsageError(
                f"{option} has no effect on a configuration of transformers",
                hint=f"leave {option} out; for fewer layers, change num_hidden_layers in {path}",
            )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise UsageError(
            f"The configuration cannot be read: {path}",
            found=fault.strerror,
            expected="a config.json of transformers, as beside a released model's weights",
            hint="check the path after hf:",
        ) from None
    except (ValueError, RecursionError) as fault:
        raise UsageError(
            f"{path} is not JSON",
            found=str(fault),
            expected='a config.json of transformers: {"model_type": "mamba", ...}',
            hint="fetch the file again; a few kilobytes of HTML are a web page, not the file",
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UsageError(
            f"{path} is not a configuration of transformers",
            found="no model_type" if isinstance(config, dict) else f"a {type(config).__name__}",
            expected='an object with a model_type: {"model_type": "mamba", ...}',
            hint="name the config.json of a model, not its tokenizer.json or generation_config.json",
        )
    return config
