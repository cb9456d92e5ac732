"""``--report``: one page for people, of a command that did its work and of one that failed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import check_page
from test_cli import Run
from test_pipeline import pipeline

from mambaport.cli import page as page_module
from mambaport.cli.build import _page_values as build_values
from mambaport.cli.options import Session, open_session
from mambaport.cli.page import Page, results_page
from mambaport.cli.verify import _page_values as verify_values
from mambaport.errors import BuildError, VerifyError
from mambaport.host import read_host
from mambaport.pipeline import Pipeline
from mambaport.verifying import Component, Verification
from mambaport.verifying import require as require_verification

__all__ = ["pipeline"]
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on PATH")


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBAPORT_CACHE", str(tmp_path / "cache"))


def build_page(made: Pipeline, file: Path) -> str:
    page = Page("report-build.html", "Build", lambda error: build_values(made, error))
    with results_page(Session(False, made.shop), file, page):
        made.build(file.parent / "house")
    text = file.read_text()
    check_page(text, alone=True)
    return text


@needs_compiler
def test_the_page_of_a_build_has_sources_patches_compiler_audit_sizes_and_times(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    text = build_page(pipeline, tmp_path / "build.html")
    (made,) = pipeline.made
    assert "1 wheel, each audited" in text
    for fact in (made.wheel.sha256, "demo-1.0.tar.gz", "0001-two.patch", pipeline.plan.packages[0].key):
        assert fact in text
    assert pipeline.plan.packages[0].sets[0].patches[0].why in text
    assert '<span class="add">+x = 2\n</span>' in text
    findings = made.audit["findings"]
    assert all(f'<th scope="row">{item["rule"]}</th>' in text for item in findings)
    passed = sum(item["verdict"] == "pass" for item in findings)
    assert f"{passed} of {len(findings)} rules pass" in text
    assert "demo/libdemo.so" in text
    assert '<th scope="row">build</th><td>demo 1.0+cpu.1</td>' in text


@needs_compiler
def test_the_page_of_a_failed_build_names_the_stage_the_error_and_the_hint(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    broken = tuple(
        replace(item, environment=(("CC", "cc -include no/such.h"),)) for item in pipeline.plan.packages
    )
    failing = Pipeline(replace(pipeline.plan, packages=broken), pipeline.shop)
    file = tmp_path / "build.html"
    with pytest.raises(BuildError):
        build_page(failing, file)
    text = file.read_text()
    check_page(text, alone=True)
    assert "Failed: The build of demo 1.0+cpu.1 failed" in text
    assert "<dt>stage</dt><dd>build</dd>" in text
    assert "no/such.h" in text
    assert '<td class="fail">failed</td>' in text
    assert "each audited" not in text
    assert "0001-two.patch" in text  # how far it came


def test_a_command_that_fails_keeps_its_exit_code_and_leaves_a_page(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "build.html"
    address = "https://somebody:secret-word@127.0.0.1:9/simple"
    ran = run(
        "build", "-p", "rpi", "--index-url", address, "--report", file, "-o", tmp_path / "house", "--json"
    )
    assert ran.code == 10
    assert ran.json["error"]["kind"] == "fetch"
    text = file.read_text()
    check_page(text, alone=True)
    assert "<dt>stage</dt><dd>fetch</dd>" in text
    assert '<td class="">not begun</td>' in text
    assert "secret-word" not in text
    assert "0010-" in text
    assert not list(tmp_path.glob("*mambaport-part"))


def test_the_page_of_a_verification_that_cannot_begin_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "verify.html"
    ran = run("verify", "-p", "cpu", "--python", read_host().python_path, "--report", file)
    assert ran.code == 16
    text = file.read_text()
    check_page(text, alone=True)
    assert "causal-conv1d and mamba-ssm not installed" in text
    assert "mambaport install -p cpu" in text


def test_what_a_user_wrote_is_escaped(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "build.html"
    assert run("build", "-p", "<script>alert(1)</script>", "--report", file).code == 2
    check_page(file.read_text(), alone=True)
    assert "<script>" not in file.read_text()


@pytest.mark.parametrize("name", ["nowhere/build.html", "folder", "pipe"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    run: Run, tmp_path: Path, name: str
) -> None:

    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    ran = run("build", "-p", "rpi", "--report", tmp_path / name, "--json")
    assert ran.code == 2
    assert ran.json["error"]["what"].startswith("The report cannot be written")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.whl"))


def test_a_page_that_cannot_be_made_hides_no_error_and_changes_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_words: object, **_values: object) -> bytes:
        raise OSError(28, "No space left on device")

    file = tmp_path / "verify.html"
    file.write_text("before")
    monkeypatch.setattr(page_module, "render_alone", full)
    ran = run("verify", "-p", "cpu", "--python", read_host().python_path, "--report", file, "--json")
    assert ran.code == 16
    assert "could not be written" in ran.err
    assert file.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["verify.html"]


def proof(failure: str | None) -> Verification:
    fields: dict[str, Any] = {"input": "2x32x64", "bound": 2e-5, "seconds": 0.1}
    right = Component(name="selective_scan_fn", path="default", ok=True, error=1e-7, **fields)
    found = {"failure": failure, "traceback": f"Traceback\n{failure}"} if failure else {"error": 0.5}
    wrong = Component(name="Mamba <b>", path="fallback", ok=False, **found, **fields)
    return Verification(
        python="3.11.7",
        arch="x86_64",
        system="A Linux",
        torch="2.13.0",
        threads=2,
        cuda=False,
        optional={"triton": False},
        instruction_sets={"causal_conv1d_cpu": "dotprod", "selective_scan_cpu": "dotprod"},
        emulated="bookworm",
        emulated_cpu="cortex-a76",
        components=(right, wrong),
        wheels={"demo.whl": "ab" * 32},
    )


@pytest.mark.parametrize("failure", [None, "ModuleNotFoundError: No module named 'selective_scan_cuda'"])
def test_the_page_of_a_failed_proof_has_every_number_what_failed_and_how_to_mend_it(
    tmp_path: Path, failure: str | None
) -> None:
    session = open_session(as_json=False, quiet=True)
    file = tmp_path / "verify.html"
    page = Page("report-verify.html", "Proof", lambda error: verify_values(session, None, [], error))
    with pytest.raises(VerifyError), results_page(session, file, page):
        require_verification(proof(failure))
    text = file.read_text()
    check_page(text, alone=True)
    assert "Failed: 1 of 2 components failed" in text
    assert "Mamba &lt;b&gt;, path fallback" in text
    assert '<td class="number">1.0e-07</td>' in text
    assert "emulated bookworm, cortex-a76" in text
    assert ">dotprod<" in text
    assert "ab" * 32 in text
    if failure is None:
        assert "error 5.0e-01, bound 2e-05" in text
    else:
        assert "<strong>N2</strong>" in text  # a row of the failure catalogue, with its hint
        assert "<summary>Traceback of Mamba" in text
