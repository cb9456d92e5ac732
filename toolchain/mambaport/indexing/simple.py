"""The pages for package installers: PEP 503 HTML, PEP 691 JSON, PEP 658 metadata, PEP 751 locks."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from html import escape
from typing import Any
from urllib.parse import quote

import tomli_w
from packaging.pylock import Package, PackageWheel, Pylock
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mambaport.attestations import PROVENANCE
from mambaport.indexes import (
    API_VERSION,
    ATTESTED_API_VERSION,
    FILES,
    SIMPLE,
    project_page,
    wheel_file,
)
from mambaport.indexing.record import WheelRecord
from mambaport.indexing.shelves import Shelf, shelves

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="pypi:repository-version" content="{version}">
<title>{title}</title>
</head>
<body>
<h1>{title}</h1>
{links}
</body>
</html>
"""


def simple_pages(
    records: Iterable[WheelRecord],
    metadata: Mapping[str, str],
    url: str | None,
    attested: Collection[str] = (),
) -> dict[str, bytes]:
    """Relative path -> content of every page that an installer reads.

    Args:
        metadata: path of a wheel's metadata file -> sha256
        url: where the index will be served; the locks name the wheels by relative paths where it is None.
        attested: paths of the wheels that have attestations. The pages link these where ``url`` is an https
            address: PEP 740 allows no other link.
    """
    pages: dict[str, bytes] = {}
    for shelf in shelves(records):
        projects = shelf.projects
        root = f"{shelf.folder}/{SIMPLE}"
        listing = "\n".join(f'<a href="{name}/">{name}</a><br>' for name in projects)
        pages[f"{root}/index.html"] = _html("Simple index", listing)
        pages[f"{root}/index.json"] = _json(
            {"meta": {"api-version": API_VERSION}, "projects": [{"name": name} for name in projects]}
        )
        for name, wheels in projects.items():
            rows = [(item, metadata[wheel_file(item.folder, item.filename) + ".metadata"]) for item in wheels]
            places = [_provenance_url(item, url, attested) for item in wheels]
            version = ATTESTED_API_VERSION if any(places) else API_VERSION
            links = "\n".join(_link(*row, place) for row, place in zip(rows, places, strict=True))
            pages[f"{root}/{name}/index.html"] = _html(f"Links for {name}", links, version)
            pages[project_page(shelf.folder, name)] = _json(
                {
                    "meta": {"api-version": version},
                    "name": name,
                    "versions": [item.version for item, _ in rows],
                    "files": [_file(*row, place) for row, place in zip(rows, places, strict=True)],
                }
            )
        pages |= {
            f"{shelf.folder}/{lock_name(shelf, line)}": _lock(shelf, line, wheels, url)
            for line, wheels in shelf.lines.items()
        }
    return pages


def lock_name(shelf: Shelf, line: str) -> str:
    """``pylock.rpi.toml`` for the default release line; PEP 751 allows no further dot in the name."""
    end = "" if line in ("", shelf.default_line) else f"-line-{line}"
    return f"pylock.{(shelf.folder + end).replace('.', '_')}.toml"


def _provenance_url(item: WheelRecord, url: str | None, attested: Collection[str]) -> str | None:
    """The address of a wheel's attestations; None without attestations, or without an address for them."""
    if wheel_file(item.folder, item.filename) not in attested or not (url or "").startswith("https://"):
        return None
    return f"{url}/{item.folder}/{FILES}/{quote(item.filename)}{PROVENANCE}"


def _html(title: str, links: str, version: str = API_VERSION) -> bytes:
    return _PAGE.format(version=version, title=escape(title), links=links).encode()


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _link(item: WheelRecord, metadata: str, provenance: str | None) -> str:
    href = f"../../{FILES}/{quote(item.filename)}#sha256={item.sha256}"
    python = f' data-requires-python="{escape(item.requires_python)}"' if item.requires_python else ""
    core = f'data-core-metadata="sha256={metadata}" data-dist-info-metadata="sha256={metadata}"'
    attested = f' data-provenance="{escape(provenance)}"' if provenance else ""
    return f'<a href="{href}"{python} {core}{attested}>{escape(item.filename)}</a><br>'


def _file(item: WheelRecord, metadata: str, provenance: str | None) -> dict[str, Any]:
    return {
        "filename": item.filename,
        "url": f"../../{FILES}/{quote(item.filename)}",
        "hashes": {"sha256": item.sha256},
        "size": item.size,
        **({"requires-python": item.requires_python} if item.requires_python else {}),
        "core-metadata": {"sha256": metadata},
        "dist-info-metadata": {"sha256": metadata},
        **({"provenance": provenance} if provenance else {}),
        "yanked": False,
    }


def _lock(shelf: Shelf, line: str, wheels: Mapping[str, list[WheelRecord]], url: str | None) -> bytes:
    """A PEP 751 lock of a line's wheels. A comment and a table say which torch."""
    packages = []
    for name, items in wheels.items():
        files = [
            PackageWheel(
                name=item.filename,
                size=item.size,
                hashes={"sha256": item.sha256},
                url=f"{url}/{shelf.folder}/{FILES}/{quote(item.filename)}" if url else None,
                path=None if url else f"{FILES}/{item.filename}",
            )
            for item in items
        ]
        package = Package(name=canonicalize_name(name), version=Version(items[0].version), wheels=files)
        packages.append(package)
    pythons = {item.requires_python for items in wheels.values() for item in items if item.requires_python}
    lock = Pylock(
        lock_version=Version("1.0"),
        created_by="mambaport",
        requires_python=SpecifierSet(",".join(sorted(pythons))),
        packages=packages,
        tool={"mambaport": {"line": line, "torch": shelf.torch, "requires": shelf.requires}},
    )
    lock.validate()
    comment = (
        f"# Wheels of {shelf.folder}{line and f', release line {line}'}, for an environment that has torch.\n"
        f"# torch ({shelf.torch}) is not locked: {shelf.torch_reason}\n"
        f"# Before this lock, install there: {' '.join(shelf.requires) or 'nothing else'}\n\n"
    )
    return (comment + tomli_w.dumps(lock.to_dict())).encode()
