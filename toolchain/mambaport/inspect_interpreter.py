"""Run by the target interpreter: prints facts of the interpreter and its environment as one JSON object.

The syntax is that of very old Pythons, so that mambaport can refuse such a Python with a clear message.
"""

import os
import sys

# This file's folder has modules of mambaport. They must not hide the environment's modules.
this_folder = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != this_folder]

import json  # noqa: E402
import platform  # noqa: E402
import site  # noqa: E402
import sysconfig  # noqa: E402


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


def torch_folder():
    """The folder that `import torch` would load; None without torch. Nothing is imported."""
    try:
        from importlib.util import find_spec

        spec = find_spec("torch")
    except (ImportError, ValueError, AttributeError):
        return None
    folders = list(getattr(spec, "submodule_search_locations", None) or [])
    return folders[0] if folders else None


def torch_build():
    """torch's version with its local part, its CUDA and its C++ ABI, from torch/version.py alone.

    `path` is the .dist-info folder beside the package where one exists, else the package's folder.
    """
    folder = torch_folder()
    found = distribution("torch")
    if folder is None or (found is None and not os.path.exists(os.path.join(folder, "version.py"))):
        return None
    values = {}
    try:
        with open(os.path.join(folder, "version.py")) as stream:
            exec(stream.read(), values)  # a file of plain assignments; importing torch takes seconds
    except Exception:
        values = {}
    beside = found is not None and os.path.dirname(found["path"]) == os.path.dirname(folder)
    version = values.get("__version__", found["version"] if found else None)
    if version is None:
        return None
    return {"version": str(version), "cuda": values.get("cuda"), "path": found["path"] if beside else folder}


def writable(path):
    """Whether this user may write to a folder, or create the folder."""
    while path and not os.path.exists(path):
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    return os.access(path, os.W_OK)


def main():
    paths = sysconfig.get_paths()
    found = dict((name, distribution(name)) for name in sys.argv[1:])
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
                "virtual": sys.prefix != getattr(sys, "base_prefix", sys.prefix),
                "purelib": paths["purelib"],
                "writable": writable(paths["purelib"]),
                "user_site": site.getusersitepackages() if site.ENABLE_USER_SITE else None,
                "externally_managed": os.path.exists(os.path.join(paths["stdlib"], "EXTERNALLY-MANAGED")),
                "torch": torch_build(),
                "packages": dict((name, package) for name, package in found.items() if package is not None),
            }
        )
    )


main()
