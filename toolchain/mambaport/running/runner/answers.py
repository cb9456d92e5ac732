"""How the runner answers: one JSON object a line, each behind a mark that nothing else prints."""

import json

MARK = "\x1emambaport "


class Refusal(Exception):  # noqa: N818 - as mambaport's own errors, it says what to mend
    """A failure that the user can act on.

    Args:
        kind: ``usage``, ``host`` (something is missing here) or ``run`` (a file is not what is needed)
        what: one sentence that says what went wrong
        found, expected, hint: as in mambaport's own errors
    """

    def __init__(self, kind, what, found=None, expected=None, hint=None):
        super().__init__(what)
        self.fields = {"kind": kind, "what": what, "found": found, "expected": expected, "hint": hint}


def tell(**fields):
    """Writes one object: a ``stage``, the ``done`` of a ``total``, the ``error``, or the ``result``."""
    # On a line of its own, whatever a library has left unfinished.
    print("\n" + MARK + json.dumps(fields), flush=True)
