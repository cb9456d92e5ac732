"""Doctor: facts of this machine, what a profile lacks on it, and a hint for each lack."""

from mambaport.doctoring.checks import Check, State
from mambaport.doctoring.examine import examine, facts

__all__ = ["Check", "State", "examine", "facts"]
