#!/usr/bin/env python3
"""Shows nvcc to a compiler cache as a C++ compiler. MAMBAPORT_NVCC_UNIT names a JSON file with nvcc's command.

sccache knows nvcc, but takes it apart into commands that name the source by its absolute path: an object differs from
folder to folder, and no other machine finds it. A C++ compiler, in contrast, is asked for the preprocessed source, and
the object is kept under the digest of that. So, asked to preprocess, this prints everything that decides the object:
nvcc's command, the digests of the source and of the headers it may include, and the toolchain's identity. Asked to
compile, it runs nvcc.
"""

import hashlib
import json
import os
import sys

HOST_COMPILER = "g++"  # the build writes the name of nvcc's host compiler here


def main(arguments):
    unit_path = os.environ.get("MAMBAPORT_NVCC_UNIT", "")
    if not unit_path or (arguments and "testfile" in os.path.basename(arguments[-1])):
        # The cache asks what compiler this is, by a source of its own.
        os.execvp(HOST_COMPILER, [HOST_COMPILER, *arguments])
    with open(unit_path, encoding="utf-8") as stream:
        unit = json.load(stream)
    if "-E" in arguments:
        write_dependencies(arguments, unit)
        print("nvcc-unit 1", json.dumps([unit["words"], unit["identity"]]))
        for name in unit["files"]:
            with open(name, "rb") as stream:
                print(name, hashlib.sha256(stream.read()).hexdigest())
        return
    # The words that the cache adds for its own compilers are not for nvcc: source, object and dependencies are.
    output, dependencies = after("-o", arguments), after("-MF", arguments)
    words = [*unit["words"], *unit["threads"], "-MD", "-MF", dependencies or f"{output}.d"]
    os.execvp(words[0], [*words, "-c", unit["files"][0], "-o", output])


def write_dependencies(arguments, unit):
    path = after("-MF", arguments)
    if path:
        with open(path, "w", encoding="utf-8") as stream:
            target = after("-MT", arguments) or after("-MQ", arguments) or path.removesuffix(".d")
            stream.write(f"{target}: {' '.join(unit['files'])}\n")


def after(option, arguments):
    return arguments[arguments.index(option) + 1] if option in arguments else ""


if __name__ == "__main__":
    main(sys.argv[1:])
