"""``bench --model hf:CONFIG.json``: what mambaport itself checks of the file, and how the result is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_running import measured, shown

from mambaport.cli import cli
from mambaport.cli.bench import _same_work
from mambaport.cli.hf import read_config
from mambaport.errors import UsageError
from mambaport.running import Benchmark
from mambaport.running.plot import plot
from mambaport.running.tables import benchmark_table, facts_lines


def test_a_configuration_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = {"model_type": "mamba", "hidden_size": 64, "architectures": ["MambaForCausalLM"]}
    path.write_text(json.dumps(config))
    assert read_config(path, None, None) == config


@pytest.mark.parametrize(
    ("content", "what", "found"),
    [
        (None, "The configuration cannot be read", "No such file"),
        (b"<!DOCTYPE html>", "is not JSON", "line 1"),
        (b"\xff\xfe\x00", "is not JSON", "utf-8"),
        (b"[" * 100_000, "is not JSON", "recursion"),
        (b"[1]", "is not a configuration of transformers", "a list"),
        (b'{"hidden_size": 64}', "is not a configuration of transformers", "no model_type"),
        (b'{"model_type": 3}', "is not a configuration of transformers", "no model_type"),
    ],
)
def test_what_is_no_configuration_is_refused(
    tmp_path: Path, content: bytes | None, what: str, found: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=what) as caught:
        read_config(path, None, None)
    assert found in str(caught.value.found)
    assert caught.value.hint


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path, None, None)


@pytest.mark.parametrize(("size", "depth", "option"), [(224, None, "--size"), (None, 2, "--depth")])
def test_options_that_the_file_determines_are_refused(
    tmp_path: Path, size: int | None, depth: int | None, option: str
) -> None:
    with pytest.raises(UsageError, match=option):
        read_config(tmp_path / "config.json", size, depth)


def test_the_model_is_a_known_name_or_a_file() -> None:
    ran = CliRunner().invoke(cli, ["bench", "--model", "hg:config.json"])
    assert ran.exit_code == 2
    assert "hf:CONFIG.json" in CliRunner().invoke(cli, ["bench", "--help"]).output


@pytest.fixture
def found() -> Benchmark:
    state: dict[str, Any] = {"temperatures": {}, "clock_mhz": None, "throttling": None, "load": 0.1}
    measures = [
        {**measured(variant, p50), "flops": None, "measure": "prefill", "unit": "tokens"}
        for variant, p50 in (("default", 10.0), ("without", 50.0))
    ]
    environment = {
        "python": "3.11.2",
        "arch": "aarch64",
        "processor": None,
        "torch": "2.9.1",
        "mamba_ssm": "2.2.4",
        "causal_conv1d": "1.6.0",
        "threads": 1,
        "device": "cpu",
        "kernels": True,
        "capability": "DEFAULT",
        "transformers": "5.24.0",
    }
    return Benchmark.model_validate(
        {
            "model": "hf:mamba",
            "parameters": 1000,
            "size": None,
            "depth": 2,
            "prompt": 512,
            "measures": measures,
            "before": state,
            "after": state,
            "hottest": {},
            "environment": environment,
        }
    )


def test_the_table_compares_with_transformers_alone(found: Benchmark) -> None:
    text = shown(benchmark_table([found]))
    assert "no packages" in text
    assert "5 x" in text
    facts = dict(facts_lines(found))
    assert "transformers 5.24.0" in facts["runs on"]
    assert "FLOPs" not in facts
    assert "no packages" in plot([found])


def test_another_configuration_cannot_be_compared_with(found: Benchmark) -> None:
    _same_work(found, found)
    with pytest.raises(UsageError, match="another configuration"):
        _same_work(found, found.model_copy(update={"parameters": 2000}))
    with pytest.raises(UsageError, match="other work"):
        _same_work(found, found.model_copy(update={"prompt": 64}))
