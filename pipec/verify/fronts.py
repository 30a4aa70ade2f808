"""Fronts: when the two ends of each message are posted, and which message it then waits for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import BLOCK, look_up, with_none
from pipec.program.effects import COMPUTE
from pipec.program.events import Graph
from pipec.program.graph import Topology, queue_before
from pipec.program.launches import launch_of
from pipec.program.links import Links
from pipec.simulate.timeline import Timeline

Array = NDArray[Any]


@dataclass(frozen=True)
class Fronts:
    """Per event, with one more for none.

    ready: when both ends of a message are posted; for other events, when they begin. front: the
    message that a message waits for in a queue, or none. late: how much later the operation that
    takes a message begins than it would without waiting for it; counted when it is asked for.
    """

    ready: Array
    front: Array
    late: Callable[[], Array]


def fronts(graph: Graph, links: Links, topology: Topology, time: Timeline) -> Fronts:
    """What every message waits for, in a program that runs to its end."""
    begin = with_none(look_up(time.begin, graph.row), 0)
    if graph.launches:
        return _of_launches(graph, links, topology, time, begin)
    known, messages = _ends(graph, time), graph.event[links.messages.second]
    ready, front = begin.copy(), np.full(len(graph) + 1, len(graph))
    ready[messages] = known[graph.waits[:2, messages]].max(axis=0)
    earlier, later = graph.waits[2:, messages]
    front[messages] = np.where(known[earlier] > known[later], earlier, later)
    return Fronts(ready, front, partial(_lateness, graph, begin, known))


def queued(graph: Graph, links: Links, time: Timeline) -> bool:
    """Whether any message waits for its queue longer than for both its posts.

    graph: one in which every message is issued alone.
    """
    known, second = _ends(graph, time), links.messages.second
    for begin in range(0, len(second), BLOCK):
        ends = graph.event.take(second[begin : begin + BLOCK])
        one, other, earlier, later = (known.take(row.take(ends)) for row in graph.waits)
        if (np.maximum(earlier, later) > np.maximum(one, other)).any():
            return True
    return False


def _ends(graph: Graph, time: Timeline) -> Array:
    """When each event ends, with one more for none."""
    return with_none(look_up(time.end, graph.row), 0)


def _of_launches(
    graph: Graph, links: Links, topology: Topology, time: Timeline, begin: Array
) -> Fronts:
    """A message waits in its queue for all of the launch before: for its last member.

    It is ready when all of its own launch is posted, at both ends. Where a SEND completes apart
    from its RECV, it is ready when it has its credit, too.
    """
    table, end, nobody = links.program, time.end, len(graph)
    launch, unit, queue = launch_of(table), table.unit_before, queue_before(table, topology)
    by_end = np.argsort(end, kind="stable")
    last = np.zeros(len(table), np.int64)
    last[launch[by_end]] = by_end
    posted = np.zeros(len(table), np.int64)
    np.maximum.at(posted, launch, np.where(unit >= 0, end[unit], 0))
    ahead = np.where((queue >= 0) & (launch[queue] != launch), last[launch[queue]], -1)
    rows = np.flatnonzero(ahead >= 0)
    rows = rows[np.argsort(end[ahead[rows]], kind="stable")]
    before = np.full(len(table), -1, np.int64)
    before[launch[rows]] = ahead[rows]

    sent, received = launch[links.messages.first], launch[links.messages.second]
    sends, messages = graph.event[links.messages.first], graph.event[links.messages.second]
    ready, front = begin.copy(), np.full(nobody + 1, nobody)
    if not np.array_equal(sends, messages):
        credit = np.append(end[graph.row], 0)[graph.waits[2, sends]]
        ready[sends] = np.maximum(posted[sent], credit)
        front[sends] = np.where(before[sent] >= 0, graph.event[before[sent]], nobody)
    ready[messages] = np.maximum(posted[sent], posted[received])
    one, other = before[sent], before[received]
    times = np.append(end, -1)
    nearest = np.where(times[one] > times[other], one, other)
    front[messages] = np.where(nearest >= 0, graph.event[nearest], nobody)
    sides = ((sends, sent), (messages, received))
    late = partial(_late_by_last, graph, time, begin, np.where(front < nobody, ready, begin), sides)
    return Fronts(ready, front, late)


def _late_by_last(
    graph: Graph, time: Timeline, begin: Array, free: Array, sides: Sequence[tuple[Array, Array]]
) -> Array:
    """A launch makes an operation late by its last members, as far as none of them would be later
    even if it waited in no queue.

    free: when each event could begin without its queues. sides: events with the launch they are in.
    """
    table, alone = graph.table, len(graph) - graph.launches
    known = _ends(graph, time)
    sooner = known - np.maximum(begin - free, 0)
    launch, done, through = launch_of(table), *np.zeros((2, len(table)), np.int64)
    for events, launches in sides:
        np.maximum.at(done, launches, known[events])
        np.maximum.at(through, launches, sooner[events])
    ends = known.copy()
    ends[alone:-1] = done[launch[graph.row[alone:]]]
    by_launch = np.zeros(len(table), np.int64)
    np.maximum.at(by_launch, launch[graph.row], _lateness(graph, begin, ends)[:-1])
    late = np.zeros(len(graph) + 1, np.int64)
    for events, launches in sides:
        spared = np.minimum(by_launch[launches], (done - through)[launches])
        np.maximum.at(late, events, np.where(known[events] == done[launches], spared, 0))
    return late


def _lateness(graph: Graph, begin: Array, known: Array) -> Array:
    """Per event, how much later an operation begins than it would without waiting for it."""
    late = np.zeros(len(graph) + 1, np.int64)
    compute = np.flatnonzero(COMPUTE[graph.table.kind[graph.row]])
    waits = graph.waits[:, compute]
    for row in (1, 2):
        others = known[np.delete(waits, row, axis=0)].max(axis=0)
        np.maximum.at(late, waits[row], begin[compute] - others)
    late[-1] = 0
    return late
