"""Work in blocks is the same as work on whole columns; joints are what needs say one by one."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import placements

from pipec.program import columns
from pipec.program.needs import ALL, inputs
from pipec.program.placement import Placement

NUMBERS = st.lists(st.integers(0, 2**62), max_size=40)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 3)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20), st.data())
def test_look_up_and_put_in_blocks(values: list[int], data: st.DataObject) -> None:
    """Both do what fancy indexing does, -1 and repeated places included, in any width."""
    table = np.array(values, np.int32)
    at = data.draw(st.lists(st.integers(-1, len(values) - 1), max_size=20))
    rows = np.array(at, data.draw(st.sampled_from([np.int32, np.int64])))
    assert columns.look_up(table, rows).tolist() == [values[row] for row in at]
    columns.put(table, rows, np.arange(len(rows)))
    for number, row in enumerate(at):
        values[row] = number
    assert table.tolist() == values


@given(NUMBERS, st.integers(1, 5))
def test_argsort_is_stable(numbers: list[int], few: int) -> None:
    """Equal numbers stay in their order, however large the numbers are."""
    for column in (np.array(numbers, np.int64), np.array(numbers, np.int64) % few):
        assert np.array_equal(columns.argsort(column), column.argsort(kind="stable"))


@given(st.lists(st.booleans(), max_size=20))
def test_the_last_row_before(mask: list[bool]) -> None:
    """For each row and the end the nearest marked row before it."""
    expected = [
        max((row for row in range(end) if mask[row]), default=-1) for end in range(len(mask) + 1)
    ]
    assert columns.last_before(np.array(mask, bool)).tolist() == expected


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4)), max_size=9))
def test_ranges(pieces: list[tuple[int, int]]) -> None:
    """One range after the other, empty ones too."""
    begins, counts = (np.array([piece[side] for piece in pieces], int) for side in (0, 1))
    expected = [begin + turn for begin, count in pieces for turn in range(count)]
    assert columns.ranges(begins, counts).tolist() == expected


@given(st.lists(st.integers(0, 5), max_size=12))
def test_blocks_of_ranks(counts: list[int]) -> None:
    """All ranks in order, each once, and no more rows together than asked for."""
    start = np.cumsum([0, *counts])
    blocks = list(columns.rank_blocks(start))
    assert [rank for first, last in blocks for rank in range(first, last)] == [*range(len(counts))]
    for first, last in blocks:
        assert last == first + 1 or start[last] - start[first] <= columns.BLOCK
    assert all(one[1] == other[0] for one, other in pairwise(blocks))


@settings(deadline=None)
@given(placements())
def test_joints_are_the_needs_of_all_ids(placement: Placement) -> None:
    """Joints pair the same operations as `inputs`, on the ranks that they say."""
    ids = np.arange(placement.size)
    expected = {
        (int(number), int(producer))
        for one in inputs(placement, ids)
        for number, producer in zip(one.which, one.producer, strict=True)
    }
    found = set()
    for joint in placement.joints(ALL):
        takes, makes = joint.takes(ids), joint.makes(ids)
        assert (placement.home[takes] == joint.takers[:, None]).all()
        assert (placement.home[makes] == joint.makers[:, None]).all()
        found |= set(zip(takes.ravel().tolist(), makes.ravel().tolist(), strict=True))
    assert found == expected
