"""Patch sets for people: each patch with what it owns, and its reason below it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from mambaport.patchset import PatchSet


def print_reasons(console: Console, item: PatchSet) -> None:
    """One patch set: its patches in order, then its overlay."""
    console.print(
        f"  [stage]{item.name}[/stage] revision {item.meta.revision}: {escape(item.meta.summary)}",
        soft_wrap=True,
    )
    for patch in item.patches:
        notes = [*patch.failures]
        notes += [f"upstream since {patch.upstream}"] if patch.upstream else []
        notes += [patch.thread] if patch.thread else []
        head = f"    {patch.file.removesuffix('.patch')}"
        console.print(head + (f"  [warn]{escape(', '.join(notes))}[/warn]" if notes else ""), soft_wrap=True)
        console.print(Padding(f"[quiet]{escape(patch.why)}[/quiet]", (0, 2, 0, 9)))
    files = item.overlay_files()
    if files:
        console.print(Padding(f"overlay: [quiet]{escape(', '.join(files))}[/quiet]", (0, 2, 0, 4)))
