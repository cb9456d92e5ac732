"""Every test has an empty store of its own, and none of the settings of the person who runs it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell's background job ignores SIGINT, and nohup SIGHUP; programs that tests start would ignore these too.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

OWN_SETTINGS = (
    "MAMBAPORT_MIRROR",
    "MAMBAPORT_INDEX_URL",
    "CAUSAL_CONV1D_FORCE_FALLBACK",
    "SELECTIVE_SCAN_FORCE_FALLBACK",
    "VIRTUAL_ENV",
)


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAMBAPORT_CACHE", str(tmp_path / "store"))
