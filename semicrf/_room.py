"""Whether what was asked for fits into memory: said before a table of every segment is made."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from semicrf.errors import SizeError

LARGE = 1 << 30
"""Bytes below which nothing is checked."""


def available(device: torch.device) -> int | None:
    """Bytes that are free on a device, None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    names = getattr(os, "sysconf_names", {})
    known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None


def check_room(what: str, shape: tuple[int, ...], device: torch.device, fix: str, size: int = 8) -> None:
    """Raise where a table of this shape, `size` bytes an entry, is larger than what is free.

    Raises:
        SizeError: what was asked for, how large it is, how much there is.
    """
    if torch.compiler.is_compiling() or any(isinstance(n, torch.SymInt) for n in shape):
        return  # a comparison would be a guard
    needed = size
    for n in shape:
        needed *= n
    if needed < LARGE:
        return
    free = available(device)
    if free is not None and needed > free:
        wants, has = (f"{n / 2**30:.1f} GiB" for n in (needed, free))
        expected = f"at most the {has} that are free"
        raise SizeError(f"{what}: got a table of shape {shape}, {wants}; expected {expected}. Likely fix: {fix}")
