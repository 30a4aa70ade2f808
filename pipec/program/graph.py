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
from pipec.program.effects import COMPUTE, EXPERTS, Kind
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
    made_by = np.full(order.placement.size + 1, -1, np.int64)
    made_by[order.operation[order.exits]] = order.exits
    everything = np.arange(count)
    arrival = brought(order) if order.placement.layouts else np.full(count, -1, np.int64)
    entries = order.entries
    producer = made_by[order.placement.sources(order.operation[entries])]
    arrival[entries] = producer
    waits = _compute_waits(order, arrival, everything, count)
    _experts(order, everything, order.unit_before, waits)
    return Graph(order, everything, everything, waits, partial(_lanes_of_compute, order))


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
    arrival[program.nowait] = -1
    waits = _compute_waits(program, arrival, event, count)
    if not whole_pairs:
        waits[2, event[program.pairs[0]]] = count
    unit = program.unit_before
    queue = queue_before(program, channels.topology)
    _messages(ends, channels, event, unit, queue, waits)
    _sums(program, links.sums, event, unit, waits)
    _experts(program, event, unit, waits)
    lanes = partial(np.arange, count) if tagged else partial(_lanes, program, row)
    graph = Graph(program, event, row, waits, lanes)
    if tagged or not program.grouped:
        return graph
    return launched(graph, ends, unit, queue, channels.credits > 0)


# --- compute --------------------------------------------------------------------------------------


def _compute_waits(table: Table, arrival: Array, event: Array, count: int) -> Array:
    """What compute waits for: the unit before it and what arrives; a pair for both its inputs.

    `arrival` is, per row, the row whose completion brings what travels to it, or -1.
    """
    waits = np.full((4, count), count, np.int64)
    compute, to_event = table.compute, np.append(event, count)
    own = event[compute]
    waits[0, own] = to_event[table.unit_before[compute]]
    waits[1, own] = to_event[arrival[compute]]
    first, second = table.pairs
    waits[2, event[first]] = to_event[arrival[second]]
    return waits


# --- messages -------------------------------------------------------------------------------------


def _events(program: Program, ends: Ends, sums: Ends, credits: int) -> tuple[Array, Array]:
    """Number the events. Under rendezvous a SEND is its RECV's event; so is a SUM's other end."""
    own = np.ones(len(program), bool)
    if credits == 0:
        own[ends.first] = False
    own[sums.second] = False
    event = np.cumsum(own) - 1
    if credits == 0:
        event[ends.first] = event[ends.second]
    event[sums.second] = event[sums.first]
    return event, np.flatnonzero(own)


def _messages(
    ends: Ends, channels: Channels, event: Array, unit: Array, queue: Array, waits: Array
) -> None:
    """A message waits for both its posts and for the messages before it in both its queues.

    Where messages have tags, receives are posted ahead of their place and are not waited for.
    """
    to_event = np.append(event, waits.shape[1])
    received = event[ends.second]
    waits[0, received] = to_event[unit[ends.first]]
    if channels.topology != "tagged":
        waits[1, received] = to_event[unit[ends.second]]
    waits[2, received] = to_event[queue[ends.first]]
    waits[3, received] = to_event[queue[ends.second]]
    if channels.credits == 0:
        return
    sent = event[ends.first]
    waits[0, sent] = to_event[unit[ends.first]]
    waits[1, sent] = to_event[queue[ends.first]]
    earlier = np.arange(len(sent)) - channels.credits
    holds = (earlier >= 0) & (ends.channel[np.maximum(earlier, 0)] == ends.channel)
    waits[2, sent[holds]] = received[earlier[holds]]


def _sums(program: Program, sums: Ends, event: Array, unit: Array, waits: Array) -> None:
    """A gradient sum waits for both its posts; the sums of one rank go one after the other."""
    rows = np.flatnonzero(program.kind == Kind.SUM)
    before = np.full(len(program) + 1, -1, np.int64)
    same = program.rank[rows[1:]] == program.rank[rows[:-1]]
    before[rows[1:][same]] = rows[:-1][same]
    to_event = np.append(event, waits.shape[1])
    for place, side in ((0, sums.first), (2, sums.second)):
        waits[place, event[side]] = to_event[unit[side]]
        waits[place + 1, event[side]] = to_event[before[side]]


def _experts(table: Table, event: Array, unit: Array, waits: Array) -> None:
    """An all-to-all is posted behind the compute before it; those of a rank go one by one."""
    rows = np.flatnonzero(EXPERTS[table.kind])
    if not len(rows):
        return
    to_event = np.append(event, waits.shape[1])
    same = table.rank[rows[1:]] == table.rank[rows[:-1]]
    waits[0, event[rows]] = to_event[unit[rows]]
    waits[1, event[rows[1:][same]]] = event[rows[:-1][same]]


def queue_before(program: Program, topology: Topology) -> Array:
    """For each SEND or RECV the row before it in its queue, or -1."""
    before = np.full(len(program), -1, np.int64)
    if topology == "tagged":
        return before
    rows = np.flatnonzero((program.kind == Kind.SEND) | (program.kind == Kind.RECV))
    queue = program.rank[rows].astype(np.int64)
    if topology != "rank":
        queue = queue * program.ranks + program.peer[rows]
    if topology == "directed":
        queue = queue * 2 + (program.kind[rows] == Kind.SEND)
    by_queue = np.argsort(queue, kind="stable")
    rows, queue = rows[by_queue], queue[by_queue]
    same = queue[1:] == queue[:-1]
    before[rows[1:][same]] = rows[:-1][same]
    return before


def _lanes_of_compute(order: Order) -> Array:
    """A number per rank's compute, and per rank's all-to-alls."""
    return np.where(EXPERTS[order.kind], order.ranks, 0) + order.rank


def _lanes(program: Program, rows: Array) -> Array:
    """A number per rank's compute, SUMs and all-to-alls, and per directed pair's messages."""
    lane = np.full(len(program), 0, np.int64)
    lane[EXPERTS[program.kind]] = 1 + 3 * program.ranks
    wired = ~COMPUTE[program.kind] & ~EXPERTS[program.kind]
    kind = program.kind[wired].astype(np.int64)
    lane[wired] = 1 + (kind - int(Kind.SEND)) * program.ranks + program.peer[wired]
    return (lane * program.ranks + program.rank)[rows]
