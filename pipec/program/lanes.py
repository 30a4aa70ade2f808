"""What reaches a row over another lane than its own: a message, or the result of an all-to-all."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import EXPERTS, STEP, TRAVELS, Kind, Step
from pipec.program.program import Table

Array = NDArray[Any]


def brought(table: Table) -> Array:
    """For each compute row the RECV, DISPATCH or COMBINE that brings what it consumes, or -1.

    A RECV brings it to an operation of its own rank, where that consumes what another rank makes.
    """
    arrival = np.full(len(table), -1, np.int64)
    recv = np.full(table.placement.size, -1, np.int64)
    rows = np.flatnonzero(table.kind == Kind.RECV)
    rows = rows[table.placement.home[table.operation[rows]] == table.rank[rows]]
    rows = rows[::-1]  # of several, the first
    recv[table.operation[rows]] = rows
    consumers = table.entries
    consumers = consumers[np.isin(STEP[table.kind[consumers]], list(TRAVELS))]
    received = recv[table.operation[consumers]]
    source = table.placement.sources(table.operation[consumers])
    foreign = (source >= 0) & (table.placement.home[source] != table.rank[consumers])
    arrival[consumers] = np.where(foreign | (received < consumers), received, -1)
    if table.placement.layouts:
        _exchanged(table, arrival)
    return arrival


def _exchanged(table: Table, arrival: Array) -> None:
    """Inside a chunk a part takes what the all-to-all before it brings; backward goes back."""
    wires = np.flatnonzero(EXPERTS[table.kind])
    row_of = np.full(table.placement.size * table.placement.widest + 2, -1, np.int64)
    row_of[table.slot[wires]] = wires
    rows = table.compute
    step = STEP[table.kind[rows]]
    rows, step = rows[step != Step.WEIGHTS], step[step != Step.WEIGHTS]
    before = np.where(step == Step.FORWARD, -1, +1)
    stage = table.placement.stage_of(table.operation[rows])
    neighbour = table.part[rows] + before
    inside = (neighbour >= 0) & (neighbour < table.placement.lengths[stage])
    rows, before = rows[inside], before[inside]
    arrival[rows] = row_of[table.slot[rows] + before]
