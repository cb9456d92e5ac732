"""Whether something newer is known: a mambaport in a package index, wheels in an index of wheels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mambaport.cli import cli
from mambaport.errors import UsageError
from mambaport.sources.updates import newer_label, version_of


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["2.2.4+rpi.cpu.1"], None),
        (["2.2.4+rpi.cpu.1", "2.2.4+rpi.cpu.10", "2.2.4+rpi.cpu.9"], "2.2.4+rpi.cpu.10"),
        (["2.2.4+jetson.orin.2", "2.2.5+rpi.cpu.2", "2.2.4+rpi.cpu.2.fallback", "2.2.4"], None),
        ([], None),
    ],
)
def test_newer_means_the_same_release_and_label_with_a_higher_number(
    versions: list[str], newest: str | None
) -> None:
    names = [f"mamba_ssm-{version}-py3-none-linux_aarch64.whl" for version in versions]
    assert newer_label("2.2.4+rpi.cpu.1", [*names, "no wheel", "x.whl"]) == newest


def test_versions_are_read_from_names_of_wheels_and_sdists() -> None:
    assert str(version_of("mambaport-0.2.0.tar.gz")) == "0.2.0"
    assert str(version_of("mambaport-0.2.0-py3-none-any.whl")) == "0.2.0"
    assert version_of("mambaport.txt") is None
    assert version_of("..whl") is None


def doctor(*words: str) -> Any:
    done = CliRunner().invoke(cli, ["doctor", "--updates", *words, "--json"], catch_exceptions=False)
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


@pytest.mark.parametrize(
    ("files", "state", "text"),
    [
        (["mambaport-9.0.tar.gz", "mambaport-10.0rc1.tar.gz"], "optional", "has 9.0"),
        (["mambaport-0.0.1.tar.gz"], "good", "no newer one"),
        ([], "optional", "no project mambaport"),
    ],
    ids=["newer", "older", "unknown"],
)  # fmt: skip
def test_doctor_says_whether_the_index_has_a_newer_mambaport(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], state: str, text: str
) -> None:
    monkeypatch.setenv("MAMBAPORT_CACHE", str(tmp_path / "store"))
    folder = tmp_path / "simple/mambaport"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    check = doctor("--index-url", (tmp_path / "simple").as_uri())["newest"]
    assert check["state"] == state
    assert text in check["found"]
    assert doctor("--offline")["newest"]["state"] == "optional"


@pytest.mark.parametrize("words", [["-p", "rpi"], ["--updates"], [], ["--explain", "x"]])
def test_an_index_that_nothing_would_be_compared_with_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--index needs --updates and a profile") as caught:
        CliRunner().invoke(cli, ["doctor", *words, "--index", "https://host/x"], catch_exceptions=False)
    assert str(caught.value.hint).endswith("--updates --index https://host/x")
