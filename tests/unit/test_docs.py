"""The written reference is what the code says now."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from helpers import check_page

from mambaport.cli import cli
from mambaport.profile import find_profile

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.FILES)
def test_a_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generate.FILES[name](), "`make docs` renews it"


def test_the_page_of_the_benchmarks_has_every_number_and_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(DOCS.parent))
    page = importlib.import_module("benchmarks.page")
    folder = DOCS.parent / "benchmarks" / "results"
    text = page.page(folder).decode()
    assert (folder / "results.html").read_text() == text, "`python -m benchmarks.page` renews it"
    check_page(text, alone=True)
    plots = " ".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    for row in json.loads((folder / "results.json").read_text())["rows"]:
        assert row["work"] in plots
        others = [(name, figure) for name, figure in row["figures"].items() if name != row["ours"]]
        assert all(
            name in plots and f"{page.short(figure['ratio'])} \N{MULTIPLICATION SIGN}" in plots
            for name, figure in others
        )
        assert all(f"goal {goal:g} " in plots for goal in row["goals"].values())
    for row in json.loads((folder / "length.json").read_text())["rows"]:
        assert f">{row['name']}</text>" in plots.replace("&#39;", "'")
        assert all(page.short(point["ns_per_step"]) in text for point in row["points"])


PAGES = sorted([*DOCS.parent.glob("*.md"), *DOCS.rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_links_to_what_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


# What is pasted works ----------------------------------------------------------------------------------

SEPARATORS = frozenset({"&&", "||", "|", ";", "&", "(", ")"})
ON_PATH = re.compile(r"^(export PATH=|pipx install|uv tool install|\. \S*/activate)", re.MULTILINE)
TARGETS = re.findall(r"^([a-z-]+):", (DOCS.parent / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page, without indentation, and the `run:` lines of its workflows."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^( *)```console\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    runs = re.findall(r"^ *- run: (.*)$", text, re.MULTILINE)
    plain = [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]
    return [*plain, *(re.sub(r"\$\{\{.*?profile.*?\}\}", "rpi", line) + "\n" for line in runs)]


def commands(block: str) -> Iterator[list[str]]:
    """Each command of a block, as words."""
    block = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    held = ""
    for line in block.splitlines():
        held += line + "\n"
        lexer = shlex.shlex(held, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # a quotation goes on in the next line
        held = ""
        command: list[str] = []
        for word in [*words, ";"]:
            if word in SEPARATORS:
                if command:
                    yield command
                command = []
            else:
                command.append(word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_can_be_pasted(page: Path) -> None:
    shell = shutil.which("bash")
    before = ""
    for block in blocks(page):
        assert not re.search(r"^(\$ |✓)", block, re.MULTILINE), "a prompt, or an output, among commands"
        if shell is not None:
            checked = subprocess.run([shell, "-n"], input=block, text=True, capture_output=True, check=False)
            assert checked.returncode == 0, checked.stderr
        before += block
        for words in commands(block):
            if Path(words[0]).name == "mambaport":
                parse(words[1:])
                assert "/" in words[0] or ON_PATH.search(before), f"{page.name}: where is mambaport?"
            if words[0] == "make":
                wanted = [word for word in words[1:] if "=" not in word]
                assert set(wanted) <= set(TARGETS), words
            for word in words:
                if word.startswith(("profiles/", "patches/", "tests/", "benchmarks/")):
                    assert (DOCS.parent / word).exists(), word


def parse(words: list[str]) -> None:
    """Refuses a command line that mambaport does not take, or a profile that there is not."""
    words = list(itertools.takewhile(lambda word: word[0] not in "<>", words))
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    given = command.make_context(command.name, list(words)).params
    name = given.get("profile_name")
    if name and not name.endswith(".toml") and name.islower():
        find_profile(name).with_variant(given.get("variant"))


def test_the_examples_of_every_help_text_are_taken() -> None:
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ {4,}(?:.*\| )?mambaport (\S.*)$", text, re.MULTILINE)
    examples = [re.split(r"\s{2,}", line)[0] for line in lines]
    assert len(examples) > 30
    for example in examples:
        parse(shlex.split(example))
