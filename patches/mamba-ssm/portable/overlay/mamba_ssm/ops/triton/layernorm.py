"""mamba_ssm.ops.triton.layer_norm under its name of releases 1.x: the same module, imported by either name."""

import sys

from mamba_ssm.ops.triton import layer_norm

sys.modules[__name__] = layer_norm
