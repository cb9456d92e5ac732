"""Build: makes a wheel from a patched tree, in an isolated environment, without network."""

from mambaport.building.build import build_wheel
from mambaport.building.compiler_cache import compiler_cache
from mambaport.building.cuda import cuda_parts
from mambaport.building.environment import build_environment, unpacked_toolchain

__all__ = ["build_environment", "build_wheel", "compiler_cache", "cuda_parts", "unpacked_toolchain"]
