"""A real browser, without a window and without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest


def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium here: sudo apt-get install chromium")
    return found


def chromium(folder: Path, *words: str) -> tuple[str, str]:
    """What the browser prints on stdout, and the messages of the page; no host but this one resolves."""
    command = [browser(), "--headless", "--disable-gpu", f"--user-data-dir={folder}", *words]
    rules = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--hide-scrollbars"]
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    log = ["--enable-logging=stderr"]
    done = subprocess.run(
        [*command[:-1], *sandbox, *rules, *log, *command[-1:]],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


def drawn(folder: Path, address: str, scheme: str) -> tuple[int, int, int]:
    """The colour of the first pixel of a page in a scheme, ``light`` or ``dark``. The page has no fault."""
    picture = folder / f"{scheme}.png"
    dark = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    words = (dark, "--window-size=900,900", f"--screenshot={picture}")
    _, messages = chromium(folder / f"profile-{scheme}", *words, address)
    assert not messages
    data = picture.read_bytes()  # the picture's own bytes, without a library
    assert data.startswith(b"\x89PNG")
    rows, place = b"", 8
    while place < len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        rows += data[place + 8 : place + 8 + size] if kind == b"IDAT" else b""
        place += 12 + size
    assert {2: 3, 6: 4}[data[25]]
    red, green, blue = zlib.decompress(rows)[1:4]
    return red, green, blue


def check_schemes(folder: Path, address: str) -> None:
    """Refuses a page that is not light in the light scheme and dark in the dark scheme."""
    folder.mkdir(parents=True, exist_ok=True)
    assert sum(drawn(folder, address, "light")) > 3 * 200
    assert sum(drawn(folder, address, "dark")) < 3 * 60
