"""The entry point, also of ``python -m mambaport``.

Imports take a part of a second. A signal during the imports gives the message and the exit code of every
interruption. Nothing has been started by then, so the process ends at once.
"""

import os
import signal
import sys

TEXT = b"""error    Interrupted
  hint     nothing half-done was kept; run the same command again to go on
"""
JSON = b"""{
  "error": {
    "kind": "interrupted",
    "what": "Interrupted",
    "hint": "nothing half-done was kept; run the same command again to go on",
    "exit_code": 130
  }
}
"""
EXIT_CODE = 130
HOST_ERROR = 12


def main() -> None:
    """Imports the commands and runs one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    try:
        from mambaport.cli import main as run  # noqa: PLC0415 - after the signals
    except (OSError, MemoryError, ImportError) as fault:
        _refuse(fault)
    else:
        run()


def _refuse(fault: BaseException) -> None:
    """The message for a Python that cannot load mambaport: too little memory, too few open files, a damaged
    installation."""
    lines = (
        "error    mambaport cannot be loaded",
        f"  found    {type(fault).__name__}: {fault}",
        "  hint     check the limits (`ulimit -a`) and the memory; else install mambaport again",
        "",
    )
    os.write(2, "\n".join(lines).encode("utf-8", "backslashreplace"))
    os._exit(HOST_ERROR)


def _leave(_number: object, _frame: object) -> None:
    try:
        os.write(2, TEXT)
        if "--json" in sys.argv:
            os.write(1, JSON)
    except OSError:  # a closed terminal
        pass
    os._exit(EXIT_CODE)


if __name__ == "__main__":
    main()
