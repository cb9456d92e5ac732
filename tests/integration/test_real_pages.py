"""The pages that `--report` writes for real builds and real proofs, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import check_schemes, chromium
from helpers import check_page
from real import mambaport, with_wheels

pytestmark = pytest.mark.network


def shown(folder: Path, page: Path) -> str:
    """The page as the browser has read it. The browser has no message about it, and draws both schemes."""
    text, messages = chromium(folder / "dom", "--dump-dom", page.as_uri())
    assert not messages
    check_schemes(folder, page.as_uri())
    return text


def test_the_page_of_a_build(rpi: Any, shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "build.html"
    answer = mambaport(
        shared, "build", "-p", "rpi", "--toolchain", "zig", "-o", tmp_path / "house", "--report", file
    ).good()
    check_page(file.read_text(), alone=True)
    text = shown(tmp_path, file)
    assert len(answer["wheels"]) == 2
    for wheel in answer["wheels"]:
        assert wheel["sha256"] in text
        assert all(f'<th scope="row">{rule["rule"]}</th>' in text for rule in wheel["audit"]["findings"])
        patches = [patch for item in wheel["patch_sets"] for patch in item["patches"]]
        assert all(f"Text of {patch['file']}</summary>" in text for patch in patches)
    assert "The text is not in this mambaport" not in text


def test_the_pages_of_a_proof_and_of_a_failed_proof(cpu: Any, shared: Path, tmp_path: Path) -> None:
    python = with_wheels(tmp_path / "environment", cpu)
    page, failed = tmp_path / "proof.html", tmp_path / "failed.html"
    words = ("verify", "-p", "cpu", "--python", python, "--report")
    answer = mambaport(shared, *words, page).good()
    text = shown(tmp_path / "right", page)
    check_page(page.read_text(), alone=True)
    assert f"All {len(answer['components'])} components are within their bounds." in text
    assert all(f'<th scope="row">{item["name"]}</th>' in text for item in answer["components"])

    (site,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    for library in (site / "selective_scan_cpu").glob("*.so"):
        library.unlink()
    ran = mambaport(shared, *words, failed)
    assert ran.code == 16
    text = shown(tmp_path / "wrong", failed)
    check_page(failed.read_text(), alone=True)
    assert 'class="failed"' in text
    assert "import selective_scan_cpu, path default" in text
    assert ran.json["error"]["what"] in text
