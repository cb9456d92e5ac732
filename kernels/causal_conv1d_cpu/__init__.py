"""The causal depthwise convolution on a CPU, compiled.

Importing this package raises ImportError in a wheel built without its library.
"""

from ._conv import causal_conv1d, causal_conv1d_update, supports, supports_update

__all__ = ["causal_conv1d", "causal_conv1d_update", "supports", "supports_update"]
