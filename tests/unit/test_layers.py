"""Which module may import which: ground knows nothing above it, and stages do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mambaport

PACKAGE = Path(mambaport.__file__).parent
GROUND = {
    *("boards", "cuda.machine", "digests", "errors", "goal", "host", "models", "process", "redaction"),
    *("attestations", "indexes", "report", "resources", "seals", "settings", "store", "wheels"),
    *("activity", "locking", "temporary", "interruption", "keeper", "pages.render"),
}
STAGES = {
    "sources",
    "patching",
    "building",
    "auditing",
    "installing",
    "verifying",
    "doctoring",
    "running",
    "indexing",
}
# Building and verifying fetch what they need; doctor asks whether an environment would do, and whether
# the parts of a build can be had.
ALLOWED = {
    ("building", "sources"),
    ("verifying", "sources"),
    ("doctoring", "installing"),
    ("doctoring", "building"),
}


def imports(path: Path) -> set[str]:
    """The modules of mambaport that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mambaport":
            module = (node.module or "").partition(".")[2]
            names = [f"{module}.{name.name}".strip(".") for name in node.names]
            found |= {
                name if (PACKAGE / f"{name.replace('.', '/')}.py").exists() else module for name in names
            }
    return found - {""}


@pytest.mark.parametrize("name", sorted(GROUND))
def test_ground_imports_ground_alone(name: str) -> None:
    assert imports(PACKAGE / f"{name.replace('.', '/')}.py") <= GROUND


def test_stages_do_not_know_each_other() -> None:
    found = {
        (stage, imported.split(".")[0])
        for stage in STAGES
        for path in (PACKAGE / stage).rglob("*.py")
        for imported in imports(path)
        if imported.split(".")[0] in STAGES - {stage}
    }
    assert found <= ALLOWED


def test_nothing_below_the_commands_imports_them() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("cli", "__main__.py"):
            assert not {name for name in imports(path) if name.split(".")[0] == "cli"}, path


def test_no_module_asks_a_toolchains_class() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "toolchains" not in path.parts:
            assert not {name for name in imports(path) if name.startswith("toolchains.")}, path
