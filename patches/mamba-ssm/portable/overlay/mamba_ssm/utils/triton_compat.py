"""`triton` and `tl`: triton itself where it can run, else stand-ins with which the kernels can be defined.

So a module with kernels can be imported on every machine, with its plain Python functions and its reference
implementations. Only launching a kernel is an error, which gives the reason.
"""

import torch

__all__ = ["HAS_TRITON", "set_allocator", "tl", "triton"]


class _Kernel:
    """The result of @triton.jit where triton cannot run."""

    def __init__(self, function):
        self.function = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__

    def _cannot_run(self, *args, **kwargs):
        raise RuntimeError(
            f"{self.__name__} is a triton kernel: it needs triton and a GPU, and is for tensors on that GPU"
        )

    __call__ = _cannot_run
    run = _cannot_run

    def __getitem__(self, grid):
        return self._cannot_run


class _Config:
    """Stands for triton.Config, one of the settings that autotuning chooses from."""

    def __init__(self, kwargs, num_warps=4, num_stages=2, **options):
        self.kwargs = kwargs
        self.num_warps = num_warps
        self.num_stages = num_stages
        self.options = options


class _Triton:
    """Stands for the module triton: the names that are used outside of kernels."""

    __version__ = "0"
    Config = _Config

    @staticmethod
    def jit(function=None, **options):
        return _Kernel if function is None else _Kernel(function)

    @staticmethod
    def autotune(configs, **options):
        def tuned(kernel):
            kernel.configs = configs  # some modules size their buffers by these
            return kernel

        return tuned

    @staticmethod
    def heuristics(values):
        return lambda kernel: kernel

    @staticmethod
    def cdiv(a, b):
        return -(-a // b)

    @staticmethod
    def next_power_of_2(n):
        return 1 << max(n - 1, 0).bit_length()


class _Language:
    """Stands for the module triton.language: every name exists, because kernels use its types in their signatures."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"triton.language.{name}"


def _load():
    # Without a GPU, some releases of triton raise an error already in @triton.autotune: triton is not imported.
    if torch.cuda.is_available():
        try:
            import triton
            import triton.language

            return True, triton, triton.language
        except ImportError:
            pass
    return False, _Triton(), _Language()


HAS_TRITON, triton, tl = _load()


def set_allocator(allocator):
    """triton.set_allocator: for kernels with descriptors. Does nothing where the installed triton has none."""
    if hasattr(triton, "set_allocator"):
        triton.set_allocator(allocator)
