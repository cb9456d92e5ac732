"""Doctor: what this machine is, what a profile lacks here, and the hint for each."""

from mambaport.doctoring.checks import Check, State
from mambaport.doctoring.examine import examine, facts

__all__ = ["Check", "State", "examine", "facts"]
