"""The event graph: what every event waits for. One graph gives order, deadlock and time.

Events are compute rows and completed messages. A channel model says how posted messages progress;
with 0 credits (rendezvous) a SEND and its RECV complete together and are one event. The exact edges
and the theorem (a cycle is a deadlock, and nothing else is) stand in docs/machine-model.md.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, PipecError, listed, nearest
from pipec.program.columns import look_up, narrow, put, rank_blocks, rows_where
from pipec.program.effects import EXPERTS, Kind
from pipec.program.events import Graph
from pipec.program.lanes import brought
from pipec.program.launches import launched
from pipec.program.links import Ends, Links
from pipec.program.program import Order, Program, Table

Array = NDArray[Any]
Topology = Literal["rank", "pair", "directed", "tagged"]
TOPOLOGIES: tuple[Topology, ...] = ("rank", "pair", "directed", "tagged")
"""One queue per rank, per pair of ranks, per directed pair, or none at all (matching by tag)."""

MOST_CREDITS = 2**31 - 1


@dataclass(frozen=True)
class Channels:
    """How posted messages progress; a sender may complete `credits` before they are received."""

    topology: Topology = "pair"
    credits: int = 0

    def __post_init__(self) -> None:
        """Raises `PipecError` for channels that there are not."""
        if self.topology not in TOPOLOGIES:
            name = str(self.topology)
            message, expected, hint = (
                "no such channels",
                listed(TOPOLOGIES),
                nearest(name, TOPOLOGIES),
            )
            raise PipecError([Finding("usage", message, None, expected, f"`{name}`", hint)])
        if type(self.credits) is not int or not 0 <= self.credits <= MOST_CREDITS:
            message, expected = "this is no number of credits", f"from 0 to {MOST_CREDITS:,}"
            raise PipecError([Finding("usage", message, None, expected, str(self.credits)[:60])])


def order_graph(order: Order) -> Graph:
    """The graph of compute alone: each operation waits for its producers, wherever they are."""
    count = len(order)
    event = np.arange(count + 1, dtype=narrow(count))
    entries = order.entries
    arrival = brought(order) if order.placement.layouts else np.full(count, -1, event.dtype)
    put(arrival, entries, order.producers)
    waits = _compute_waits(order, arrival, event)
    _experts(order, event, order.unit_before, waits)
    return Graph(order, event[:-1], event[:-1], waits, partial(_lanes_of_compute, order))


def event_graph(
    program: Program, links: Links, channels: Channels, whole_pairs: bool = True
) -> Graph:
    """The graph of a program whose SENDs, RECVs and SUMs all meet (see `Links`).

    An OVERLAP waits for both its inputs before it begins, unless `whole_pairs` is false: then each
    half waits for its own, as when the halves run one after the other. Verdicts use the former.
    """
    tagged = channels.topology == "tagged"
    ends = links.by_operation if tagged else links.messages
    event, row = _events(program, ends, links.sums, channels.credits)
    count = len(row)
    arrival = brought(program)
    if program.nowait.any():
        arrival[program.nowait] = -1
    waits = _compute_waits(program, arrival, event)
    if not whole_pairs:
        waits[2, look_up(event, program.pairs[0])] = count
    unit = program.unit_before
    queue = queue_before(program, channels.topology)
    _messages(ends, channels, event, unit, queue, waits)
    _sums(program, links.sums, event, unit, waits)
    _experts(program, event, unit, waits)
    lanes = partial(np.arange, count) if tagged else partial(_lanes, program, row)
    graph = Graph(program, event[:-1], row, waits, lanes)
    if tagged or not program.grouped:
        return graph
    return launched(graph, ends, unit, queue, channels.credits > 0)


# --- compute --------------------------------------------------------------------------------------


def _compute_waits(table: Table, arrival: Array, event: Array) -> Array:
    """What compute waits for: the unit before it and what arrives; a pair for both its inputs.

    `arrival` is, per row, the row whose completion brings what travels to it, or -1. `event` has
    one more for none.
    """
    waits = np.full((4, int(event[-1])), event[-1], event.dtype)
    own = look_up(event, table.compute)
    put(waits[0], own[1:], own[:-1])
    begins = table.compute.searchsorted(table.start[:-1])
    waits[0, own.take(begins[begins < len(own)])] = event[-1]
    put(waits[1], own, look_up(event, look_up(arrival, table.compute)))
    first, second = table.pairs
    put(waits[2], look_up(event, first), look_up(event, look_up(arrival, second)))
    return waits


# --- messages -------------------------------------------------------------------------------------


def _events(program: Program, ends: Ends, sums: Ends, credits: int) -> tuple[Array, Array]:
    """Number the events. Under rendezvous a SEND is its RECV's event; so is a SUM's other end.

    The event of row -1 is none.
    """
    own = np.ones(len(program), bool) if credits else program.kind != Kind.SEND
    own[sums.second] = False
    row = rows_where(own)
    event = np.empty(len(program) + 1, row.dtype)
    own.cumsum(out=event[:-1])
    event[:-1] -= 1
    event[-1] = len(row)
    if credits == 0:
        put(event, ends.first, look_up(event, ends.second))
    event[sums.second] = event[sums.first]
    return event, row


def _messages(
    ends: Ends, channels: Channels, event: Array, unit: Array, queue: Array, waits: Array
) -> None:
    """A message waits for both its posts and for the messages before it in both its queues.

    Where messages have tags, receives are posted ahead of their place and are not waited for.
    """
    received = look_up(event, ends.second)
    tagged = channels.topology == "tagged"
    for place, before, rows in (
        (0, unit, ends.first),
        (1, unit, ends.second[:0] if tagged else ends.second),
        (2, queue, ends.first),
        (3, queue, ends.second),
    ):
        put(waits[place], received[: len(rows)], look_up(event, look_up(before, rows)))
    if channels.credits == 0:
        return
    sent = look_up(event, ends.first)
    waits[0, sent] = event.take(unit.take(ends.first))
    waits[1, sent] = event.take(queue.take(ends.first))
    earlier = np.arange(len(sent)) - channels.credits
    holds = (earlier >= 0) & (ends.channel[np.maximum(earlier, 0)] == ends.channel)
    waits[2, sent[holds]] = received[earlier[holds]]


def _sums(program: Program, sums: Ends, event: Array, unit: Array, waits: Array) -> None:
    """A gradient sum waits for both its posts; the sums of one rank go one after the other."""
    rows = program.sums
    if not len(rows):
        return
    before, rank = np.full(len(rows), -1), program.rank.take(rows)
    before[1:] = np.where(rank[1:] == rank[:-1], rows[:-1], -1)
    for place, side in ((0, sums.first), (2, sums.second)):
        own = event.take(side)
        waits[place, own] = event.take(unit.take(side))
        waits[place + 1, own] = event.take(before.take(rows.searchsorted(side)))


def _experts(table: Table, event: Array, unit: Array, waits: Array) -> None:
    """An all-to-all is posted behind the compute before it; those of a rank go one by one."""
    if not table.placement.layouts:
        return
    rows = np.flatnonzero(EXPERTS[table.kind])
    same = table.rank[rows[1:]] == table.rank[rows[:-1]]
    waits[0, event[rows]] = event[unit[rows]]
    waits[1, event[rows[1:][same]]] = event[rows[:-1][same]]


def queue_before(program: Program, topology: Topology) -> Array:
    """For each SEND or RECV the row before it in its queue, or -1."""
    before = np.full(len(program), -1, narrow(len(program)))
    if topology == "tagged":
        return before
    for first, last in rank_blocks(program.start):
        block = slice(program.start[first], program.start[last])
        rows, queue = _queues(program, topology, block)
        by_queue = queue.argsort(kind="stable")
        rows, queue = rows.take(by_queue), queue.take(by_queue)
        before[rows[1:]] = np.where(queue[1:] == queue[:-1], rows[:-1], -1)
    return before


def _queues(program: Program, topology: Topology, block: slice) -> tuple[Array, Array]:
    """The SENDs and RECVs of a block of rows, and a number per queue."""
    kind = program.kind[block]
    (at,) = ((kind == Kind.SEND) | (kind == Kind.RECV)).nonzero()
    queue = program.rank[block].take(at).astype(np.int64)
    if topology != "rank":
        queue = queue * program.ranks + program.peer[block].take(at)
    if topology == "directed":
        queue = queue * 2 + (kind.take(at) == Kind.SEND)
    return at + block.start, queue


def _lanes_of_compute(order: Order) -> Array:
    """A number per rank's compute, and per rank's all-to-alls."""
    if not order.placement.layouts:
        return order.rank
    return np.where(EXPERTS[order.kind], order.ranks, 0) + order.rank


def _lanes(program: Program, rows: Array) -> Array:
    """A number per rank's compute, SUMs and all-to-alls, and per directed pair's messages."""
    lane = np.full(len(program), 0, np.int64)
    lane[EXPERTS[program.kind]] = 1 + 3 * program.ranks
    wired = ~program.computes & ~EXPERTS[program.kind]
    kind = program.kind[wired].astype(np.int64)
    lane[wired] = 1 + (kind - int(Kind.SEND)) * program.ranks + program.peer[wired]
    return (lane * program.ranks + program.rank)[rows]
