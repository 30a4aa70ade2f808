"""When each instruction runs: the longest path through the event graph, in ticks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import look_up, narrow
from pipec.program.costs import Durations, too_large
from pipec.program.events import Graph
from pipec.program.program import Table
from pipec.program.sweep import NEVER, latest, proven, sweep

Array = NDArray[Any]


@dataclass(frozen=True)
class Timeline:
    """When each row of a table begins and ends, in ticks: predicted or measured."""

    table: Table
    begin: Array
    end: Array
    scale: int
    """Ticks in a unit of time."""
    serial: bool
    """Whether the halves of an OVERLAP run one after the other; else its first row has all its
    time.
    """

    def units(self, ticks: int) -> int | float:
        """Ticks as units; a whole number is an integer."""
        whole, rest = divmod(int(ticks), self.scale)
        return whole if not rest else int(ticks) / self.scale


@dataclass(frozen=True)
class Swept:
    """The sweep of a graph: a predicted timeline, and what proves it right.

    `rises` numbers the ends of events so that it rises along every edge of the graph, even where a
    duration is 0; `spans` is what it rises by (see `sweep.proven`).
    """

    graph: Graph
    durations: Durations
    hops: int
    spans: Array
    rises: Array

    @cached_property
    def stuck(self) -> Array:
        """The events that never happen."""
        return (self.rises >= NEVER).nonzero()[0]

    @cached_property
    def end(self) -> Array:
        """When each row ends, in ticks."""
        return look_up(self.rises // self.hops, self.graph.event)

    @cached_property
    def timeline(self) -> Timeline:
        """When each row begins and ends."""
        begin = look_up((self.rises - self.spans) // self.hops, self.graph.event)
        scale, serial = self.durations.scale, self.durations.serial
        return Timeline(self.graph.table, begin, self.end, scale, serial)


def simulate(graph: Graph, durations: Durations) -> Swept:
    """Sweep a graph. Raises `PipecError` where the costs need more than 63 bits at this size.

    Each event counts as one hop besides its ticks: an end is `ticks * hops + hop`, so that times
    rise along every edge, and the ticks are read off by one division.
    """
    hops, spans = _spans(graph, durations)
    return Swept(graph, durations, hops, spans, sweep(graph.waits, spans, graph.lane))


def simulate_both(graph: Graph, first: Durations, second: Durations) -> tuple[Swept, Swept]:
    """Sweep a graph with two durations at once, in less time than one after the other."""
    one, other = _spans(graph, first), _spans(graph, second)
    rises = sweep(graph.waits, np.stack([one[1], other[1]]), graph.lane)
    return Swept(graph, first, *one, rises[0]), Swept(graph, second, *other, rises[1])


def _spans(graph: Graph, durations: Durations) -> tuple[int, Array]:
    """By how much a tick counts more than a hop, and by how much each event rises."""
    ticks = look_up(durations.ticks, graph.row).astype(np.int64, copy=False)
    ticks[len(graph) - graph.launches :] = 0
    hops = len(graph) + 1
    if float(ticks.sum(dtype=np.float64)) * hops >= NEVER:
        hops = _deepest(graph) + 1
        if int(ticks.max()) * hops * hops >= NEVER:
            raise too_large("costs")
    return hops, ticks * hops + 1


def predict(graph: Graph, durations: Durations) -> Timeline:
    """The timeline of a graph in which everything happens, proved to be the right one.

    Raises `PipecError` as `simulate` does.
    """
    known = _confirmed(graph, durations)
    if known is not None:
        return known
    swept = simulate(graph, durations)
    assert proven(graph.waits, swept.spans, swept.rises), "the sweep is wrong: a bug of pipec"
    return swept.timeline


def _confirmed(graph: Graph, durations: Durations) -> Timeline | None:
    """The times that the program's witness claims, if they are right.

    Without cycles there is but one way to give every event the latest end of what it waits for plus
    its own time. Messages of which nothing is claimed end when both their posts do, unless that
    proves wrong.
    """
    table, witness = graph.table, graph.table.witness
    if witness is None or not graph.rises:
        return None
    ticks = look_up(durations.ticks, graph.row)
    most = int(witness.end.max(initial=0)) + int(ticks.max(initial=0))
    end = look_up(witness.end, graph.row).astype(narrow(most), copy=False)
    (rest,) = (end < 0).nonzero()
    end[rest] = latest(graph.waits, end, rest) + ticks.take(rest)
    begin = latest(graph.waits, end)
    ticks = ticks + begin
    if not np.array_equal(ticks, end):
        return None
    return Timeline(
        table,
        look_up(begin, graph.event),
        look_up(end, graph.event),
        durations.scale,
        durations.serial,
    )


def _deepest(graph: Graph) -> int:
    """The number of events on the longest path, of those that ever happen."""
    levels = sweep(graph.waits, np.ones(len(graph), np.int64), graph.lane)
    return int(levels[levels < NEVER].max(initial=0))
