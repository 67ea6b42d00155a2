"""Plans of tiles: pure numbers, so they are tested without a GPU."""

from __future__ import annotations

import itertools

import pytest

from semicrf.engine.plan import plan, power

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


def test_a_plan_depends_on_shapes_alone():
    assert plan(100, 24, 1) == plan(100, 24, 1)
    assert [power(n) for n in (1, 2, 3, 4, 5, 1000)] == [1, 2, 4, 4, 8, 1024]
