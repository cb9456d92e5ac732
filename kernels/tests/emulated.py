"""Runs digests.py against kernel libraries for aarch64, on an emulated system: ``python emulated.py FOLDER``.

Run with a Python that has mambaport. FOLDER holds the packages of the kernels, compiled. Prints what digests.py prints,
for the oldest CPU and the newest, each with its best instruction set. The exit status is 3 where this machine cannot
emulate; the reason is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mambaport.cli.options import open_session
from mambaport.errors import MambaportError
from mambaport.profile import find_profile
from mambaport.verifying import prepare_emulation

UNABLE = 3
CPUS = ("cortex-a72", "neoverse-n2")


def main(folder: Path) -> int:
    system = find_profile("rpi").emulate[0]
    shop = open_session(as_json=False, quiet=True).shop
    digests = Path(__file__).with_name("digests.py")
    for cpu in CPUS:
        try:
            root = prepare_emulation(system, cpu, shop)
        except MambaportError as fault:
            print(f"{fault.what}: {fault.found}")
            return UNABLE
        done = root.run([str(digests), cpu], [folder])
        print(done.output.strip() if done.ok else done.tail, flush=True)
        if not done.ok:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
