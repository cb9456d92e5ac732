"""An index of wheels: what it refuses, what a killed run leaves, and what its pages escape."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import check_page, read_tree, rewrite_wheel, write_wheel
from packaging.pylock import Pylock

from mambaport import pages
from mambaport.cli import cli, error_of
from mambaport.errors import MambaportError
from mambaport.indexes import read_sums
from mambaport.indexing import site as site_module
from mambaport.indexing.provenance import Provenance
from mambaport.indexing.shelves import Shelf
from mambaport.models import read_toml
from mambaport.profile import find_profile
from mambaport.releases import read_source

SHA = "ab" * 32


CUDA = {"sm": ["80"], "flavour": "desktop", "torch": "2.11.0", "torch_minor": "2.11", "cxx11_abi": True}


def provenance(**changes: Any) -> dict[str, Any]:
    return {
        "profile": "my-board",
        "variant": None,
        "target": {"arch": "aarch64", "glibc": "2.28", "cpu": "cortex-a72"},
        "package": "demo",
        "version": "1.0+my.board.1",
        "sources": [{"filename": "demo-1.0.tar.gz", "sha256": SHA}],
        "patch_sets": [
            {
                "name": "portable",
                "summary": "A <b>summary</b>",
                "patches": [
                    {"file": "0001-fix.patch", "sha256": SHA, "why": "<script>alert(1)</script> & more"}
                ],
                "replaced": [],
                "overlay": ["setup.py"],
            }
        ],
        "toolchain": {"name": "zig", "zig": "0.15.2"},
        "build_requirements": [],
        "environment": {},
        "key": "0" * 40,
        **changes,
    }


def wheel(
    folder: Path,
    record: dict[str, Any] | None = None,
    content: bytes = b"x = 1\n",
    sbom: dict[str, Any] | None = None,
) -> Path:
    version = "1.0+my.board.1"
    info = f"demo-{version}.dist-info"
    return write_wheel(
        folder,
        {
            "demo.py": content,
            f"{info}/provenance.json": json.dumps(record or provenance()).encode(),
            f"{info}/sboms/demo.cdx.json": json.dumps(sbom or {}).encode(),
        },
        version=version,
        tag="py3-none-any",
        metadata=f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\nRequires-Python: >=3.10\n"
        "Summary: <i>state</i>\n",
    )


def run(*words: str | Path) -> str:
    """The output of `mambaport index`; raises the command's error."""
    result = CliRunner().invoke(cli, ["index", *map(str, words)], standalone_mode=False)
    if result.exception is not None:
        raise error_of(result.exception)
    return result.output


def refused(*words: str | Path) -> MambaportError:
    with pytest.raises(MambaportError) as caught:
        run(*words)
    return caught.value


@pytest.fixture
def house(tmp_path: Path) -> Path:
    wheel(tmp_path / "house")
    return tmp_path / "house"


@pytest.fixture
def site(tmp_path: Path, house: Path) -> Path:
    run(house, "-o", tmp_path / "site")
    return tmp_path / "site"


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_every_file_is_in_the_sums_and_pages_are_for_all_installers(site: Path) -> None:
    listed = read_sums((site / "SHA256SUMS").read_text())
    assert {*listed, "SHA256SUMS"} == set(files(site))
    page = (site / "my-board/simple/demo/index.html").read_text()
    data = json.loads((site / "my-board/simple/demo/index.json").read_text())
    (file,) = data["files"]
    name = "demo-1.0+my.board.1-py3-none-any.whl"
    assert file["filename"] == name
    digest = listed[f"my-board/files/{name}"]
    metadata = listed[f"my-board/files/{name}.metadata"]
    assert file["hashes"] == {"sha256": digest}
    assert file["core-metadata"] == {"sha256": metadata}
    assert file["requires-python"] == ">=3.10"
    assert data["versions"] == ["1.0+my.board.1"]
    assert f"%2Bmy.board.1-py3-none-any.whl#sha256={digest}" in page
    assert f'data-core-metadata="sha256={metadata}"' in page
    assert 'data-requires-python="&gt;=3.10"' in page


def test_what_a_wheel_says_is_escaped_on_every_page(site: Path) -> None:
    pages = {name: content.decode() for name, content in files(site).items() if name.endswith(".html")}
    assert not [
        name for name, text in pages.items() if "<script>alert" in text or "<b>" in text or "<i>" in text
    ]
    for name, text in pages.items():
        if "/simple/" not in name:
            check_page(text, alone=False)
    (text,) = [text for name, text in pages.items() if "/wheels/" in name]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert all("http:" not in line for text in pages.values() for line in text.splitlines() if "src=" in line)


def test_a_page_says_where_attestations_and_archives_are(house: Path, tmp_path: Path) -> None:
    run(house, "-o", tmp_path / "site", "--attested-by", "someone/wheels")
    (page,) = (tmp_path / "site/my-board/wheels").glob("*.html")
    text = page.read_text()
    check_page(text, alone=False)
    assert 'href="https://github.com/someone/wheels/attestations"' in text
    assert "gh attestation verify demo-1.0+my.board.1-py3-none-any.whl --repo someone/wheels" in text
    assert "1 patch in 1 set, in the order" in text
    assert "not known to this mambaport" in text  # an archive of a release that no pin names
    assert "mamba-ssm 2.2.5 on the package index, csrc/* alone." in " ".join(
        read_source("mamba-ssm", "2.2.4").origins.values()
    )
    for wrong in ("someone", "a/b/c", "-x/y", "a/<b>"):
        assert refused(house, "-o", tmp_path / "other", "--attested-by", wrong).kind == "usage"


def test_a_published_index_without_an_address_is_refused(tmp_path: Path) -> None:
    house = tmp_path / "house"
    wheel(house)
    assert refused(house, "-o", tmp_path / "site", "--published", " ").kind == "usage"
    assert not (tmp_path / "site").exists()


def test_the_same_wheel_twice_changes_nothing(site: Path, house: Path) -> None:
    before = files(site)
    run(house, "-o", site)
    assert files(site) == before


def test_another_file_of_the_same_name_is_refused(tmp_path: Path, site: Path) -> None:
    before = files(site)
    other = wheel(tmp_path / "other", content=b"x = 2\n")
    error = refused(other, "-o", site)
    assert (error.exit_code, error.kind) == (18, "index")
    assert other.name in error.what
    assert files(site) == before


def test_two_files_of_one_version_are_refused_under_any_tag(tmp_path: Path, site: Path, house: Path) -> None:
    (path,) = house.iterdir()
    info = "demo-1.0+my.board.1.dist-info"
    other = rewrite_wheel(Path(shutil.copy(path, tmp_path)), {f"{info}/WHEEL": b""})
    assert refused(other, "-o", site).kind == "audit"  # not what its name says
    other = write_wheel(
        tmp_path / "py2",
        {
            "demo.py": b"",
            f"{info}/provenance.json": json.dumps(provenance()).encode(),
            f"{info}/sboms/demo.cdx.json": b"{}",
        },
        version="1.0+my.board.1",
        tag="py2-none-any",
    )
    error = refused(other, "-o", site)
    assert error.kind == "index"
    assert "is in the index already, as demo-1.0+my.board.1-py3-none-any.whl" in error.what


@pytest.mark.parametrize(
    "record",
    [
        {"profile": "x"},
        provenance(profile="../../etc"),
        provenance(variant="a/b"),
        provenance(key="<b>"),
        provenance(patch_sets=[{"name": "../x", "patches": []}]),
        provenance(sources=[{"filename": "../x", "sha256": SHA}]),
        provenance(cuda={"sm": ["87"]}),
        provenance(cuda={**CUDA, "sm": ["x"]}),
    ],
    ids=["no facts", "profile", "variant", "key", "set", "source", "cuda", "sm"],
)
def test_a_wheel_whose_provenance_is_no_provenance_is_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    error = refused(wheel(tmp_path / "odd", record), "-o", tmp_path / "site")
    assert (error.exit_code, error.kind) == (14, "audit")
    assert "does not say how it was built" in error.what
    assert not (tmp_path / "site").exists()


def test_a_wheel_that_fails_its_audit_is_refused_with_the_rule(
    tmp_path: Path, site: Path, house: Path
) -> None:
    before = files(site)
    (path,) = house.iterdir()
    error = refused(rewrite_wheel(Path(shutil.copy(path, tmp_path)), {"demo.py": b"x = 3\n"}), "-o", site)
    assert error.kind == "audit"
    assert "RECORD: demo.py is not what RECORD says" in (error.found or "")
    assert files(site) == before


@pytest.mark.parametrize("end", ["index.html", ".metadata", ".record.json", ".whl", ".toml"])
def test_a_changed_file_of_the_index_is_named(site: Path, house: Path, end: str) -> None:
    path = next(path for path in sorted(site.rglob("*")) if path.is_file() and path.name.endswith(end))
    path.write_bytes(path.read_bytes() + b" ")
    error = refused(house, "-o", site)
    assert error.kind == "index"
    assert f"{path.relative_to(site)} in the index" in error.what


def test_a_folder_that_is_no_index_is_left_alone(tmp_path: Path, house: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("my thesis")
    assert "is not an index of wheels" in refused(house, "-o", tmp_path / "home").what
    assert read_tree(tmp_path / "home") == {"thesis.tex": "my thesis"}


def test_a_profile_with_the_name_of_an_alias_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path / "house", provenance(profile="rpi"))
    assert "whose name is taken" in refused(path, "-o", tmp_path / "site").what


def test_the_current_folder_is_no_index(site: Path, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(site.iterdir())
    for folder in (site, next(path for path in site.iterdir() if path.is_dir())):
        monkeypatch.chdir(folder)
        assert "current folder" in refused(house, "-o", site).what
    assert sorted(site.iterdir()) == before


def test_files_of_others_in_the_index_stay(site: Path, house: Path) -> None:
    (site / "CNAME").write_text("wheels.example")
    run(house, "-o", site, "--url", "https://wheels.example/mamba/")
    assert (site / "CNAME").read_text() == "wheels.example"
    assert "CNAME" not in read_sums((site / "SHA256SUMS").read_text())
    assert "https://wheels.example/mamba/my-board/simple/" in (site / "index.html").read_text()


def test_an_interrupted_run_leaves_the_old_index_and_nothing_else(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(site)

    def stopped(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(site_module, "_exchange", stopped)
    with pytest.raises(MambaportError):
        run("-o", site, "--url", "https://wheels.example")
    assert files(site) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["house", "site"]


def test_a_killed_run_leaves_the_old_index_and_the_next_run_cleans_up(tmp_path: Path, site: Path) -> None:
    before = files(site)
    code = (
        "import os, signal, mambaport.indexing.site as site\n"
        "from mambaport.cli import cli\n"
        "site._exchange = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"cli(['index', '-o', {str(site)!r}, '--url', 'https://wheels.example'])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    assert files(site) == before
    assert len(list(tmp_path.iterdir())) > 2
    run("-o", site, "--url", "https://wheels.example")
    assert files(site) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["house", "site"]


PROOF = {
    "python": "3.11.2",
    "arch": "aarch64",
    "torch": "2.6.0",
    "emulated": "bookworm",
    "components": [{"name": "Mamba <1>", "path": "default", "ok": True, "error": 1e-7, "bound": 1e-4}],
}


def test_a_proof_is_shown_on_the_pages_of_its_wheels_alone(tmp_path: Path, site: Path, house: Path) -> None:
    (path,) = house.iterdir()
    digest = read_sums((site / "SHA256SUMS").read_text())[f"my-board/files/{path.name}"]
    report = tmp_path / "proof.json"
    report.write_text(json.dumps({**PROOF, "wheels": {path.name: SHA}}))
    assert "of wheels that the index does not have" in refused("-o", site, "--proof", report).what
    report.write_text(json.dumps({**PROOF, "wheels": {path.name: digest}}))
    run("-o", site, "--proof", report)
    run("-o", site, "--proof", report)  # once more adds nothing
    page = (site / f"my-board/wheels/{path.name}.html").read_text()
    assert page.count("Mamba &lt;1&gt;") == 1
    assert "1.0e-07" in page
    assert "passed, 1 component<" in (site / "index.html").read_text()
    assert "mambaport install -p my-board --index" in page
    failed = {**PROOF, "components": [{"name": "Mamba", "path": "default", "ok": False}]}
    report.write_text(json.dumps({**failed, "wheels": {path.name: digest}}))
    assert "the report of a failed proof" in refused("-o", site, "--proof", report).what


def test_a_builtin_profile_has_locks_of_its_lines_with_the_place_of_torch(tmp_path: Path) -> None:
    for name, version in (("mamba-ssm", "2.2.4"), ("causal-conv1d", "1.6.0")):
        full, info = f"{version}+rpi.cpu.1", f"{name.replace('-', '_')}-{version}+rpi.cpu.1.dist-info"
        facts = provenance(profile="rpi-cpu", package=name, version=full)
        module = name.replace("-", "_")
        write_wheel(
            tmp_path / "house",
            {
                f"{module}/__init__.py": b"",
                f"{info}/provenance.json": json.dumps(facts).encode(),
                f"{info}/sboms/x.cdx.json": b"{}",
            },
            name=module,
            version=full,
            tag="py3-none-any",
        )
    site = tmp_path / "site"
    run(tmp_path / "house", "-o", site)
    lock = Pylock.from_dict(read_toml(site / "rpi/pylock.rpi.toml"))
    assert [package.name for package in lock.packages] == ["causal-conv1d", "mamba-ssm"]
    assert "torch (>=2.4) is not locked" in (site / "rpi/pylock.rpi.toml").read_text()
    assert (lock.tool or {})["mambaport"]["torch"] == ">=2.4"


# The finder, in the JavaScript engine that the pages' script is written for ------------------------------

JETSON = "machine NVIDIA Jetson AGX Orin\nsystem Ubuntu 22.04, glibc 2.35\narchitecture aarch64\nL4T 36.4"
PI = "machine Raspberry Pi 4 Model B\nsystem Debian GNU/Linux 12, glibc 2.36\narchitecture aarch64"
SERVER = "machine A server\nsystem Ubuntu 24.04, glibc 2.39\narchitecture aarch64\nGPU GH200 (sm_90)"
UNFIT = f"{SERVER}\nkernels for this GPU: the profile is for sm_90, sm_121, this GPU is sm_75".replace(
    "(sm_90)", "(sm_75)"
)
LAPTOP = "machine A laptop\nsystem Debian, glibc 2.36\narchitecture x86_64"
OLD = "machine Raspberry Pi 3\nsystem Raspbian, glibc 2.36\narchitecture armv7l"


def place(folder: str, **facts: Any) -> dict[str, Any]:
    plain = {"folder": folder, "arch": "aarch64", "glibc": "2.28", "sm": [], "torch": ">=2.4", "l4t": []}
    return {**plain, "devices": "", **facts}


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        (JETSON, ["jetson-jetpack6", "any", "rpi"]),
        (PI, ["rpi", "any"]),
        (SERVER, ["sbsa", "any", "rpi"]),
        (UNFIT, ["any", "rpi"]),
        (LAPTOP, []),
        (OLD, []),
        ("nothing", []),
    ],
    ids=["jetson", "pi", "server", "other gpu", "laptop", "32 bit", "nonsense"],
)
def test_the_finder_names_the_folders_that_fit(text: str, folders: list[str]) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here to run the pages' script")
    places = [
        place("any"),
        place("jetson-jetpack6", sm=["87"], l4t=[36], glibc="2.35"),
        place("jetson-jetpack7", sm=["87"], l4t=[38, 39], glibc="2.39"),
        place("rpi", devices="Raspberry Pi 4"),
        place("sbsa", sm=["90", "121"], glibc="2.39"),
    ]
    script = Path(pages.__file__).parent / "templates/site.js"
    call = f"require({str(script)!r}).verdict({json.dumps(text)}, {json.dumps(places)})"
    code = f"console.log(JSON.stringify({call}))"
    answer = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["folders"] == folders


def test_a_shelf_serves_the_later_minors_of_its_cubins(tmp_path: Path) -> None:
    found = Provenance.model_validate(provenance(cuda=CUDA))
    record = SimpleNamespace(provenance=found)
    shelf = Shelf("any", (record,), None)  # type: ignore[arg-type]
    assert shelf.cuda is not None
    assert shelf.cuda["served"] == ["80", "86", "89"]
    assert any("sm_89" in name for name in shelf.cuda["gpus"])


def test_a_shelf_of_x86_64_serves_no_gpu_that_only_arm_machines_have() -> None:
    cuda = {**CUDA, "sm": ["80", "90", "100", "120"]}
    record = SimpleNamespace(provenance=Provenance.model_validate(provenance(cuda=cuda)))
    shelf = Shelf("any", (record,), find_profile("x86-64-cuda"))  # type: ignore[arg-type]
    assert shelf.cuda is not None
    assert shelf.cuda["served"] == ["80", "86", "89", "90", "100", "103", "120"]


def test_a_wheel_that_a_published_index_has_with_other_content_is_refused(
    tmp_path: Path, site: Path, house: Path
) -> None:
    """A farm that begins with an empty site each time: two wheels never share a version."""
    run(house, "-o", tmp_path / "again", "--published", site)
    other = wheel(tmp_path / "other", content=b"y = 2\n")
    fault = refused(other, "-o", tmp_path / "new", "--published", site)
    assert fault.exit_code == 18
    assert "the published index" in fault.what
    assert "raise `revision`" in str(fault.hint)
    assert not (tmp_path / "new").exists()
    renamed = other.rename(other.with_name("demo-1.0+my.board.1-1-py3-none-any.whl"))
    assert "is in the published index" in refused(renamed, "-o", tmp_path / "new", "--published", site).what
