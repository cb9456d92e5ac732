"""Index: a static site of audited wheels, for pip, uv, mambaport and people."""

from mambaport.indexing.provenance import Provenance
from mambaport.indexing.record import Finding, Proof, WheelRecord, make_record, profile_of
from mambaport.indexing.site import Site, only_writer, read_site, refuse_second, write_site

__all__ = [
    "Finding",
    "Proof",
    "Provenance",
    "Site",
    "WheelRecord",
    "make_record",
    "only_writer",
    "profile_of",
    "read_site",
    "refuse_second",
    "write_site",
]
