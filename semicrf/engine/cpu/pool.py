"""Threads over sequences: a pool that honours torch.get_num_threads and survives a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

SERIAL = 100_000  # products below which a second thread costs more than it saves (measured: some 50 us)

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and size: a child of a fork makes its own


def over_sequences(task: Callable[[int, int], None], B: int, work: int) -> None:
    """task(b0, b1) over ranges that cover the B sequences of a batch, in threads where there is work for them: `work`
    products each. What a sequence gives does not depend on the range that it is in.
    """
    threads = min(torch.get_num_threads(), B, B * work // SERIAL)
    if threads < 2:
        task(0, B)
        return
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="semicrf")
    ranges = min(B, 4 * threads)
    bounds = [B * i // ranges for i in range(ranges + 1)]
    for future in [_pools[key].submit(task, b0, b1) for b0, b1 in pairwise(bounds)]:
        future.result()
