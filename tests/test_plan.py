"""Plans of tiles: pure numbers, so they are tested without a GPU."""

from __future__ import annotations

import itertools

import pytest

from semicrf.engine.plan import SHORT, known, plan, power, squares, steps

SIZES = list(itertools.product((1, 2, 31, 100, 1000, 8192), (1, 2, 9, 24, 64, 65, 256), (1, 3, 16), (False, True)))


@pytest.mark.parametrize(("K", "C", "width", "interpreted"), SIZES)
def test_tiles_fit_together(K, C, width, interpreted):
    p = plan(K, C, width, interpreted)
    for size in (p.labels, p.rows, p.group, p.ring, p.warps):
        assert size == power(size)
    assert C <= p.labels < 2 * max(C, 2)
    assert p.rows % p.group == 0  # a group of sources lies in one tile, and so in one frame
    assert p.ring % p.rows == 0
    # The oldest source that is read stands K + group before a tile, whose own sources are written meanwhile.
    assert p.ring >= K + p.rows + p.group
    assert p.ring // p.rows >= -(-K // p.rows) + 2
    assert p.ring <= 2 * (K + 2 * p.rows + p.group)  # memory without gradients is O(B K C d)


@pytest.mark.parametrize(("K", "C", "width", "flag"), SIZES)
def test_steps_fit_into_registers(K, C, width, flag):
    """All that is read at once is at most a few entries a thread; every size is a power of two, as a tile has to be."""
    for interpreted in (False, True):
        p = steps(K, C, width, flag, interpreted)
        for size in (p.labels, p.window, p.previous, p.durations, p.ring, p.warps):
            assert size == power(size)
        assert p.labels >= C
        assert p.previous * p.durations * p.labels <= 2048
        assert p.window * p.labels <= 2048
        assert p.ring >= K + 2  # the sources of a window, the position itself, and the next


@pytest.mark.parametrize("C", [1, 2, 9, 24, 64])
def test_counts_hold_what_they_read(C):
    rows = known(100, C)
    assert rows.rows * rows.labels <= 2048
    assert rows.rows == power(rows.rows)
    assert 1 <= squares(C) <= SHORT  # a group of positions lies in one span
    assert SHORT % squares(C) == 0
    assert squares(C) * rows.labels**2 <= 4096


def test_a_plan_depends_on_shapes_alone():
    assert plan(100, 24, 1) == plan(100, 24, 1)
    assert [power(n) for n in (1, 2, 3, 4, 5, 1000)] == [1, 2, 4, 4, 8, 1024]
