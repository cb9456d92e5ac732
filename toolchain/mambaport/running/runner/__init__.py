"""What the target interpreter runs: a folder of its own that needs torch, mamba_ssm and no part of mambaport.

Its files import each other by their bare names. Only ``models`` is read by mambaport too.
"""
