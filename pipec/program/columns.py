"""Work on long columns: narrow numbers, looked up block by block, so that no copy of all is made.

numpy converts every index to 64 bits first. In blocks, that copy stays in the cache.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 2**16


def narrow(count: int) -> type[np.signedinteger[Any]]:
    """The type of numbers up to `count`, of rows, events or operations."""
    return np.int32 if count < 2**31 else np.int64


def look_up(values: Array, at: Array) -> Array:
    """`values[at]`; -1 stands for the last, as it does there."""
    if len(at) <= BLOCK:
        return values.take(at)
    found = np.empty(len(at), values.dtype)
    for begin in range(0, len(at), BLOCK):
        end = begin + BLOCK
        found[begin:end] = values.take(at[begin:end])
    return found


def put(table: Array, at: Array, values: Array) -> None:
    """`table[at] = values`, in that order; -1 stands for the last place."""
    for begin in range(0, len(at), BLOCK):
        end = begin + BLOCK
        table[at[begin:end].astype(np.intp, copy=False)] = values[begin:end]


def with_none(values: Array, none: Any) -> Array:
    """The same numbers, and behind them the one that stands for none: that of row -1."""
    more = np.empty(len(values) + 1, values.dtype)
    more[:-1] = values
    more[-1] = none
    return more


def argsort(values: Array) -> Array:
    """The places of numbers of 0 or more in ascending order, of equal ones in their own.

    Each number is sorted together with its place, where both fit: that takes a fraction of the
    time.
    """
    shift = len(values).bit_length()
    if int(values.max(initial=0)) >= 2 ** (63 - shift):
        return values.argsort(kind="stable")
    both = values.astype(np.int64)
    both <<= shift
    both |= np.arange(len(values), dtype=narrow(len(values)))
    both.sort()
    both &= 2**shift - 1
    return both


def rows_where(mask: Array) -> Array:
    """The rows where a mask holds."""
    (rows,) = mask.nonzero()
    return rows.astype(narrow(len(mask)), copy=False)


def last_before(mask: Array) -> Array:
    """For each row, and for the end, the last row before it where a mask holds, or -1."""
    last = np.arange(-1, len(mask), dtype=narrow(len(mask)))
    np.putmask(last[1:], ~mask, -1)
    return np.maximum.accumulate(last, out=last)


def rank_blocks(start: Array) -> Iterator[tuple[int, int]]:
    """Ranks, from and to, that have few rows together; one with more is alone.

    start: where the rows of each rank begin, and the end.
    """
    first, ranks = 0, len(start) - 1
    while first < ranks:
        last = int(start.searchsorted(start[first] + BLOCK, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def ranges(begins: Array, counts: Array) -> Array:
    """From each beginning on so many numbers, one range after the other."""
    ends = counts.cumsum()
    numbers = np.arange(ends[-1]) if len(ends) else ends
    numbers += (begins - ends + counts).repeat(counts)
    return numbers
