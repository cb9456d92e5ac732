"""The runner's output: one JSON object a line, each after a mark that nothing else prints."""

import json

MARK = "\x1emambaport "


class Refusal(Exception):  # noqa: N818 - a message with a hint, as mambaport's own errors
    """A failure that the user can act on.

    Args:
        kind: ``usage``, ``host`` (the environment lacks something) or ``run`` (a file does not fit)
        what: one sentence that says what went wrong
        found, expected, hint: as in mambaport's own errors
    """

    def __init__(self, kind, what, found=None, expected=None, hint=None):
        super().__init__(what)
        self.fields = {"kind": kind, "what": what, "found": found, "expected": expected, "hint": hint}


def send(**fields):
    """Writes one object: a ``stage`` (with ``done`` and ``total``), the ``error``, or the ``result``."""
    # The newline first: a library may have left an unfinished line.
    print("\n" + MARK + json.dumps(fields), flush=True)
