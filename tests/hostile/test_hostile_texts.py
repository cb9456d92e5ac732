"""Damaged profiles, settings, JSON, pages of an index, command lines: right, or a named error."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from helpers import HOST, pin_of
from inputs import Area, Wrong
from mutations import NUMBERS, ODDITIES, damaged
from test_fit import JETSON

from mambaport import pins
from mambaport.building.compilations import check_compilations, compilations, record_compilations
from mambaport.cli import cli
from mambaport.cli.bench import _read
from mambaport.errors import FetchError
from mambaport.failures import explain, where_to_ask
from mambaport.installing import check_target
from mambaport.models import read_toml, validate
from mambaport.plan import make_plan, resolve_goal
from mambaport.profile import find_profile, read_profile
from mambaport.release_lines import ReleaseChoice
from mambaport.report import Report
from mambaport.resources import patches_dir, pins_dir, profiles_dir
from mambaport.running.labels import read_labels
from mambaport.settings import read_settings
from mambaport.sources import Fetcher, download
from mambaport.sources.index import IndexSettings
from mambaport.store import Store

Make = Callable[[str, int], Area]
TOML = (
    *(b"[target]\n", b"[[package]]\n", b"= 1\n", b'"x"', b"[]", b"{}", b"true", b"1979-13-41", b"'''"),
    *(b'extends = "rpi"\n', b'extends = "damaged.toml"\n', b'platform = "jetpack6"\n', b"[variant.x]\n"),
    *(b"einops>=", b"x @ file:///etc/passwd", b"==*", b">=2.4;", b"torch[", b'"host"', b"1.2.3", b'"""'),
)


@pytest.mark.parametrize("name", ["rpi-cpu", "jetson-orin"])
def test_damaged_profiles(area: Make, name: str) -> None:
    """A profile that is read can be planned for, and held against an environment."""
    attack = area(f"profiles: {name}", 1000)
    path = attack.target / "damaged.toml"
    content = (profiles_dir() / f"{name}.toml").read_bytes()
    for number, text in enumerate(damaged(content, attack.seed, attack.count, TOML)):
        path.write_bytes(text)

        def attempt(number: int = number) -> None:
            profile = read_profile(path)
            goal = resolve_goal(profile, HOST)
            for choice in (None, *profile.variant):
                profile.with_variant(choice)
            if number % 25 == 0:  # this one takes longer: it reads every patch
                make_plan(profile, HOST)
            if number:  # JETSON does not fit every profile
                check_target(JETSON, profile, goal)

        attack.judge(number, attempt)
    attack.finish()


FILES: dict[str, type] = {
    "zig.toml": pins.Zig,
    "build-requirements.toml": pins.BuildRequirements,
    "build-tools.toml": pins.BuildTools,
    "emulation.toml": pins.Emulation,
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_pins(area: Make, name: str) -> None:
    attack = area(f"pins: {name}", 250)
    path = attack.target / name
    content = (pins_dir() / name).read_bytes()
    for number, text in enumerate(damaged(content, attack.seed, attack.count, TOML)):
        path.write_bytes(text)
        attack.judge(number, lambda: validate(FILES[name], read_toml(path), path))
    attack.finish()


def test_damaged_releases(area: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lines.toml, package.toml, source.toml and lock.json of a release, one at a time."""
    attack = area("releases and lines", 700)
    root = tmp_path / "patches"
    shutil.copytree(patches_dir(), root)
    from mambaport import checkouts, patchset, release_lines, releases

    for module in (checkouts, patchset, release_lines, releases):
        monkeypatch.setattr(module, "patches_dir", lambda: root)
    names = ("lines.toml", "causal-conv1d/package.toml", "causal-conv1d/releases/1.6.0/source.toml")
    names = (*names, "causal-conv1d/releases/1.6.0/lock.json")
    contents = {name: (root / name).read_bytes() for name in names}
    streams = {name: damaged(contents[name], attack.seed + name, attack.count, TOML) for name in names}
    profile = find_profile("rpi")
    for number in range(attack.count + 1):
        name = names[number % len(names)]
        text = next(streams[name])
        (root / name).write_bytes(text)

        def attempt() -> None:
            release_lines.choose_releases(profile, ReleaseChoice(None, {}))
            releases.read_source("causal-conv1d", "1.6.0")
            releases.read_release_lock("causal-conv1d", "1.6.0")

        attack.judge(number, attempt)
        (root / name).write_bytes(contents[name])
    attack.finish()


VALUES = (
    *NUMBERS, *(piece.decode("utf-8", "surrogateescape") for piece in ODDITIES if b"\0" not in piece),
    *("8.7", "9.0+PTX", "8.7;9.0", "sm_87", "+PTX", "a" * 5000, "/", "/dev/null", "/dev/full", "~", "http://[",
      "http://u:p@h:99999/", "file:///", "https://\udcff/", "TRUE", "1"),
)  # fmt: skip
VARIABLES = ("MAMBAPORT_CACHE", "MAMBAPORT_INDEX_URL", "MAMBAPORT_MIRROR", "CC", "CXX", "CUDA_HOME")
VARIABLES = (*VARIABLES, "TORCH_CUDA_ARCH_LIST", "VIRTUAL_ENV", "SELECTIVE_SCAN_FORCE_FALLBACK", "PATH")


def test_settings(area: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any values of the variables, read and used for a plan of this machine's GPU."""
    attack = area("settings", 800)
    cuda = find_profile("cuda")
    for number in range(attack.count + 1):
        dice = random.Random(f"{attack.seed}-{number}")
        environ = {
            name: "".join(dice.choice(VALUES) for _ in range(dice.choice((1, 1, 2))))
            for name in dice.sample(VARIABLES, dice.randrange(1, 4) if number else 1)
        }
        if number == 0:
            environ = {"TORCH_CUDA_ARCH_LIST": "9.0"}
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)

            def attempt() -> None:
                settings = read_settings()
                resolve_goal(cuda, HOST, settings)

            attack.judge(number, attempt)
    attack.finish()


def test_damaged_results_and_labels(area: Make) -> None:
    attack = area("labels, and results to compare with", 700)
    names, result = attack.target / "names", attack.target / "result.json"
    streams = [
        damaged(b'["tench", "goldfish"]', attack.seed, attack.count, (b'{"0":', b"\n", b"1")),
        damaged(b"tench\ngoldfish\n", attack.seed + "2", attack.count, (b"[", b"{")),
    ]
    for number, text in enumerate(itertools.chain.from_iterable(zip(*streams, strict=True))):
        if number > attack.count:
            break
        names.write_bytes(text)
        result.write_bytes(text)

        def attempt(number: int = number) -> None:
            if number % 3 == 1:
                _read(result)
            else:
                read_labels(names)

        attack.judge(number, attempt)
    attack.finish()


def test_error_texts(area: Make) -> None:
    attack = area("error texts for doctor --explain", 200)
    text = b"Traceback (most recent call last):\n  File \"/site-packages/torch/nn.py\"\nNameError: 'y'\n" * 9
    for number, data in enumerate(damaged(text, attack.seed, attack.count, (b"error: " * 900, b"(" * 900))):
        words = data.decode("utf-8", "replace")
        attack.judge(number, lambda words=words: (explain(words), where_to_ask(words)))  # type: ignore[misc]
    attack.finish()


JSON_PAGE = {
    "meta": {"api-version": "1.0"},
    "name": "demo",
    "files": [{"filename": "demo-1.0.tar.gz", "url": "/files/demo-1.0.tar.gz", "hashes": {}, "size": 11}],
}
HTML_PAGE = b"""<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.0"></head>
<body><a href="/files/demo-1.0.tar.gz#sha256=0">demo-1.0.tar.gz</a></body></html>"""


@pytest.fixture
def index() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = self.path.endswith("/demo/")
            body = self.server.page if page else b"the content"  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Type", self.server.kind if page else "text/plain")  # type: ignore[attr-defined]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("kind", ["application/vnd.pypi.simple.v1+json", "text/html"])
def test_damaged_pages_of_an_index(
    area: Make, tmp_path: Path, index: ThreadingHTTPServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 5.0)
    monkeypatch.setattr("mambaport.sources.session.RETRIES", 0)
    warnings.simplefilter("ignore")  # Beautiful Soup's, about pages that look like URLs
    attack = area(f"pages of an index: {kind.rpartition('/')[2]}", 400)
    (tmp_path / "demo-1.0.tar.gz").write_bytes(b"the content")
    pin = pin_of(tmp_path / "demo-1.0.tar.gz")
    port = index.server_port
    fetcher = Fetcher(
        Store(attack.target / "store"),
        IndexSettings(f"http://127.0.0.1:{port}/simple/", None),
        Report(quiet=True),
    )
    content = json.dumps(JSON_PAGE).encode() if "json" in kind else HTML_PAGE
    words = (b"http://127.0.0.1:1/", b"file:///etc/passwd", b'"url": 7', b"javascript:", b"//[", b"9.0")
    index.kind = kind  # type: ignore[attr-defined]
    for number, page in enumerate(damaged(content, attack.seed, attack.count, words)):
        index.page = page  # type: ignore[attr-defined]

        def attempt() -> None:
            fetcher.store.discard("archives", pin.sha256)
            if fetcher.fetch(pin).read_bytes() != b"the content":
                raise Wrong("another file than the pinned one")

        if attack.judge(number, attempt) not in ("right", FetchError.kind, "wrong"):
            attack.wrong.append(f"{number}: another error than of a fetch")
    attack.finish()


def test_damaged_records_of_the_store(area: Make) -> None:
    """Seals, records of objects and audits: an entry is whole, or gone."""
    attack = area("records in the store", 500)
    store = Store(attack.target / "store")
    record = json.dumps({"wheel": "x.whl", "sha256": "0", "findings": [], "rules": "1"}).encode()

    def fill(folder: Path) -> None:
        (folder / "audit.json").write_bytes(record)

    (compilations(store) / "0").mkdir(parents=True)
    (compilations(store) / "0" / "object").write_text("object")
    seal, objects = store.root / "seals/wheels/demo-1", store.root / "seals/compilations.json"
    for number in range(attack.count + 1):
        entry = store.make("wheels", "demo-1", fill)
        record_compilations(store)
        which = (seal, objects, entry / "audit.json")[number % 3]
        stream = damaged(which.read_bytes(), f"{attack.seed}-{number}", 1, (b"null", b"{}", b"[]"))
        whole, text = next(stream), next(stream)
        which.write_bytes(text if number else whole)

        def attempt(same: bool = number == 0 or text == whole) -> None:
            found = store.get("wheels", "demo-1")
            check_compilations(store)
            if found is not None and (found / "audit.json").read_bytes() != record:
                raise Wrong("a changed entry was believed")
            if same and found is None:
                raise Wrong("a whole entry was removed")

        attack.judge(number, attempt)
        (compilations(store) / "0" / "object").write_text("object")
        store.discard("wheels", "demo-1")  # a damaged seal would show at the next change only
    attack.finish()


WORDS = (
    *("profiles", "show", "audit", "cache", "info", "patches", "list", "check", "doctor", "--explain", "rpi"),
    *("jetson", "-p", "--profile", "--variant", "jetpack6", "--json", "--quiet", "--debug", "--line"),
    *("2.2.4", "--with", "mamba-ssm==2.2.4", "mamba-ssm==9", "==", "--help", "/dev/null", "/", "x.whl", "-"),
)


def test_command_lines(area: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Words in any order, to the commands that only read."""
    attack = area("command lines", 300)
    readers = ("profiles", "show", "audit", "cache", "patches")
    for number in range(attack.count + 1):
        dice = random.Random(f"{attack.seed}-{number}")
        rest = [dice.choice((*WORDS, *VALUES)) for _ in range(dice.randrange(5))]
        words = ["show", "rpi"] if number == 0 else [dice.choice(readers), *rest]
        if {"clean", "new", "refresh"} & set(words):
            continue

        def attempt(words: list[str] = words) -> None:
            try:
                cli.main(args=words, prog_name="mambaport", standalone_mode=False)
            except click.exceptions.Exit as leave:
                if leave.exit_code not in (0, 2):
                    raise Wrong(f"exit code {leave.exit_code} of {words}") from None

        attack.judge(number, attempt)
        capsys.readouterr()
    attack.finish()
