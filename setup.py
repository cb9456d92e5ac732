"""Which packages mambaport consists of: all below toolchain/, and the folders of data beside it.

The rest of the build is in pyproject.toml, which can find packages or list them, but not both.
"""

from setuptools import find_packages, setup

# Folder at the top of the repository -> the package that it is inside mambaport.
DATA = {name: f"mambaport._{name}" for name in ("kernels", "patches", "profiles")}

setup(
    packages=[*find_packages("toolchain"), *DATA.values()],
    package_dir={"": "toolchain", **{package: folder for folder, package in DATA.items()}},
)
