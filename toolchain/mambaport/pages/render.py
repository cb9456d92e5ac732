"""The templates, and how pages are made from them."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import (
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
    select_autoescape,
)
from markupsafe import Markup

from mambaport.report import counted, size_text


@cache
def _templates(folder: Path | None = None) -> Environment:
    # Every value is escaped: wheels, patches, reports and errors are data of others.
    ours = PackageLoader("mambaport.pages")
    environment = Environment(
        loader=ChoiceLoader([ours, FileSystemLoader(folder)]) if folder else ours,
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = size_text
    environment.filters["counted"] = counted
    environment.filters["path"] = quote
    environment.filters["thread"] = thread_url
    return environment


def render(template: str, folder: Path | None = None, **values: Any) -> bytes:
    """A page from its template. Jinja2 escapes every value; a missing value is an error.

    Args:
        folder: where templates are that are not mambaport's own.
    """
    return _templates(folder).get_template(template).render(**values).encode()


def render_alone(template: str, folder: Path | None = None, more_style: str = "", **values: Any) -> bytes:
    """A page that needs no other file: the style is inside, and the page's policy allows nothing else."""
    style = asset("style.css").decode() + more_style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return render(template, folder, style=Markup(style), style_digest=digest, **values)  # noqa: S704 - our own


def asset(name: str) -> bytes:
    """A file beside the templates, such as ``style.css``."""
    environment = _templates()
    source, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
    return source.encode()


def thread_url(text: str) -> str:
    """The address of ``owner/repository#number``."""
    repository, _, number = text.partition("#")
    return f"https://github.com/{quote(repository)}/issues/{quote(number)}"
