"""Side by side in one run: the kernels, what they replace, their peers, and the arithmetic limit."""
