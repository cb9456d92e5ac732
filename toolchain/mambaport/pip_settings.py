"""pip's configuration, and the part of it that mambaport passes to its own calls of pip.

The user decides where packages come from: index, proxy and certificates. mambaport decides where packages
go, and whether they are installed at all (``dry-run``, ``target``, ``prefix``, ``root``, ``user``, ...).
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pip

from mambaport import process
from mambaport.errors import UsageError
from mambaport.redaction import keep_secret, redact

RUNNER = Path(pip.__file__).with_name("__pip-runner__.py")
"""Runs mambaport's pip in any interpreter, which need not have one."""
SOURCES = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "proxy",
    "cert",
    "client-cert",
    "keyring-provider",
    "timeout",
    "retries",
)
"""The settings that say where packages come from, and how they are reached."""
_OTHER_NAMES = {"pypi-url": "index-url", "default-timeout": "timeout"}
_SECTIONS = ("global", "install", ":env:")


@cache
def pip_settings(python: str) -> Mapping[str, str]:
    """pip's settings named in :data:`SOURCES`, from its configuration files and environment variables.

    Args:
        python: the interpreter whose environment may have a configuration file of its own.

    Raises:
        UsageError: one of pip's configuration files cannot be read.
    """
    answer = process.run([python, RUNNER, "config", "list"])
    if not answer.ok:
        raise UsageError(
            "pip's configuration cannot be read",
            found=redact(answer.tail),
            hint="correct that file; `python3 -m pip config debug` lists the files that pip reads",
        )
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in answer.output.splitlines():
        name, separator, value = line.partition("=")
        section, _, key = name.partition(".")
        key = _OTHER_NAMES.get(key, key)
        if separator and section in found and key in SOURCES:
            found[section][key] = _value(value)
    settings: dict[str, str] = {}
    for section in _SECTIONS:
        settings.update(found[section])
    for value in settings.values():
        keep_secret(value)
    return settings


def pip_environment(settings: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for a call of pip: ``environ`` without any of pip's, then ``settings``.

    No configuration file is read. A setting may hold a password: settings go into the environment, which
    other users cannot read, and never onto the command line, which they can read.
    """
    rest = {key: value for key, value in environ.items() if not key.upper().startswith("PIP_")}
    named = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in settings.items()}
    return {**rest, **named, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INPUT": "1"}


def _value(text: str) -> str:
    """A value that pip printed, which is a Python literal."""
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text.strip("'\"")
