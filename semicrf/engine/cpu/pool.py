"""Threads over sequences: a pool that honours torch.get_num_threads and survives a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

SERIAL = 100_000  # products below which a second thread costs more than it saves (measured: some 50 us)

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and size: a child of a fork makes its own


def run(tasks: list[Callable[[], None]], work: int) -> None:
    """Run all tasks, each on its own data; in threads where there is work for them. The results do not depend on how
    many.
    """
    threads = min(torch.get_num_threads(), len(tasks))
    if threads < 2 or work < SERIAL:
        for task in tasks:
            task()
        return
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="semicrf")
    for future in [_pools[key].submit(task) for task in tasks]:
        future.result()


def groups(n: int) -> list[tuple[int, int]]:
    """n sequences cut into ranges (first, last), a few per thread so that ragged lengths even out."""
    size = max(1, -(-n // (4 * torch.get_num_threads())))
    return [(a, min(n, a + size)) for a in range(0, n, size)]
