"""Run by the target interpreter: prints what it is, as one JSON object.

Written for Pythons much older than mambaport's own, so that a wrong one can be told so.
"""

import json
import os
import platform
import sys
import sysconfig


def distribution(name):
    """Version and folder of an installed distribution, read from its metadata without importing it."""
    try:
        from importlib import metadata
    except ImportError:
        return None
    try:
        found = metadata.distribution(name)
        version = found.version
    except (metadata.PackageNotFoundError, AttributeError, KeyError):
        return None
    if version is None:  # a .dist-info folder that an interrupted installation left without METADATA
        return None
    return {"version": version, "path": str(getattr(found, "_path", ""))}


def torch_build():
    """torch's version with its local part, its CUDA and its C++ ABI, from torch/version.py alone."""
    found = distribution("torch")
    if found is None:
        return None
    values = {}
    path = os.path.join(os.path.dirname(found["path"]), "torch", "version.py")
    try:
        with open(path) as stream:
            exec(stream.read(), values)  # a file of plain assignments; importing torch takes seconds
    except OSError:
        pass
    return {
        "version": str(values.get("__version__", found["version"])),
        "cuda": values.get("cuda"),
        "path": found["path"],
    }


def main():
    paths = sysconfig.get_paths()
    print(
        json.dumps(
            {
                "executable": sys.executable,
                "version": platform.python_version(),
                "implementation": platform.python_implementation(),
                "arch": platform.machine(),
                "bits": 64 if sys.maxsize > 2**32 else 32,
                "glibc": platform.libc_ver()[1],
                "prefix": sys.prefix,
                "virtual": sys.prefix != sys.base_prefix,
                "purelib": paths["purelib"],
                "externally_managed": os.path.exists(os.path.join(paths["stdlib"], "EXTERNALLY-MANAGED")),
                "torch": torch_build(),
                "packages": dict(
                    (name, distribution(name)) for name in sys.argv[1:] if distribution(name) is not None
                ),
            }
        )
    )


main()
