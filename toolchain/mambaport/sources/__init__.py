"""Fetch: pinned files into the store, verified, and unpacked as pristine trees."""

from mambaport.sources.archives import unpack_sdist, unpack_wheel
from mambaport.sources.excerpt import extract_members, take
from mambaport.sources.fetch import Fetcher
from mambaport.sources.sdists import LATEST, Sdist, bring_sdist, known_sdists
from mambaport.sources.tree import assemble
from mambaport.sources.wheel_index import WheelIndex
from mambaport.sources.workshop import Workshop

__all__ = [
    "LATEST",
    "Fetcher",
    "Sdist",
    "WheelIndex",
    "Workshop",
    "assemble",
    "bring_sdist",
    "extract_members",
    "known_sdists",
    "take",
    "unpack_sdist",
    "unpack_wheel",
]
