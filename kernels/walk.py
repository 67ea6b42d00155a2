"""The walk back along the stored choices of the best path: dependent loads, one program per sequence."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T", "C", "columns"])
def best(lengths, alpha_id, g_id, end_id, marks, labels, T, C, columns):
    """Marks the starts of segments and their labels. `columns`: 1, or K where what leads in depends on the duration."""
    b = tl.program_id(0).to(tl.int64)
    alpha_id += b * (T + 1) * C
    g_id += b * T * columns * C
    t = tl.load(lengths + b).to(tl.int64)
    label = tl.load(end_id + b).to(tl.int64)
    while (t > 0) & (label >= 0):
        k = tl.load(alpha_id + t * C + label).to(tl.int64) + 1
        t = t - k
        tl.store(marks + b * T + t, 1)
        tl.store(labels + b * T + t, label)
        column = tl.where(columns > 1, k - 1, 0)
        label = tl.load(g_id + (t * columns + column) * C + label).to(tl.int64)  # -1 at the start, where t is 0
