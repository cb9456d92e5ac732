"""Build: a patched tree becomes a wheel, in an isolated environment, without network."""

from mambaport.building.build import build_wheel
from mambaport.building.cuda import cuda_parts, cuda_settings
from mambaport.building.environment import build_environment, unpacked_toolchain

__all__ = ["build_environment", "build_wheel", "cuda_parts", "cuda_settings", "unpacked_toolchain"]
