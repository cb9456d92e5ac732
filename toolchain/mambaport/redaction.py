"""Passwords are not shown: neither on the terminal, nor in logs, nor with ``--json``."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

HIDDEN = "****"
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^\s/@'\"<>]+)@")
_QUERY = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"<>]+\?)[^\s#'\"<>]+")
_SHORTEST = 6
"""The least length of a secret that is hidden in every text. A shorter secret could be an ordinary word,
and is hidden in URLs alone."""
_secrets: set[str] = set()


def keep_secret(text: str) -> None:
    """Remembers the user names and passwords in the URLs of ``text``: :func:`redact` hides them everywhere.

    A password may hold a slash or an @: all text before the last @ of a URL counts.
    """
    for word in text.split():
        scheme, separator, rest = word.partition("://")
        if separator and scheme and "@" in rest:
            user, colon, password = rest.rpartition("@")[0].partition(":")
            hidden = (f"{user}:{password}", password) if colon else (user,)
            _secrets.update(
                form for item in hidden for form in (item, unquote(item)) if len(form) >= _SHORTEST
            )


def redact(text: str) -> str:
    """``text`` without the user names, the passwords and the queries of URLs."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _URL.sub(rf"\1{HIDDEN}@", text))


def redact_all(data: Any) -> Any:
    """Plain data with :func:`redact` applied to every text."""
    if isinstance(data, str):
        return redact(data)
    if isinstance(data, dict):
        return {key: redact_all(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [redact_all(item) for item in data]
    return data
