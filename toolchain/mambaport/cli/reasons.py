"""Prints patch sets: each patch with the failures that it mends, and its reason."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape

from mambaport.patchset import PatchSet
from mambaport.report import print_indented


def print_reasons(console: Console, item: PatchSet) -> None:
    """Prints one patch set: the files that it replaces, its patches in order, then its overlay."""
    console.print(
        f"  [stage]{item.name}[/stage]: {escape(item.meta.summary)}",
        soft_wrap=True,
    )
    for replacement in item.meta.replace:
        notes = [*replacement.failures, *([replacement.thread] if replacement.thread else [])]
        head = f"    {replacement.file} replaced  [warn]{escape(', '.join(notes))}[/warn]"
        console.print(head, soft_wrap=True)
        print_indented(console, f"[quiet]{escape(replacement.why)}[/quiet]", 9)
    for patch in item.patches:
        notes = [*patch.failures]
        notes += [f"upstream since {patch.upstream}"] if patch.upstream else []
        notes += [patch.thread] if patch.thread else []
        head = f"    {patch.file.removesuffix('.patch')}"
        console.print(head + (f"  [warn]{escape(', '.join(notes))}[/warn]" if notes else ""), soft_wrap=True)
        print_indented(console, f"[quiet]{escape(patch.why)}[/quiet]", 9)
    folders = Counter(name.rpartition("/")[0] or "." for name in item.overlay_files())
    if folders:
        parts = ", ".join(f"{folder}/ ({count})" for folder, count in sorted(folders.items()))
        print_indented(console, f"overlay: [quiet]{escape(parts)}[/quiet]", 4)
