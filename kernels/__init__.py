"""The place of the Triton loops, installed as ``semicrf.kernels``; it holds none yet. README.md has its rules.

This file imports nothing, so that the package can be imported where there is no Triton.
"""
