"""The audit of one wheel: its own records first, then each compiled file in it."""

from __future__ import annotations

import csv
import struct
import zipfile

from mambaport.auditing.cuda import TargetSymbols, cuda_findings
from mambaport.auditing.elf import Library, elf_findings, read_libraries
from mambaport.auditing.findings import Finding, WheelAudit
from mambaport.auditing.isa import isa_finding
from mambaport.auditing.packing import archive_finding
from mambaport.auditing.records import record_findings
from mambaport.auditing.statement import statement_finding
from mambaport.auditing.tags import platform_finding
from mambaport.contents import contents
from mambaport.digests import file_sha256
from mambaport.errors import AuditError
from mambaport.goal import Goal
from mambaport.wheels import UNREADABLE_ZIP, Wheel


def audit_wheel(wheel: Wheel, goal: Goal | None, symbols: TargetSymbols | None = None) -> WheelAudit:
    """Audits a wheel against its tag and, when given, a profile's target and its torch.

    Raises:
        AuditError: the file is not a readable wheel at all.
    """
    try:
        with zipfile.ZipFile(wheel.path) as archive:
            packed = archive_finding(archive)
            if packed.verdict == "fail":  # what is inside depends on who reads it
                return _audit(wheel, [packed])
            findings = [packed, *record_findings(wheel, archive)]
            if (stated := statement_finding(wheel, archive)) is not None:
                findings.append(stated)
            libraries = read_libraries(archive)
    except (*UNREADABLE_ZIP, csv.Error) as fault:
        raise AuditError(
            f"{wheel.path.name} cannot be read",
            found=f"{type(fault).__name__}: {fault}",
            expected="a whole wheel",
            hint="build or copy it again",
        ) from None
    findings += _compiled(wheel, libraries, goal, symbols)
    return _audit(wheel, findings)


def _audit(wheel: Wheel, findings: list[Finding]) -> WheelAudit:
    return WheelAudit(wheel.path.name, file_sha256(wheel.path), wheel.path.stat().st_size, tuple(findings))


def _compiled(
    wheel: Wheel, libraries: list[Library], goal: Goal | None, symbols: TargetSymbols | None
) -> list[Finding]:
    try:
        findings = elf_findings(wheel, libraries, goal)
        if all(finding.verdict != "fail" for finding in findings):
            findings.append(platform_finding(wheel, libraries))
        if goal is not None:
            findings.append(isa_finding(libraries, goal, contents().level))
        findings += cuda_findings(wheel, libraries, goal, symbols)
    except (ValueError, OverflowError, struct.error) as fault:
        return [Finding("arch", "fail", f"a compiled file cannot be read: {fault}", "whole ELF files")]
    return findings


def require(audit: WheelAudit) -> None:
    """Refuses a wheel that does not pass.

    Raises:
        AuditError: with every failed rule's reason.
    """
    if audit.ok:
        return
    raise AuditError(
        f"{audit.wheel} does not pass its audit",
        found="\n".join(f"{finding.rule}: {finding.found}" for finding in audit.failures),
        expected="\n".join(
            f"{finding.rule}: {finding.expected}" for finding in audit.failures if finding.expected
        ),
        hint="do not install it; build it again with `mambaport build`, which audits what it makes",
        data={"audit": audit.to_json()},
    )
