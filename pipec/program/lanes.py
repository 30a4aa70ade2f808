"""What reaches a row over another lane than its own: a message, or the result of an all-to-all."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import look_up, narrow, put
from pipec.program.effects import EXPERTS, STEP, Kind, Step
from pipec.program.program import Table

Array = NDArray[Any]


def brought(table: Table) -> Array:
    """For each compute row the RECV, DISPATCH or COMBINE that brings what it consumes, or -1.

    A RECV brings it to an operation of its own rank, where that consumes what another rank makes.
    """
    arrival = np.full(len(table), -1, narrow(len(table)))
    consumers = table.entries
    kind = look_up(table.kind, consumers)
    if (kind == Kind.W).any():
        consumers = consumers.compress(kind != Kind.W)
    operation = look_up(table.operation, consumers)
    received = look_up(_received_at_home(table), operation)
    supplier = look_up(table.placement.supplier, operation)
    foreign = (supplier >= 0) & (supplier != look_up(table.rank, consumers))
    put(arrival, consumers, np.where(foreign | (received < consumers), received, -1))
    if table.placement.layouts:
        _exchanged(table, arrival)
    return arrival


def _received_at_home(table: Table) -> Array:
    """For each operation id the first RECV of what it consumes, on the rank of its stage, or -1."""
    rows = table.recvs
    home = look_up(table.placement.home, look_up(table.operation, rows))
    here = home == look_up(table.rank, rows)
    return table.received if here.all() else table.first(rows.compress(here))


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
