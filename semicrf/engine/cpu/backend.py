"""The CPU backend: `serves`, `scan` and `scan_vjp`, by the engine that has what is asked for."""

from __future__ import annotations

from semicrf.engine.cpu.linear import scan, scan_vjp, serves

__all__ = ["scan", "scan_vjp", "serves"]
