"""Measurements on real work: each module runs as ``python -m benchmarks.NAME`` and writes to ``benchmarks/results``."""
