"""Opened order -> orders of the same operations, with the parts of neighbours issued in turn.

Assumes an order whose chunks are opened (`parts`). Afterwards every rank has the same rows, each
behind what it needs of that rank; no two of them that depend on each other have changed places. The
orders are the one as it was and those with windows of 2 and more operations (`neighbours`), the
shortest in simulated time first.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.lower.neighbours import Work, side_by_side
from pipec.program.costs import Costs, durations
from pipec.program.effects import EXPERTS, Kind, Step, Value
from pipec.program.graph import order_graph
from pipec.program.needs import inputs
from pipec.program.program import Order
from pipec.simulate.timeline import simulate

Array = NDArray[Any]


def beside(whole: Order, order: Order, costs: Costs, window: int) -> list[Order]:
    """whole: the order before its chunks were opened; window: how many neighbours there may be."""
    work = _work(whole, order, durations(order, costs).ticks)
    others = [
        _sorted(order, np.concatenate(side_by_side(work, size)).astype(np.int64))
        for size in range(2, window + 1)
    ]
    return sorted([order, *others], key=lambda one: _makespan(one, costs))


def _makespan(order: Order, costs: Costs) -> int:
    swept = simulate(order_graph(order), durations(order, costs))
    return int(swept.rises.max(initial=0))


def _sorted(order: Order, rows: Array) -> Order:
    columns = ("kind", "operation", "peer", "tie", "nowait", "part", "origin")
    return replace(order, **{name: getattr(order, name)[rows] for name in columns})


def _work(whole: Order, order: Order, ticks: Array) -> Work:
    unit = _units(whole, order)
    edges = np.flatnonzero(np.diff(unit, prepend=-1)).tolist()
    units: list[list[range]] = [[] for _ in range(order.ranks)]
    for first, last in zip(edges, [*edges[1:], len(order)], strict=True):
        units[int(order.rank[first])].append(range(first, last))
    return Work(
        units,
        EXPERTS[order.kind].astype(int).tolist(),
        ticks.tolist(),
        _needs(order),
        (order.kind == Kind.W).tolist(),
    )


def _units(whole: Order, order: Order) -> Array:
    """For each row the unit it is of, counted over all ranks. A W that has none is its BW's."""
    unit = np.full(order.placement.size, -1, np.int64)
    unit[whole.operation] = np.cumsum(~whole.tie) - 1
    own = unit[order.operation]
    rows = np.flatnonzero(own < 0)
    for _, which, producer in inputs(order.placement, order.operation[rows]):
        own[rows[which]] = unit[producer]
    return own


def _needs(order: Order) -> list[list[int]]:
    """For each row those that it waits for: the part before it, or what its operation needs."""
    pairs = np.concatenate([_within(order), _between(order)], axis=1)
    pairs = pairs[:, pairs[1] >= 0]
    needs: list[list[int]] = [[] for _ in range(len(order))]
    for row, need in pairs.T.tolist():
        needs[row].append(need)
    return needs


def _within(order: Order) -> Array:
    """Rows of F and B, and the part before each in its operation."""
    split = order.placement.split(order.operation)
    back = np.where(split.step == Step.FORWARD, -1, 1)
    part = order.part + back
    inside = (part >= 0) & (part < order.placement.lengths[split.stage])
    rows = np.flatnonzero(inside & (split.step != Step.WEIGHTS))
    return np.stack([rows, _row_of(order)[order.slot[rows] + back[rows]]])


def _between(order: Order) -> Array:
    """First rows of F and B with what they need of other operations; rows of W, each with its B."""
    row_of, exits = _row_of(order), np.full(order.placement.size, -1, np.int64)
    exits[order.operation[order.exits]] = order.exits
    weights = order.kind == Kind.W
    first = order.entries
    rows = np.concatenate([first[~weights[first]], np.flatnonzero(weights)])
    found = [np.empty((2, 0), np.int64)]
    for need, which, producer in inputs(order.placement, order.operation[rows]):
        row = rows[which]
        same = row_of[producer * order.placement.widest + order.part[row]]
        found.append(np.stack([row, same if need.value is Value.STASH else exits[producer]]))
    return np.concatenate(found, axis=1)


def _row_of(order: Order) -> Array:
    rows = np.full(order.placement.size * order.placement.widest, -1, np.int64)
    rows[order.slot] = np.arange(len(order))
    return rows
