"""Runs patch-ng on a series, in a process of its own: it changes the working directory.

``python patch_ng_child.py TREE PATCH...``; exit code 0 when every hunk was applied.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import patch_ng


def main(tree: Path, patches: Sequence[Path]) -> int:
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    for path in patches:
        parsed = patch_ng.fromfile(str(path))
        if not parsed or parsed.errors or not parsed.apply(strip=1, root=str(tree), fuzz=False):
            print(f"not applied: {path.name}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]]))
