"""Writes docs/reference and the troubleshooting page from the code: `make docs`.

A unit test holds the files against the code.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import click

from mambaport.checkouts import checkout_sets, known_checkouts
from mambaport.cli import cli
from mambaport.failures import Words, catalogue, chinese
from mambaport.patchset import Patch, PatchSet
from mambaport.profile import profile_schema
from mambaport.release_lines import read_lines
from mambaport.releases import all_sets, known_versions, read_package
from mambaport.resources import patches_dir

DOCS = Path(__file__).parent


def schema() -> str:
    """docs/reference/profile.schema.json"""
    return json.dumps(profile_schema(), indent=2) + "\n"


def commands() -> str:
    """docs/reference/commands.md"""
    parts = ["# Commands\n", "Written by `make docs` from the commands' own help.\n"]
    context = click.Context(cli, info_name="mambaport", terminal_width=100, **cli.context_settings)
    parts.append(_section(cli, context))
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(
            command, info_name=name, parent=context, max_content_width=100, terminal_width=100
        )
        parts.append(_section(command, inner))
        if isinstance(command, click.Group):
            for sub, subcommand in sorted(command.commands.items()):
                parts.append(
                    _section(
                        subcommand,
                        click.Context(
                            subcommand, info_name=sub, parent=inner, max_content_width=100, terminal_width=100
                        ),
                    )
                )
    return "\n".join(parts)


def patches() -> str:
    """docs/reference/patches.md"""
    parts = ["# Patch sets\n", "Written by `make docs` from the patch sets themselves.\n", *_releases()]
    for package, newest in dict(known_versions()).items():  # the last of a package's releases is the newest
        for name in read_package(package).sets:
            parts += _patch_set(package, PatchSet(patches_dir() / package / name, newest))
    for name, checkout in known_checkouts().items():
        for item in checkout_sets(name):
            parts += _patch_set(f"Checkout of {checkout.repository}", item)
    return "\n".join(parts)


def _releases() -> list[str]:
    """Each pinned release, and how much text of patches it has for itself and with the default line."""
    lines = read_lines()
    assert lines is not None
    default = next(line for line in lines.line if line.name == lines.default).releases
    rows = []
    for package, version in known_versions():
        named = ", ".join(line.name for line in lines.line if line.releases.get(package) == version)
        own, shared = _texts(package, version), _texts(package, default[package])
        both = sum(path.stat().st_size for path in own & shared)
        alone = sum(path.stat().st_size for path in own - shared)
        rows.append(f"| {package} {version} | {named} | {len(own)} | {both:,} | {alone:,} |")
    return [
        "| release | line | patches | bytes of the default line's text | bytes of other text |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _texts(package: str, version: str) -> set[Path]:
    """The patch files of a release."""
    return {item.path(patch) for item in all_sets(package, version) for patch in item.patches}


def _patch_set(title: str, item: PatchSet) -> list[str]:
    parts = [
        f"## {title}: `{item.name}`\n",
        f"{item.meta.summary}\n",
        "| patch | for | why | owns |\n|---|---|---|---|",
    ]
    for change in (*item.meta.replace, *item.meta.patch):
        name, wanted = f"{change.file} (replaced)", ""
        if isinstance(change, Patch):
            name, wanted = change.file.removesuffix(".patch"), change.wanted
            wanted += "".join(f"; another text for {only}" for only in change.siblings.values())
        cells = (name, wanted.removeprefix("; ") or "all", change.why, " ".join(change.failures))
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    files = ", ".join(f"`{name}`" for name in item.overlay_files())
    return [*parts, f"\nOverlay: {files or 'none'}.\n"]


def failures() -> str:
    """docs/reference/failures.md"""
    lines = [
        "# What breaks, and what owns it\n",
        "Written by `make docs` from `failures.toml` and the patch sets: what people report when they put",
        "Mamba on ARM or on a CPU, and the patch, rule or setting that takes care of it.\n",
        "| # | symptom | cause | owner | reported in |",
        "|---|---|---|---|---|",
    ]
    for row in catalogue():
        owner = "; ".join(row.owners) or "*not covered yet*"
        cells = (row.id, f"`{row.symptom}`", row.cause, owner, " ".join(row.threads))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


ENGLISH = {
    "top": """English | [简体中文](../zh-CN/troubleshooting.md)

# Troubleshooting by symptom

Written by `make docs` from `failures.toml`. The same catalogue answers on the command line:

In a checkout, after `make setup`:""",
    "end": "A text that the catalogue does not know ends in what to collect and where to ask.",
    "B": "While building or installing",
    "RN": "At import or run time",
    "cause": "*Cause:* {}.",
    "hint": "*Hint:* {}.",
}
CHINESE = {
    "top": """[English](../how-to/troubleshooting.md) | 简体中文

# 按错误现象排查问题

本页由 `make docs` 从 `failures.toml` 和 `failures.zh-CN.toml` 生成。命令行使用同一份错误目录；\
在中文环境（`LANG=zh_CN.UTF-8`）中，原因和建议用中文显示。标题是错误信息的原文，便于搜索。

在源码目录中，先运行 `make setup`，然后：""",
    "end": "目录中没有的错误，`doctor` 会说明需要收集哪些信息、到哪里提问。",
    "B": "构建或安装时",
    "RN": "导入或运行时",
    "cause": "*原因*：{}。",
    "hint": "*建议*：{}。",
}


def troubleshooting() -> str:
    """docs/how-to/troubleshooting.md"""
    return _troubleshooting(ENGLISH, {})


def chinese_troubleshooting() -> str:
    """docs/zh-CN/troubleshooting.md"""
    return _troubleshooting(CHINESE, chinese())


def _troubleshooting(page: dict[str, str], translated: dict[str, Words]) -> str:
    lines = [
        f"{page['top']}\n",
        '```console\nexport PATH="$PWD/.venv/bin:$PATH"\n'
        "python train.py 2>&1 | mambaport doctor --explain -\n```\n",
        page["end"],
    ]
    for kinds in ("B", "RN"):
        lines.append(f"\n## {page[kinds]}")
        for row in catalogue():
            if row.id[0] in kinds:
                words = translated[row.id] if translated else row
                lines += [f"\n### {row.symptom}\n", page["cause"].format(words.cause) + "\n"]
                lines.append(page["hint"].format(words.hint))
    return "\n".join(lines) + "\n"


def transformers() -> str:
    """docs/how-to/transformers.md: the page as it is, with the tables of the tests' expectations."""
    tests = DOCS.parent / "tests" / "transformers"
    sys.path.insert(0, str(tests))
    try:
        expected = importlib.import_module("expected")
    finally:
        sys.path.remove(str(tests))
    text = (DOCS / "how-to" / "transformers.md").read_text(encoding="utf-8")
    begin, end = "<!-- tables of tests/transformers/expected.py -->\n", "<!-- end of the tables -->\n"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{expected.page_tables()}\n\n{end}{rest.partition(end)[2]}"


def _section(command: click.Command, context: click.Context) -> str:
    return f"## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"


FILES = {
    "reference/profile.schema.json": schema,
    "reference/commands.md": commands,
    "reference/patches.md": patches,
    "reference/failures.md": failures,
    "how-to/troubleshooting.md": troubleshooting,
    "zh-CN/troubleshooting.md": chinese_troubleshooting,
    "how-to/transformers.md": transformers,
}


def main() -> None:
    for name, text in FILES.items():
        (DOCS / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
