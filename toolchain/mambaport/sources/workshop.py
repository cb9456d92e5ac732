"""The tools of the stages on one machine."""

from __future__ import annotations

from dataclasses import dataclass

from mambaport.host import Host
from mambaport.report import Report
from mambaport.sources.fetch import Fetcher
from mambaport.store import Store


@dataclass(frozen=True)
class Workshop:
    """The store, the fetcher that fills the store, the report for people, and the facts of the machine."""

    store: Store
    fetcher: Fetcher
    report: Report
    host: Host
