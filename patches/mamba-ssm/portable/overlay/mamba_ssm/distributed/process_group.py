"""ProcessGroup, or None where torch was built without torch.distributed."""

try:
    from torch.distributed import ProcessGroup
except ImportError:
    ProcessGroup = None
