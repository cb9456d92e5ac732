"""The benchmarks' arithmetic limit is a C program that includes the kernels' headers."""

from __future__ import annotations

from pathlib import Path


def test_the_arithmetic_limit_compiles_and_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.native import roofline

    (milliseconds,) = roofline(tmp_path)(16, 64, 1)()
    assert milliseconds > 0
