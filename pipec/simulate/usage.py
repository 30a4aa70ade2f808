"""Memory over time: what each rank holds at each instruction."""

from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.costs import MOST_TICKS, too_large, whole
from pipec.program.effects import COMPUTE, EFFECTS, STEP, TRAVELS, Kind
from pipec.program.memory import KEYS, Memory
from pipec.program.program import Table
from pipec.simulate.timeline import Timeline

Array = NDArray[Any]
FINEST = 10**6


@dataclass(frozen=True)
class Usage:
    """Memory held while each row runs, in `1 / scale` of the author's unit, and the peak of each
    rank.
    """

    held: Array
    peak: Array
    peak_row: Array
    scale: int

    def units(self, amount: Any) -> float | int:
        """An amount in the author's unit; a whole one is an integer."""
        whole, rest = divmod(int(amount), self.scale)
        return whole if not rest else int(amount) / self.scale


def usage(memory: Memory, time: Timeline) -> Usage:
    """What every rank holds at every row.

    An operation takes what it adds when it begins and gives back when it ends; the two halves of an
    OVERLAP begin and end together. A received message is held until its consumer ends, a sent one
    until it has left (by the timeline). A held stage takes its `state` all the time.
    """
    table = time.table
    scale, amounts = _amounts(table, memory)
    change = amounts[table.kind, _stage(table)]
    if float(np.abs(change).sum(dtype=np.float64)) >= MOST_TICKS:
        raise too_large("memory amounts")
    taken, given = np.maximum(change, 0), np.minimum(change, 0)
    _forget(table, taken, given)
    first, second = table.pairs
    taken[first] += taken[second]
    given[second] += given[first]
    taken[second] = given[first] = 0
    _messages(table, amounts, time, given)
    before = np.concatenate([[0], np.cumsum(taken + given)[:-1]]) if len(table) else given
    begin = table.start[:-1][np.diff(table.start) > 0]
    ranks = np.flatnonzero(np.diff(table.start) > 0)
    base = np.zeros(table.ranks, np.int64)
    base[ranks] = before[begin]
    state = _state(table, memory, scale)
    held = before - base[table.rank] + taken + state[table.rank]
    peak, peak_row = state.copy(), np.full(table.ranks, -1, np.int64)
    if len(held):
        peak[ranks] = np.maximum.reduceat(held, begin)
        where = np.flatnonzero(held == peak[table.rank])[::-1]
        peak_row[table.rank[where]] = where
    return Usage(held, peak, peak_row, scale)


def _amounts(table: Table, memory: Memory) -> tuple[int, Array]:
    """The change of memory per kind and stage, in whole ticks."""
    stages = int(table.placement.stages.max())
    exact = {key: [memory.amount(key, stage) for stage in range(stages)] for key in KEYS}
    denominators = [amount.denominator for row in exact.values() for amount in row]
    scale = min(lcm(1, *denominators), FINEST)
    amounts = np.zeros((len(Kind), stages), np.int64)
    for kind in Kind:
        key = EFFECTS[kind].cost if COMPUTE[kind] else "message"
        if kind is not Kind.SUM:
            amounts[kind] = whole("memory amounts", exact[key], scale)
    return scale, amounts


def _stage(table: Table) -> Array:
    """The stage of each row's operation (the consumer's for a message)."""
    stage = np.zeros(len(table), np.int64)
    rows = np.flatnonzero(table.kind != Kind.SUM)
    stage[rows] = table.placement.split(table.operation[rows]).stage
    return stage


def _forget(table: Table, taken: Array, given: Array) -> None:
    """A forward without a backward keeps nothing beyond its own end."""
    keeps = np.array([flow.backward for flow in table.placement.flows])
    if keeps.all():
        return
    compute = table.compute
    rows = compute[~keeps[table.placement.split(table.operation[compute]).flow]]
    given[rows] -= taken[rows]


def _messages(table: Table, amounts: Array, time: Timeline, given: Array) -> None:
    """Give back each message: a received one with its consumer, a sent one when it has left."""
    if not amounts[[Kind.SEND, Kind.RECV]].any():
        return
    stage = _stage(table)
    received = np.full(table.placement.size, -1, np.int64)
    recvs = np.flatnonzero(table.kind == Kind.RECV)
    received[table.operation[recvs]] = recvs
    consumers = table.compute[np.isin(STEP[table.kind[table.compute]], list(TRAVELS))]
    arrival = received[table.operation[consumers]]
    consumers, arrival = consumers[arrival >= 0], arrival[arrival >= 0]
    np.subtract.at(given, consumers, amounts[Kind.RECV, stage[arrival]])
    sends = np.flatnonzero(table.kind == Kind.SEND)
    compute = table.compute
    if not len(sends):
        return
    span = int(time.end.max()) + 2
    key = table.rank[compute].astype(np.int64) * span + time.begin[compute]
    left = np.searchsorted(key, table.rank[sends].astype(np.int64) * span + time.end[sends])
    leaves = left < len(compute)
    leaves[leaves] &= table.rank[compute[left[leaves]]] == table.rank[sends[leaves]]
    sends, next_unit = sends[leaves], compute[left[leaves]]
    np.subtract.at(given, np.maximum(next_unit - 1, sends), amounts[Kind.SEND, stage[sends]])


def _state(table: Table, memory: Memory, scale: int) -> Array:
    """What the stages that each rank holds take all the time; a stage held by two ranks counts
    twice.
    """
    copies = table.placement.copies
    amounts = [memory.amount("state", stage) for stage in range(len(copies))]
    ticks = whole("memory amounts", amounts, scale)
    if sum(map(abs, ticks)) >= MOST_TICKS:
        raise too_large("memory amounts")
    state = np.zeros(table.ranks, np.int64)
    for amount, holders in zip(ticks, copies, strict=True):
        for rank in holders:
            state[rank] += amount
    return state
