"""The Chinese pages are in step with the English: headings, commands, names, numbers, tables and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from test_cli import Run

from mambaport.failures import catalogue, chinese

ROOT = Path(__file__).parents[2]
PAIRS = {
    ROOT / "README.md": ROOT / "README.zh-CN.md",
    **{ROOT / "docs" / "how-to" / path.name: path for path in sorted((ROOT / "docs" / "zh-CN").glob("*.md"))},
}
TRANSLATED = {path.resolve(): english.resolve() for english, path in PAIRS.items()}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`]+`")
HAN = re.compile(r"[\u4e00-\u9fff]")


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of each block of code, without the comments of shell lines."""
    found = FENCE.findall(text)
    return [
        (kind, re.sub(r"[ ]+# .*$", "", body, flags=re.MULTILINE) if kind == "console" else body)
        for kind, body in found
    ]


def sections(text: str) -> list[str]:
    """The text outside blocks of code, cut before each heading; without the line of languages."""
    plain = FENCE.sub("", text.partition("\n")[2])
    return re.split(r"^(?=#+ )", plain, flags=re.MULTILINE)


def links(page: Path, text: str) -> set[str]:
    """What a text links to; a Chinese page stands for its English page."""
    found = set()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        name, _, place = target.partition("#")
        path = (page.parent / name).resolve() if name and ":" not in name else None
        found.add(f"{TRANSLATED.get(path, path) if path else name}#{place}")
    return found


def codes(text: str) -> Counter[str]:
    """Names and commands inside sentences."""
    return Counter(CODE.findall(" ".join(text.split())))


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d.,]*\d|\d", CODE.sub("", re.sub(r"\]\([^)]+\)", "", text))))


def test_five_pages_are_in_chinese() -> None:
    names = {path.name for path in PAIRS.values()}
    assert names == {
        "README.zh-CN.md",
        "raspberry-pi.md",
        "jetson-orin.md",
        "run-a-model.md",
        "troubleshooting.md",
    }


@pytest.mark.parametrize("english", PAIRS, ids=lambda path: path.name)
def test_a_page_is_in_step_with_the_english_page(english: Path) -> None:
    ours, text = PAIRS[english], english.read_text(encoding="utf-8")
    translated = ours.read_text(encoding="utf-8")
    assert blocks(translated) == blocks(text)
    theirs, here = sections(text), sections(translated)
    marks = [[re.match(r"#*", part).group() for part in parts] for parts in (theirs, here)]  # type: ignore[union-attr]
    assert marks[0] == marks[1], "headings"
    generated = ours.name == "troubleshooting.md"  # its rows are compared below
    for before, after in zip(
        theirs[2:] if generated else theirs, here[2:] if generated else here, strict=True
    ):
        title = before.strip().split("\n")[0]
        if generated:  # its headings are error messages, some with a single backtick
            assert before.split("\n")[0] == after.split("\n")[0] or title.startswith("## "), title
            before, after = before.partition("\n")[2], after.partition("\n")[2]  # noqa: PLW2901
        assert codes(after) == codes(before), title
        assert links(ours, after) == links(english, before), title
        assert numbers(before) <= numbers(after), title
        rows = [
            [line.count("|") for line in part.split("\n") if line.startswith("|")] for part in (before, after)
        ]
        assert rows[0] == rows[1], title
        items = [len(re.findall(r"^([-*]|\d+\.) ", part, re.MULTILINE)) for part in (before, after)]
        assert items[0] == items[1], title
        assert len(HAN.findall(after)) * 10 >= len(re.sub(r"`[^`]*`|\W", "", after)) or "|" in after, title


@pytest.mark.parametrize("english", PAIRS, ids=lambda path: path.name)
def test_the_languages_link_to_each_other(english: Path) -> None:
    for page, other in ((english, PAIRS[english]), (PAIRS[english], english)):
        first = page.read_text(encoding="utf-8").split("\n")[0]
        (target,) = re.findall(r"\]\(([^)]+)\)", first)
        assert (page.parent / target).resolve() == other.resolve()
        assert "English" in first
        assert "简体中文" in first


@pytest.mark.parametrize("page", PAIRS.values(), ids=lambda path: path.name)
def test_emphasis_ends_where_markdown_ends_it(page: Path) -> None:
    """`*文字。*文字` is no emphasis: the mark must not stand between punctuation and a letter."""
    for line in FENCE.sub("", page.read_text(encoding="utf-8")).split("\n"):
        parts = re.split(r"(?<! )\*+|\*+(?! )", CODE.sub("`", line))
        assert len(parts) % 2, line
        for inside, behind in zip(parts[1::2], parts[2::2], strict=True):
            assert not (re.search(r"[，。：；！？）]$", inside) and re.match(r"[\w`]", behind)), line


def test_every_row_of_the_catalogue_has_its_words_and_its_commands() -> None:
    words = chinese()
    assert set(words) == {row.id for row in catalogue()}
    for row in catalogue():
        for name in ("cause", "hint"):
            before, after = getattr(row, name), getattr(words[row.id], name)
            assert codes(after) == codes(before), f"{row.id}: {name}"
            assert numbers(before) <= numbers(after), f"{row.id}: {name}"
            assert HAN.search(after), f"{row.id}: {name}"


@pytest.mark.parametrize(
    ("locale", "cause"),
    [
        ("zh_CN.UTF-8", "原因 缺少 triton 时，归一化函数变成 None"),
        ("zh_CN.GB2312", "cause  norms become None where triton is missing"),
        ("C.UTF-8", "cause  norms become None where triton is missing"),
    ],
)
def test_doctor_explains_in_the_language_of_the_locale(
    run: Run, monkeypatch: pytest.MonkeyPatch, locale: str, cause: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    text = "TypeError: the first argument must be callable"
    ran = run("doctor", "--explain", text)
    assert cause in ran.out
    assert run("doctor", "--explain", text, "--json").json["explanations"][0]["cause"].startswith("norms")
