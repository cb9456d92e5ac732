"""Wheels in production, end to end on this machine: `make production` runs it, and ends at the first failure.

matrix -> wheels of rpi and cpu on every release line, or on those that arguments name -> proof under
emulation -> index -> a server on loopback -> pip, and `mambaport install --index`, into fresh environments ->
proof -> pictures of two pages.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/integration"))

from real import environment_with_torch  # noqa: E402 - its folder is on the path since the line above

WORK = ROOT / "build/production"
WHEELS = ("causal-conv1d==1.6.0", "mamba-ssm==2.2.4")
"""Wheels of the default line, which are installed."""
PI = (
    "--platform",
    "manylinux_2_28_aarch64",
    "--platform",
    "manylinux_2_17_aarch64",
    "--python-version",
    "3.11",
)


class Quiet(SimpleHTTPRequestHandler):
    """A static server without a line for each request."""

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


def run(*words: str | Path) -> str:
    """Runs a command in the folder of the production. Returns its stdout; a failure ends this program."""
    text = " ".join(map(str, words))
    print(f"run      {text}", flush=True)
    started = time.monotonic()
    tool = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tool}:{os.environ['PATH']}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = subprocess.run(
        list(map(str, words)), cwd=WORK, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        print(f"failed   exit code {done.returncode}", flush=True)
        raise SystemExit(done.returncode)
    print(f"         {time.monotonic() - started:.1f} s", flush=True)
    return done.stdout


def built(lines: list[str]) -> Path:
    """Wheels of every row of the matrix, proven where the row has an emulated system, and their index.

    Args:
        lines: the release lines, the default one among them; empty for all.
    """
    chosen = ["-p", "rpi", "-p", "cpu", *(word for line in lines for word in ("--line", line))]
    rows = json.loads(run("mambaport", "matrix", *chosen))["include"]
    proofs: list[str | Path] = []
    for row in rows:
        run(*row["build"].split(), "--quiet")
        if row["verify"]:
            proof = WORK / f"verify-{row['name']}.json"
            proof.write_text(run(*row["verify"].split(), "--json"))
            proofs += ["--proof", proof]
    run("mambaport", "index", "wheelhouse", *proofs, "-o", "site", "--quiet")
    left = json.loads(run("mambaport", "matrix", *chosen, "--index", "site"))["include"]
    assert not left, [row["name"] for row in left]
    return WORK / "site"


def installed(site: Path, url: str) -> None:
    """The index as a device and as a developer use it."""
    run("python", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *PI, "--dest", "pi",
        "--index-url", f"{url}/rpi/simple/", *WHEELS)  # fmt: skip
    for path in (WORK / "pi").iterdir():
        assert (site / "rpi/files" / path.name).read_bytes() == path.read_bytes()
    fresh = environment_with_torch(WORK / "by-pip")
    run("python", "-m", "pip", "--python", fresh, "install", "--quiet", "--no-deps", "--index-url",
        f"{url}/cpu/simple/", *WHEELS)  # fmt: skip
    run("mambaport", "verify", "-p", "cpu", "--python", fresh, "--json")
    digest = hashlib.sha256((site / "SHA256SUMS").read_bytes()).hexdigest()
    fresh = environment_with_torch(WORK / "by-mambaport")
    answer = json.loads(
        run(
            "mambaport",
            "install",
            "-p",
            "cpu",
            "--python",
            fresh,
            "--index",
            f"{url}/#sha256={digest}",
            "--json",
        )
    )
    rows = answer["verification"]["components"]
    print(f"proof    {len(rows)} components, {answer['verification']['ran']}", flush=True)


DOCTOR = """\
machine           Raspberry Pi 4 Model B Rev 1.4
system            Debian GNU/Linux 12 (bookworm), glibc 2.36
architecture      aarch64
cores and memory  4 cores, 3.7 GiB (3.3 GiB available)
Python            3.11.2 (/usr/bin/python3)
"""
"""An example in the form of `mambaport doctor`, for the front page's picture; no Raspberry Pi printed it."""


def pictures(site: Path, url: str) -> None:
    """Two pages as a browser shows them, where there is a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        print("picture  none: no chromium here")
        return
    (page,) = (site / "rpi/wheels").glob("mamba_ssm-2.2.4*.html")
    for name, path in (("front", f"#doctor={quote(DOCTOR)}"), ("wheel", f"rpi/wheels/{quote(page.name)}")):
        words = ["--headless", "--disable-gpu", "--hide-scrollbars", "--log-level=3"]
        words += ["--no-sandbox"] if os.getuid() == 0 else []
        run(browser, *words, "--window-size=1000,1180", f"--screenshot={WORK / name}.png", f"{url}/{path}")
        print(f"picture  {WORK / name}.png")


def main() -> None:
    """Runs every step in a new folder."""
    shutil.rmtree(WORK, ignore_errors=True)
    for name in ("by-pip", "by-mambaport", "pi"):
        (WORK / name).mkdir(parents=True)
    started = time.monotonic()
    lines = sys.argv[1:]
    site = built(["2.2.4", *(line for line in lines if line != "2.2.4")] if lines else [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    installed(site, url)
    pictures(site, url)
    print(f"✓ production, {time.monotonic() - started:.0f} s")


main()
