"""The module mamba_ssm.ops.triton.layer_norm under the name that it had in releases 1.x. Both names are one module."""

import sys

from mamba_ssm.ops.triton import layer_norm

sys.modules[__name__] = layer_norm
