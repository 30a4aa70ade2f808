"""Memory over time: what each rank holds at each instruction."""

from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.costs import MOST_TICKS, too_large
from pipec.program.memory import Memory
from pipec.program.program import Table
from pipec.program.sizes import BUFFER
from pipec.simulate.holdings import Changes, Holdings, Stays, holdings
from pipec.simulate.timeline import Timeline

Array = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """A part of what a rank holds, in the unit of `Usage.held`, and how many things it is."""

    name: str
    amount: int
    count: int


@dataclass(frozen=True)
class Usage:
    """Memory held while each row runs, in `1 / scale` of a unit or byte, and the peak of each rank.

    `peak_row` is the first row where the peak is held, -1 for a rank without instructions.
    """

    memory: Memory
    table: Table
    held: Array
    peak: Array
    peak_row: Array
    holdings: Holdings

    @property
    def scale(self) -> int:
        """How many parts of a unit are counted."""
        return self.holdings.scale

    def units(self, amount: Any) -> float | int:
        """An amount in the author's unit; a whole one is an integer."""
        whole, rest = divmod(int(amount), self.scale)
        return whole if not rest else int(amount) / self.scale

    def text(self, amount: Any, of: Any = 0) -> str:
        """An amount as people read it; with `of`, as a share of that."""
        return self.memory.text(self.units(amount), self.units(of))

    @property
    def not_counted(self) -> tuple[str, ...]:
        """What the program has, and no size is known of although others are in bytes."""
        opened = bool(self.table.placement.layouts)
        return tuple(key for key in self.memory.not_counted if opened or key != BUFFER)

    @property
    def largest_message(self) -> int:
        """The largest message between ranks; 0 where messages have no size."""
        sent = [stays.amount for stays in self.holdings.stays if stays.part == "sent"]
        return max((int(amount.max(initial=0)) for amount in sent), default=0)

    @cached_property
    def parts(self) -> tuple[tuple[Part, ...], ...]:
        """What the peak of each rank consists of: parts that add up to it exactly."""
        found = {name: (amounts, counts) for name, amounts, counts in self.holdings.constant}
        for changes in self.holdings.changes:
            found[changes.part] = self._changed(changes)
        for stays in self.holdings.stays:
            found[stays.part] = self._staying(stays)
        return tuple(
            tuple(
                Part(name, int(amounts[rank]), int(counts[rank]))
                for name, (amounts, counts) in found.items()
                if amounts[rank]
            )
            for rank in range(self.table.ranks)
        )

    def _changed(self, changes: Changes) -> tuple[Array, Array]:
        """What operations had taken and not given back at the peaks, and how many there were."""
        amounts = self.holdings.rows(changes.taken, changes.given)
        return self._at_peaks(*amounts), self._at_peaks(
            *self.holdings.rows(changes.begun, changes.ended)
        )

    def _at_peaks(self, taken: Array, given: Array) -> Array:
        """Per rank the sum over what has begun, and over what has ended before."""
        sums = np.zeros(self.table.ranks, np.int64)
        for rows, numbers in zip(self._before_peaks, (taken, given), strict=True):
            np.add.at(sums, self.table.rank[rows], numbers[rows])
        return sums

    @cached_property
    def _before_peaks(self) -> tuple[Array, Array]:
        """The rows that have begun at the peak of their rank, and those that have ended before."""
        rows, peaks = np.arange(len(self.table)), self.peak_row[self.table.rank]
        begun, ended = rows <= peaks, rows < peaks
        first, second = self.table.pairs
        begun[second], ended[first] = begun[first], ended[second]
        return np.flatnonzero(begun), np.flatnonzero(ended)

    def _staying(self, stays: Stays) -> tuple[Array, Array]:
        """What stands between its first and its last row at the peaks."""
        rank = self.table.rank[stays.first]
        here = (stays.first <= self.peak_row[rank]) & (self.peak_row[rank] <= stays.last)
        amounts, counts = np.zeros((2, self.table.ranks), np.int64)
        np.add.at(amounts, rank[here], stays.amount[here])
        np.add.at(counts, rank[here], 1)
        return amounts, counts


def usage(memory: Memory, time: Timeline) -> Usage:
    """What every rank holds at every row (docs/machine-model.md has the rules).

    Raises `PipecError` where amounts need more than 61 bits.
    """
    table = time.table
    holds = holdings(memory, time)
    taken, given = _totals(holds)
    peak = sum((amounts for _, amounts, _ in holds.constant), np.zeros(table.ranks, np.int64))
    peak_row = np.full(table.ranks, -1, np.int64)
    taken += given
    held = taken.cumsum(out=taken)
    bounds, before = table.start.tolist(), 0
    for rank, (begin, end) in enumerate(pairwise(bounds)):
        if begin == end:
            continue
        here, after = held[begin:end], int(held[end - 1])
        here -= given[begin:end]
        here += peak[rank] - before
        row = int(here.argmax())
        peak[rank], peak_row[rank], before = here[row], begin + row, after
    return Usage(memory, table, held, peak, peak_row, holds)


def _totals(holds: Holdings) -> tuple[Array, Array]:
    """What each row takes when it begins, and what it gives back (as negative) when it ends.

    The halves of an OVERLAP begin and end together.
    """
    table = holds.table
    taken, given = holds.rows(
        reduce(np.add, [one.taken for one in holds.changes]),
        reduce(np.add, [one.given for one in holds.changes]),
    )
    first, second = table.pairs
    if len(first):
        taken[first] = taken.take(first) + taken.take(second)
        given[second] = given.take(second) + given.take(first)
        taken[second] = given[first] = 0
    for stays in holds.stays:
        np.add.at(taken, stays.first, stays.amount)
        np.subtract.at(given, stays.last, stays.amount)
    if float(taken.sum(dtype=np.float64)) >= MOST_TICKS:
        raise too_large("memory amounts")
    return taken, given
