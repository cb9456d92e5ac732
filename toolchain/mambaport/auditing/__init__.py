"""Audit: is a wheel what its tag, its profile and its own records say?"""

from mambaport.auditing.audit import audit_wheel, require
from mambaport.auditing.cuda import TargetSymbols
from mambaport.auditing.findings import Finding, WheelAudit
from mambaport.auditing.tags import tag_of

__all__ = ["Finding", "TargetSymbols", "WheelAudit", "audit_wheel", "require", "tag_of"]
