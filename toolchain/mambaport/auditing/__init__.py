"""Audit: is a wheel what its tag, its profile and its own records say?"""

from mambaport.auditing.audit import audit_wheel, require
from mambaport.auditing.cuda import TargetSymbols
from mambaport.auditing.findings import Finding, WheelAudit
from mambaport.auditing.rules import rules_sha256
from mambaport.auditing.tags import tag_of

__all__ = ["Finding", "TargetSymbols", "WheelAudit", "audit_wheel", "require", "rules_sha256", "tag_of"]
