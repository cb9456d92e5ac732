"""Writes docs/reference and the troubleshooting page from the code: `make docs`.

A unit test holds the files against the code.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from mambaport.checkouts import checkout_sets, known_checkouts
from mambaport.cli import cli
from mambaport.failures import catalogue
from mambaport.patchset import PatchSet
from mambaport.profile import profile_schema
from mambaport.releases import all_sets, known_versions

DOCS = Path(__file__).parent


def schema() -> str:
    """docs/reference/profile.schema.json"""
    return json.dumps(profile_schema(), indent=2) + "\n"


def commands() -> str:
    """docs/reference/commands.md"""
    parts = ["# Commands\n", "Written by `make docs` from the commands' own help.\n"]
    context = click.Context(cli, info_name="mambaport", terminal_width=100, **cli.context_settings)
    parts.append(_section(cli, context))
    for name, command in sorted(cli.commands.items()):
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
    parts = ["# Patch sets\n", "Written by `make docs` from the patch sets themselves.\n"]
    for package, version in known_versions():
        for item in all_sets(package, version):
            parts += _patch_set(f"{package} {version}", item)
    for name, checkout in known_checkouts().items():
        for item in checkout_sets(name):
            parts += _patch_set(f"Checkout of {checkout.repository}", item)
    return "\n".join(parts)


def _patch_set(title: str, item: PatchSet) -> list[str]:
    parts = [
        f"## {title}: `{item.name}`\n",
        f"{item.meta.summary}\n",
        "| patch | why | owns | upstream |\n|---|---|---|---|",
    ]
    for replacement in item.meta.replace:
        cells = (f"{replacement.file} (replaced)", replacement.why, " ".join(replacement.failures), "")
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for patch in item.patches:
        name = patch.file.removesuffix(".patch")
        cells = (name, patch.why, " ".join(patch.failures), patch.upstream or "")
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


def troubleshooting() -> str:
    """docs/how-to/troubleshooting.md"""
    lines = [
        "# Troubleshooting by symptom\n",
        "Written by `make docs` from `failures.toml`. The same catalogue answers on the command line:\n",
        'In a checkout, after `make setup`:\n\n```console\nexport PATH="$PWD/.venv/bin:$PATH"\n'
        "python train.py 2>&1 | mambaport doctor --explain -\n```\n",
        "A text that the catalogue does not know ends in what to collect and where to ask.",
    ]
    for title, kinds in (("While building or installing", "B"), ("At import or run time", "RN")):
        lines.append(f"\n## {title}")
        for row in catalogue():
            if row.id[0] in kinds:
                lines += [f"\n### {row.symptom}\n", f"*Cause:* {row.cause}.\n", f"*Hint:* {row.hint}."]
    return "\n".join(lines) + "\n"


def _section(command: click.Command, context: click.Context) -> str:
    return f"## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"


FILES = {
    "reference/profile.schema.json": schema,
    "reference/commands.md": commands,
    "reference/patches.md": patches,
    "reference/failures.md": failures,
    "how-to/troubleshooting.md": troubleshooting,
}


def main() -> None:
    for name, text in FILES.items():
        (DOCS / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
