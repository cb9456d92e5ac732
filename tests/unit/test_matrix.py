"""The matrix of a build farm: complete, in the form of each farm, with commands that mambaport takes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from helpers import HOST

from mambaport.cli import cli, error_of
from mambaport.matrix import gitlab, jobs
from mambaport.profile import builtin_profiles, find_profile
from mambaport.release_lines import read_lines


def rows(*names: str, variant: str | None = None, lines: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [job.to_json() for job in jobs({name: find_profile(name) for name in names}, HOST, variant, lines)]


def parsed(command: str) -> dict[str, Any]:
    """The parameters of a command line, as mambaport's parser reads it."""
    program, name, *words = shlex.split(command)
    assert program == "mambaport"
    above = click.Context(cli, info_name=program, **cli.context_settings)
    found = cli.get_command(above, name)
    assert found is not None
    return found.make_context(name, words, parent=above).params


def fixed() -> Iterator[str]:
    for profile in builtin_profiles():
        if profile.target.arch != "host":
            yield profile.name


@pytest.mark.parametrize("name", list(fixed()))
def test_every_variant_and_line_has_a_row_with_commands_that_are_taken(name: str) -> None:
    profile, found = find_profile(name), rows(name)
    lines = read_lines()
    assert lines is not None
    assert {row["line"] for row in found} == {line.name for line in lines.line}
    assert {row["variant"] for row in found} == set(profile.variant or {""})
    assert len({row["name"] for row in found}) == len(found)
    for row in found:
        build = parsed(row["build"])
        assert find_profile(build["profile_name"]).name == name
        assert (build["variant"] or "") == row["variant"]
        assert build["line"] in (row["line"], None)
        if row["verify"]:
            assert str(parsed(row["verify"])["wheelhouse"]).endswith(row["folder"])
        assert row["memory_mib"] >= 512
        assert all(len(item["sha256"]) == 64 for item in row["inputs"])
        assert len({item["file"] for item in row["inputs"]}) >= 4


def test_the_rows_of_the_raspberry_pi() -> None:
    (row,) = rows("rpi", lines=("2.2.4",))
    assert row["name"] == row["folder"] == "rpi"
    assert row["versions"] == {"causal-conv1d": "1.6.0+rpi.cpu.1", "mamba-ssm": "2.2.4+rpi.cpu.1"}
    assert row["build"] == "mambaport build -p rpi"
    assert "mamba_ssm-2.2.4.tar.gz" in {item["file"] for item in row["inputs"]}
    assert any(item["file"].startswith("ziglang-") for item in row["inputs"])
    assert len(row["key"]) == 40


def test_a_machine_without_the_cross_compiler_has_rows_that_say_so() -> None:
    found = rows("jetson", variant="jetpack6", lines=("2.2.4",))  # HOST has no compiler at all
    assert {row["folder"] for row in found} >= {"jetson-jetpack6", "jetson-jetpack6-torch2.6"}
    assert all(row["lacks"] and not row["versions"] and not row["key"] for row in found)


def test_gitlab_gets_a_job_for_each_row_and_never_none() -> None:
    found = gitlab(rows("rpi"))
    assert {"rpi", "rpi-line-2.3"} < set(found)
    assert found["rpi"]["variables"]["MAMBAPORT_BUILD"] == "mambaport build -p rpi"
    assert any("script" in job for job in gitlab([]).values() if isinstance(job, dict))


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, ["matrix", *words], standalone_mode=False)
    if result.exception is not None:
        raise error_of(result.exception)
    return result.stdout


def test_the_output_is_one_line_for_the_outputs_file_of_a_step() -> None:
    text = run("-p", "rpi")
    assert text.count("\n") == 1
    assert json.loads(text) == json.loads(run("-p", "rpi", "--json"))
    assert set(json.loads(text)) == {"include"}


def test_a_profile_by_its_path_keeps_the_path(tmp_path: Path) -> None:
    path = tmp_path / "my board.toml"
    path.write_text('name = "my-board"\nsummary = "A board"\nextends = "rpi"\n', encoding="utf-8")
    (row, *_) = json.loads(run("-p", str(path)))["include"]
    assert parsed(row["build"])["profile_name"] == str(path)


def test_a_variant_alone_chooses_the_profiles_that_have_it() -> None:
    assert {row["variant"] for row in json.loads(run("--variant", "jetpack7"))["include"]} == {"jetpack7"}
