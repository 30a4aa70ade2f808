"""Grouped launches: SENDs and RECVs that are issued as one, and what waits for them.

A launch starts when every member is posted and every launch before it, in each queue that a member
is in, is done. Its members then progress together; it is done when all of them are. Whatever waits
for one member waits for the launch. Both are events of their own, as chains over the members, so
that no event waits for more than four others. Where messages have tags there are no queues, and a
launch is nothing but its members.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.program.events import Graph
from pipec.program.links import Ends, Links
from pipec.program.program import Program, Table

Array = NDArray[Any]


def glued(table: Table) -> Array:
    """Whether each row is in one launch with the row before it."""
    wired = (table.kind == Kind.SEND) | (table.kind == Kind.RECV)
    behind = table.tie & wired
    behind[1:] &= wired[:-1]
    behind[table.start[:-1][table.start[:-1] < len(table)]] = False
    return behind


def launch_of(table: Table) -> Array:
    """A number per row, the same for the members of one launch."""
    return np.cumsum(~glued(table)) - 1


def uneven_launches(program: Program) -> Array:
    """The messages in launches of several whose other ends are not one launch of one rank."""
    launch, ends = launch_of(program), Links(program).messages
    other = np.full(len(program), -1, np.int64)
    other[ends.first], other[ends.second] = launch[ends.second], launch[ends.first]
    size = np.bincount(launch)
    even = size[launch] == np.where(other >= 0, size[other], 0)
    even[1:] &= (launch[1:] != launch[:-1]) | (other[1:] == other[:-1])
    spoilt = np.bincount(launch, ~even) > 0
    return np.flatnonzero((size[launch] > 1) & spoilt[launch])


def launched(graph: Graph, ends: Ends, unit: Array, queue: Array, with_credits: bool) -> Graph:
    """The graph with its launches, of one in which every message is issued alone.

    unit, queue: per row the compute row before it, and the row before it in its queue, or -1.
    """
    table, alone = graph.table, len(graph)
    behind = glued(table)
    members = np.flatnonzero(behind | np.append(behind[1:], False))
    count, nobody = len(members), alone + 2 * len(members)
    begins = alone + np.arange(count)
    launch = launch_of(table)[members]
    last = np.searchsorted(launch, launch, side="right") - 1
    start, done = np.full(len(table), nobody), graph.event.copy()
    start[members], done[members] = begins[last], begins[last] + count
    same = launch_of(table)
    other = np.where((queue >= 0) & (same[queue] != same), queue, -1)
    posted, done = np.append(graph.event, nobody)[unit], np.append(done, nobody)
    posted[unit < 0] = nobody
    first, second = posted.copy(), done[other]
    first[members], second[members] = start[members], nobody

    waits = np.full((4, nobody), nobody)
    waits[:, :alone] = np.where(graph.waits == alone, nobody, graph.waits)
    _compute(graph, ends, done, waits)
    received, sent = graph.event[ends.second], graph.event[ends.first]
    for place, rows in ((0, ends.first), (2, ends.second)):
        waits[place, received], waits[place + 1, received] = first[rows], second[rows]
    if with_credits:
        waits[0, sent], waits[1, sent] = first[ends.first], second[ends.first]
    chained = behind[members]
    waits[0, begins] = np.where(chained, begins - 1, nobody)
    waits[1, begins], waits[2, begins] = posted[members], done[other[members]]
    waits[0, begins + count] = np.where(chained, begins + count - 1, nobody)
    waits[1, begins + count] = graph.event[members]
    row = np.concatenate([graph.row, members, members])
    return replace(
        graph, row=row, waits=waits, lanes=partial(np.arange, nobody), launches=2 * count
    )


def _compute(graph: Graph, ends: Ends, done: Array, waits: Array) -> None:
    """Compute waits for the launches of what it consumes."""
    arrived = np.arange(waits.shape[1] + 1)
    arrived[graph.event[ends.second]] = done[ends.second]
    compute = graph.event[graph.table.compute]
    waits[1:3, compute] = arrived[waits[1:3, compute]]
