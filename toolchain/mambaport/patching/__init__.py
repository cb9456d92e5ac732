"""Patch: a pristine tree becomes the profile's tree, exactly or not at all."""

from mambaport.patching.adopt import Adoption, adopt, survey, undo
from mambaport.patching.apply import apply_sets
from mambaport.patching.check import PatchState, Verdict, check_against
from mambaport.patching.ground import lay_ground
from mambaport.patching.refresh import refresh_checkout_lock, refresh_lock

__all__ = [
    "Adoption",
    "PatchState",
    "Verdict",
    "adopt",
    "apply_sets",
    "check_against",
    "lay_ground",
    "refresh_checkout_lock",
    "refresh_lock",
    "survey",
    "undo",
]
