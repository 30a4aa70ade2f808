"""What a timeline amounts to: makespan, and per rank the busy time, the bubbles and the peak."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipec.amounts import amount_text
from pipec.program.columns import look_up
from pipec.simulate.timeline import Timeline
from pipec.simulate.usage import Usage

Number = int | float


@dataclass(frozen=True)
class RankReport:
    """One rank, in the author's units. `peak_index` is the instruction at which the peak is held.

    bubble: the makespan less the busy time. span_bubble: the same from the rank's own first
    operation to the end of its own last one, as the zero-bubble papers count it.
    """

    busy: Number
    bubble: Number
    span_bubble: Number
    peak_memory: Number
    peak_index: int


@dataclass(frozen=True)
class Report:
    """A whole program: the makespan is the end of the last compute on any rank."""

    makespan: Number
    ranks: tuple[RankReport, ...]
    in_bytes: bool = False
    """Whether memory is in bytes."""

    @property
    def bubble_rate(self) -> float:
        """Bubble over makespan on the worst rank."""
        return max((rank.bubble for rank in self.ranks), default=0) / (self.makespan or 1)

    @property
    def span_bubble_rate(self) -> float:
        """Span bubble over makespan on the worst rank."""
        return max((rank.span_bubble for rank in self.ranks), default=0) / (self.makespan or 1)

    @property
    def peak_memory(self) -> Number:
        """The largest peak of any rank."""
        return max((rank.peak_memory for rank in self.ranks), default=0)

    @property
    def peak_text(self) -> str:
        """The largest peak as people read it."""
        return amount_text(self.peak_memory, self.in_bytes)


def report(time: Timeline, memory: Usage) -> Report:
    """Sum up a timeline, predicted or measured."""
    table, units = time.table, time.units
    compute = table.compute
    begin, end = look_up(time.begin, compute), look_up(time.end, compute)
    makespan = int(end.max(initial=0))
    work = np.append(0, (end - begin).cumsum())
    bounds = compute.searchsorted(table.start)
    busy = work.take(bounds[1:]) - work.take(bounds[:-1])
    ranks = []
    for rank, (first, behind) in enumerate(pairwise(bounds.tolist())):
        span = int(end[behind - 1] - begin[first]) if behind > first else 0
        peak_row = int(memory.peak_row[rank])
        ranks.append(
            RankReport(
                units(busy[rank]),
                units(makespan - busy[rank]),
                units(span - busy[rank]),
                memory.units(memory.peak[rank]),
                peak_row - int(table.start[rank]) if peak_row >= 0 else -1,
            )
        )
    return Report(units(makespan), tuple(ranks), memory.memory.in_bytes)
