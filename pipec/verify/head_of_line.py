"""Head-of-line blocking: a message that could move stands behind one that cannot yet."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Severity
from pipec.program.costs import Costs, durations
from pipec.program.events import Graph
from pipec.program.graph import Channels, Topology, event_graph
from pipec.program.launches import glued
from pipec.program.links import Links
from pipec.simulate.timeline import Timeline, simulate
from pipec.verify.fronts import fronts, queued
from pipec.verify.place import place

Array = NDArray[Any]


@dataclass(frozen=True)
class Delays:
    """Events whose operation begins later for it, by how many ticks, and what stands in front.

    `culprit` is the message in whose favour all of the queue waits: the nearest one in front that
    waits for no queue itself.
    """

    event: Array
    ticks: Array
    front: Array
    culprit: Array


def delays(graph: Graph, links: Links, topology: Topology, time: Timeline) -> Delays:
    """The messages that were ready at both ends and waited for one in front that was not.

    Waiting while others are on the wire is no such delay: that is what a wire costs. Nor is it one
    if the operation that takes the message has something else to wait for.
    """
    if not graph.launches and not queued(graph, links, time):
        nothing = np.empty(0, np.int64)
        return Delays(nothing, nothing, nothing, nothing)
    found, nobody = fronts(graph, links, topology, time), len(graph)
    behind = np.append(time.begin[graph.row], 0) > found.ready
    behind &= found.front < nobody
    culprit = np.where(behind, found.front, np.arange(nobody + 1))
    while behind[culprit].any():
        culprit = culprit[culprit]
    ticks = np.minimum(found.ready[culprit] - found.ready, found.late())[:-1]
    event = np.flatnonzero((ticks > 0) & behind[:-1])
    return Delays(event, ticks[event], found.front[event], culprit[event])


def head_of_line(
    graph: Graph, links: Links, channels: Channels, costs: Costs, time: Timeline
) -> list[Finding]:
    """Warning `head-of-line` for the message that is delayed most, or nothing.

    graph, time: of the program under these channels and costs.
    """
    if channels.topology == "tagged":
        return []
    found = delays(graph, links, channels.topology, time)
    if not len(found.event):
        return []
    worst = int(np.argmax(found.ticks))
    event, front = int(found.event[worst]), int(found.front[worst])
    story = _Story(graph, links)
    delayed, ahead = story.message(event), story.message(front)
    shared = [row for row in ahead.rows if _same_rank(graph, row, delayed.rows)]
    early = place(graph.table, shared[0])
    ticks, shown = time.units(found.ticks[worst]), early.instruction.removeprefix("& ")
    message = (
        f"{delayed.name} could go {ticks} {_units(ticks)} earlier, but stands in the queue of rank "
        f"{early.rank} behind `{shown}`, which waits for its other end"
    )
    notes = [f"{ahead.name} waits in turn behind {story.message(int(found.culprit[worst])).name}"]
    notes = notes if found.culprit[worst] != front else []
    if len(found.event) > 1:
        notes += [f"{len(found.event)} messages wait so, this one longest"]
    notes += [_effect(time, _unqueued(links, costs))]
    where = tuple(place(graph.table, row) for row in sorted({*delayed.rows, *ahead.rows}))
    hint = f"post `{shown}` later, or use channels with more queues (`directed`)"
    if _launched(graph, shared[0]):
        hint = f"issue `{shown}` later, or in a launch of its own"
    warning = Finding("head-of-line", message, early.span, None, None, hint, where, tuple(notes))
    return [replace(warning, severity=Severity.WARNING)]


def _launched(graph: Graph, row: int) -> bool:
    """Whether a message is in a launch with others."""
    return bool(glued(graph.table)[row : row + 2].any())


def _same_rank(graph: Graph, row: int, others: list[int]) -> bool:
    return any(graph.table.rank[row] == graph.table.rank[other] and row < other for other in others)


def _units(amount: float) -> str:
    return "unit" if amount == 1 else "units"


def _unqueued(links: Links, costs: Costs) -> int:
    """The makespan in ticks if each message had a queue of its own."""
    free = event_graph(links.program, links, Channels("tagged"), whole_pairs=not costs.serial)
    time = simulate(free, durations(links.program, costs)).timeline
    return int(time.end[time.table.compute].max(initial=0))


def _effect(time: Timeline, makespan: int) -> str:
    now = int(time.end[time.table.compute].max(initial=0))
    if now == makespan:
        return f"the makespan is {time.units(now)} all the same"
    return (
        f"the makespan is {time.units(now)}; "
        f"with a queue for each message it would be {time.units(makespan)}"
    )


@dataclass(frozen=True)
class _Message:
    name: str
    rows: list[int]


class _Story:
    """Messages of a graph as people say them."""

    def __init__(self, graph: Graph, links: Links):
        self._graph = graph
        ends = links.messages
        self._sender = dict(zip(ends.second.tolist(), ends.first.tolist(), strict=True))

    def message(self, event: int) -> _Message:
        """A message by one of its events: what is sent, from where, and its rows."""
        row = int(self._graph.row[event])
        rows = sorted({self._sender.get(row, row), row})
        shown = place(self._graph.table, self._sender.get(row, row))
        text = shown.instruction.removeprefix("& ")
        return _Message(f"the message `{text}` from rank {shown.rank}", rows)
