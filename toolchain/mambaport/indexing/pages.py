"""The pages of an index for people: the front page, and one page for each wheel."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import quote

from mambaport.attestations import PROVENANCE
from mambaport.indexes import FILES, wheel_file
from mambaport.indexing.record import Proof, WheelRecord
from mambaport.indexing.shelves import Shelf, shelves
from mambaport.indexing.simple import lock_name
from mambaport.pages import asset, render
from mambaport.releases import known_versions, read_package, read_source
from mambaport.wheels import STATEMENT

ASSETS = ("style.css", "site.js")
"""Files that the pages load; the pages load nothing from elsewhere."""
PLACEHOLDER = "https://wheels.example"
"""Stands in install lines where no ``--url`` is given; a script of the page puts the page's address in."""


def site_pages(
    records: Iterable[WheelRecord],
    url: str | None,
    attested: str | None = None,
    signed: Collection[str] = (),
) -> dict[str, bytes]:
    """Relative path -> content of every page for people, and of the files that the pages load.

    Args:
        attested: the repository on GitHub, ``owner/name``, whose workflow attests the wheels.
        signed: paths of the wheels that have a ``.provenance`` file.
    """
    found = shelves(records)
    address = url or PLACEHOLDER
    pages = {name: asset(name) for name in ASSETS}
    views = [_shelf_view(shelf, address, _signer(shelf, attested, signed)) for shelf in found]
    pages["index.html"] = render("index.html", shelves=views, places=[_place(item) for item in found], top="")
    for shelf, view in zip(found, views, strict=True):
        page = render("shelf.html", shelf=view, top="../")
        pages[f"{shelf.folder}/index.html"] = page
        for record in shelf.records:
            pages[f"{shelf.folder}/{record.page}"] = render(
                "wheel.html",
                shelf=view,
                wheel=_wheel_view(record, shelf, address, attested, signed),
                top="../../",
            )
    return pages


def _place(shelf: Shelf) -> dict[str, Any]:
    """What the finder of the front page compares with the output of `mambaport doctor`."""
    cuda = shelf.cuda
    return {
        "folder": shelf.folder,
        "arch": shelf.facts.target.arch,
        "glibc": shelf.facts.target.glibc,
        "sm": cuda["served"] if cuda else [],
        "torch": shelf.torch,
        "l4t": shelf.l4t,
        "devices": f"{shelf.devices} {shelf.summary}",
    }


def _signer(shelf: Shelf, attested: str | None, signed: Collection[str]) -> str | None:
    """The repository that has signed every wheel which `mambaport install` takes from a folder."""
    chosen = [item for wheels in shelf.lines.values() for items in wheels.values() for item in items]
    whole = all(wheel_file(item.folder, item.filename) in signed for item in chosen)
    return attested if whole else None


def _shelf_view(shelf: Shelf, address: str, signer: str | None) -> dict[str, Any]:
    lines = [
        {
            "name": name,
            "default": name == shelf.default_line,
            "lock": lock_name(shelf, name),
            "commands": _commands(shelf, [items[0] for items in wheels.values()], address, name, signer),
        }
        for name, wheels in shelf.lines.items()
    ]
    return {
        "folder": shelf.folder,
        "option": shelf.option,
        "summary": shelf.summary,
        "devices": shelf.devices,
        "target": shelf.facts.target,
        "cuda": shelf.cuda,
        "torch": shelf.torch,
        "torch_reason": shelf.torch_reason,
        "wheels": [
            {
                "record": item,
                "page": item.page,
                "proven": len({part.name for proof in item.proofs for part in proof.components}),
            }
            for items in shelf.projects.values()
            for item in items
        ],
        "lines": sorted(lines, key=lambda line: not line["default"]),
    }


def _commands(
    shelf: Shelf, wheels: list[WheelRecord], address: str, line: str | None, signer: str | None
) -> list[dict[str, str]]:
    """Lines to copy: for mambaport, pip and uv.

    Args:
        line: the release line of the wheels; None for wheels that `mambaport install` does not take.
    """
    pins = " ".join(f"'{item.name}=={item.version}'" for item in wheels)
    simple = f"{address}/{shelf.folder}/simple/"
    requires = " ".join(f"'{word}'" for word in shelf.requires)
    found = []
    if line is not None:
        words = f"{shelf.option} --line {line}" if line and line != shelf.default_line else shelf.option
        by = f" --attested-by {signer}" if signer else ""
        compared = "signatures" if signer else "digests"
        note = f"checks {compared}, audits, installs, proves; a failed proof restores what was before"
        text = f"mambaport install {words} --index {address}/{by}"
        found.append({"tool": "mambaport", "note": note, "text": text})
    for tool, command in (("pip", "pip install"), ("uv", "uv pip install")):
        before = f"{command} {requires} && " if requires else ""
        text = f"{before}{command} --no-deps --index-url {simple} {pins}"
        found.append(
            {"tool": tool, "note": f"into an environment that has torch {shelf.torch}", "text": text}
        )
    return found


def _wheel_view(
    record: WheelRecord, shelf: Shelf, address: str, attested: str | None, signed: Collection[str]
) -> dict[str, Any]:
    provenance = record.provenance
    package = read_package(record.name) if shelf.profile else None
    files = f"../{FILES}/{quote(record.filename)}"
    kinds = {"metadata": ".metadata", "provenance": ".provenance.json", "sbom": ".sbom.cdx.json"}
    if any(item.rule == "statement" for item in record.audit):
        kinds["statement"] = STATEMENT
    if wheel_file(record.folder, record.filename) in signed:
        kinds["attestations"] = PROVENANCE
    needs = [item.found for item in record.audit if item.rule in ("glibc", "isa")]
    release = (record.name, record.release)
    lines = [name for name, wheels in shelf.lines.items() if record in wheels.get(record.name, ())]
    line = min(lines, key=lambda name: name != shelf.default_line, default=None)
    return {
        "record": record,
        "origins": read_source(*release).origins if release in known_versions() else {},
        "attested": attested and _attestation(record, attested),
        "file": files,
        "links": {name: files + suffix for name, suffix in {**kinds, "record": ".record.json"}.items()},
        "homepage": package.homepage if package else None,
        "license": package.license if package else None,
        "needs": needs,
        "patches": sum(len(item.patches) for item in provenance.patch_sets),
        "cuda": provenance.cuda.model_dump(exclude_none=True) if provenance.cuda else {},
        "proofs": [_proof_view(item) for item in record.proofs],
        "commands": _commands(shelf, [record], address, line, _signer(shelf, attested, signed)),
    }


def _attestation(record: WheelRecord, repository: str) -> dict[str, str]:
    return {
        "repository": repository,
        "url": f"https://github.com/{quote(repository)}/attestations",
        "text": f"gh attestation verify {record.filename} --repo {repository}",
    }


def _proof_view(proof: Proof) -> dict[str, Any]:
    """A proof as a table: a row for each component, a column for each path."""
    names = list(dict.fromkeys(item.name for item in proof.components))
    paths = list(dict.fromkeys(item.path for item in proof.components))
    cells = {(item.name, item.path): item for item in proof.components}
    inputs = {item.name: item.input for item in reversed(proof.components)}
    return {
        "proof": proof,
        "where": f"emulated {proof.emulated}" if proof.emulated else proof.gpu or "this machine",
        "paths": paths,
        "rows": [
            {"name": name, "input": inputs[name], "cells": [cells.get((name, path)) for path in paths]}
            for name in names
        ],
    }
