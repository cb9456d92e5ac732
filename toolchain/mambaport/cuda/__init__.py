"""CUDA facts that a plan needs: those of this machine, of the target, and of the target's torch."""
