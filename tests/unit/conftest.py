"""What several unit tests share."""

from __future__ import annotations

from test_cli import run

__all__ = ["run"]
