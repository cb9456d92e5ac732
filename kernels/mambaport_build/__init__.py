"""Builds the compiled parts of a wheel with ninja: our CPU kernels in C, and upstream's CUDA extensions.

A package's setup.py names its libraries and calls `setup_commands.run_setup`. A library is a shared library with a C
interface, or one that registers torch operators; none includes ``Python.h``, so one ``py3-none`` wheel serves every
Python. What the libraries are compiled with comes from a configuration file, or from this machine (see `config`).
"""
