"""The Triton loops, installed as ``semicrf.kernels``; README.md has the derivation.

This file imports nothing, so that the package can be imported where there is no Triton.
"""
