"""transformers 5 with the packages of the environment. Where a package is missing, no test runs."""

from __future__ import annotations

import importlib.util

import pytest

MISSING = [
    name
    for name in ("torch", "transformers", "causal_conv1d", "mamba_ssm")
    if importlib.util.find_spec(name) is None
]
if MISSING:
    collect_ignore_glob = ["test_*.py"]


def pytest_addoption(parser):
    parser.addoption("--short", action="store_true", help="the models that the documentation names first")


def pytest_report_header():
    if MISSING:
        return f"transformers: not run, {' and '.join(MISSING)} not installed here"
    return None


def pytest_generate_tests(metafunc):
    from models import MODELS

    if "name" in metafunc.fixturenames:
        short = metafunc.config.getoption("--short")
        chosen = [name for name, model in MODELS.items() if model.named or not short]
        metafunc.parametrize("name", chosen, scope="session")


@pytest.fixture(scope="session")
def names(request):
    from models import MODELS

    short = request.config.getoption("--short")
    return [name for name, model in MODELS.items() if model.named or not short]
