"""An index on a real server: pip, uv and mambaport install from it, browsers show it, changes are refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser import check_schemes, chromium
from real import environment_with_torch, mambaport, sha256

pytestmark = pytest.mark.network
QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull}


class Handler(SimpleHTTPRequestHandler):
    """A static server, without lines on stderr."""

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def whole(shared: Path, rpi: Any, cpu: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the wheels for the Raspberry Pi and for this machine."""
    site = tmp_path_factory.mktemp("index") / "site"
    houses = {Path(answer["wheelhouse"]) for answer in (rpi, cpu)}
    answer = mambaport(shared, "index", *houses, "-o", site).good()
    assert answer["folders"] == ["cpu", "rpi"]
    assert len(answer["added"]) == 4
    assert answer["sha256"] == sha256(site / "SHA256SUMS")
    return site


@pytest.fixture
def site(whole: Path, tmp_path: Path) -> Path:
    """A copy of the index, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "site"))


def call(*words: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_coreutils_compares_every_file(whole: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=whole, check=True)


def test_pip_takes_the_wheels_of_the_device(whole: Path, rpi: Any, tmp_path: Path) -> None:
    with served(whole) as url:
        call(
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_17_aarch64"),
            *("--python-version", "3.11", "--index-url", f"{url}/rpi/simple/", "--dest", tmp_path),
            *("causal-conv1d==1.6.0", "mamba-ssm==2.2.4"),
        )
    assert {path.name: sha256(path) for path in tmp_path.iterdir()} == {
        Path(wheel["path"]).name: wheel["sha256"] for wheel in rpi["wheels"]
    }


def test_pip_refuses_a_changed_wheel_by_the_digest_of_the_page(site: Path, tmp_path: Path) -> None:
    (path,) = (site / "rpi/files").glob("mamba_ssm-*.whl")
    path.write_bytes(path.read_bytes() + b" ")
    words = ("download", "--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_17_aarch64", "-q")
    with served(site) as url:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                *words,
                "-i",
                f"{url}/rpi/simple/",
                "-d",
                tmp_path / "x",
                "mamba-ssm",
            ],
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_uv_installs_by_index_and_by_lock(whole: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed beside this Python")
    cache = ("--cache-dir", tmp_path / "cache")
    target = ("--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11", "--no-deps")
    with served(whole) as url:
        place = ("--index-url", f"{url}/rpi/simple/")
        call(uv, "pip", "install", *target, *cache, "--target", tmp_path / "a", *place, "mamba-ssm==2.2.4")
    lock = whole / "rpi/pylock.rpi.toml"
    call(uv, "pip", "install", *target, *cache, "--target", tmp_path / "b", "-r", lock)
    assert (tmp_path / "a/selective_scan_cpu").is_dir()
    assert (tmp_path / "b/causal_conv1d_cpu").is_dir()


def test_mambaport_installs_from_the_index_and_proves(whole: Path, shared: Path, tmp_path: Path) -> None:
    python = environment_with_torch(tmp_path)
    digest = sha256(whole / "SHA256SUMS")
    with served(whole) as url:
        address = f"{url}/#sha256={digest}"
        answer = mambaport(shared, "install", "-p", "cpu", "--python", python, "--index", address).good()
        wrong = f"{url}/#sha256={'0' * 64}"
        refused = mambaport(shared, "install", "-p", "cpu", "--python", python, "--index", wrong)
    assert answer["verification"]["ok"] is True
    assert {wheel["sha256"] for wheel in answer["wheels"]} == {
        sha256(path) for path in (whole / "cpu/files").glob("*.whl")
    }
    assert refused.code == 18
    assert refused.json["error"]["what"] == "SHA256SUMS is not the file that the index names"
    report = tmp_path / "proof.json"
    report.write_text(json.dumps(answer["verification"]))
    site = Path(shutil.copytree(whole, tmp_path / "site"))
    mambaport(shared, "index", "-o", site, "--proof", report).good()
    pages = [path.read_text() for path in (site / "cpu/wheels").glob("*.html")]
    assert len(pages) == 2
    assert all("components against float64 references" in text for text in pages)


@pytest.mark.parametrize(
    "name",
    ["files/mamba_ssm-*.whl", "simple/mamba-ssm/index.json", "files/mamba_ssm-*.metadata"],
    ids=["wheel", "page", "metadata"],
)
def test_a_changed_file_is_refused_by_name(site: Path, shared: Path, tmp_path: Path, name: str) -> None:
    (path,) = (site / "cpu").glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    python = environment_with_torch(tmp_path)
    with served(site) as url:
        refused = mambaport(shared, "install", "-p", "cpu", "--python", python, "--index", url)
    assert refused.code == 18
    assert refused.json["error"]["what"] == f"{path.relative_to(site)} is not the file that the index names"
    assert not list((python.parent.parent / "lib").rglob("mamba_ssm"))


def test_an_index_without_the_wheels_says_which_it_has(shared: Path, site: Path, tmp_path: Path) -> None:
    python = environment_with_torch(tmp_path)
    words = ("install", "-p", "cpu", "--line", "2.3", "--python", python, "--index", site)
    refused = mambaport(shared, *words)
    assert refused.code == 15
    assert "causal_conv1d-1.6.0+cpu.1" in refused.json["error"]["found"]


# In a browser ---------------------------------------------------------------------------------------------


DOCTOR = "machine Raspberry Pi 4 Model B\nsystem Debian GNU/Linux 12, glibc 2.36\narchitecture aarch64\n"


def test_the_front_page_finds_the_wheels_in_a_browser(whole: Path, tmp_path: Path) -> None:
    with served(whole) as url:
        address = f"{url}/index.html#doctor={quote(DOCTOR)}"
        shown, messages = chromium(tmp_path, "--virtual-time-budget=3000", "--dump-dom", address)
        assert not messages
        answer = shown.partition('id="answer"')[2].partition("</p>")[0]
        assert '<a href="rpi/index.html">rpi</a>' in answer
        assert f"mambaport install -p rpi --index {url}/" in shown  # the page's own address


def test_a_page_is_drawn_in_both_schemes_and_without_errors(whole: Path, tmp_path: Path) -> None:
    (page,) = (whole / "rpi/wheels").glob("mamba_ssm-*.html")
    with served(whole) as url:
        check_schemes(tmp_path, f"{url}/rpi/wheels/{quote(page.name)}")


def test_every_link_of_every_page_leads_to_a_file(whole: Path) -> None:
    from html.parser import HTMLParser
    from urllib.parse import unquote, urlsplit

    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []
            self.labels = 0

        def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value for name, value in attrs if name in ("href", "src") and value]

    for page in whole.rglob("*.html"):
        reader = Links()
        reader.feed(page.read_text())
        for link in reader.found:
            parts = urlsplit(link)
            if parts.scheme or not parts.path:
                continue
            target = (page.parent / unquote(parts.path)).resolve()
            assert target.is_file() or (target / "index.html").is_file(), f"{page}: {link}"


def test_the_matrix_leaves_out_what_the_index_has(whole: Path, shared: Path) -> None:
    with served(whole) as url:
        answer = mambaport(shared, "matrix", "-p", "rpi", "--index", url).good()
    assert [row["name"] for row in answer["include"]] == ["rpi-line-2.3"]
