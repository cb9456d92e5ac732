"""The program that the target interpreter runs. It needs torch and mamba_ssm, and no part of mambaport.

Its files import each other by their bare names. mambaport itself imports only ``models``.
"""
