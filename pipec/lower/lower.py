"""Order -> program: SENDs, RECVs and gradient sums, by one simulation and one sort.

Both ends of a message stand where its producer finishes in simulated time, before any compute that
begins then. So every rank's stream is a projection of *one* global sequence, hence free of deadlock
under every topology with rendezvous, by construction; the verifier proves it again without knowing.

Assumes a complete order (`order.complete`). Afterwards every value that crosses ranks has one SEND
and one RECV, and the two holders of a stage sum its gradients after their last operation on it.

    before                            after
    rank 0: F(0) F(1) BW(0) BW(1)     rank 0: F(0) SEND(0) F(1) SEND(1) RECV BW(0) RECV BW(1)
    rank 1: F(0) BW(0) F(1) BW(1)     rank 1: RECV(0) F(0) RECV(1) BW(0) SEND F(1) BW(1) SEND
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.costs import Costs, durations
from pipec.program.effects import COMPUTE, EFFECTS, Kind, Value
from pipec.program.graph import order_graph
from pipec.program.program import Order, Program, Witness
from pipec.program.sweep import NEVER
from pipec.simulate.timeline import simulate, simulate_both

Array = NDArray[Any]


def lower(order: Order, costs: Costs) -> Program:
    """The program of an order. Costs decide only where communication stands between compute.

    A cyclic order is lowered too, each SEND behind its producer and each RECV before its consumer
    and in the order of the SENDs, so that the verifier can show the cycle in real instructions.
    """
    graph = order_graph(order)
    serial = durations(order, costs, serial=True)
    if order.tie.any() and not costs.serial:
        placing, time = simulate_both(graph, serial, durations(order, costs))
    else:
        placing = time = simulate(graph, serial)
    return projected(order, moments(order, placing.rises, placing.spans), time.timeline.end)


@dataclass(frozen=True)
class Moments:
    """Places in the global sequence: where each row begins, and where a message it makes stands.

    Multiples of 4 are compute; a message of a row stands 1 behind its end, a gradient sum 2 behind.
    """

    begin: Array
    end: Array
    stuck: Array


def moments(order: Order, rises: Array, spans: Array) -> Moments:
    """The places of rows that end at `rises`, which rise along all that waits, and take `spans`."""
    by_end = np.argsort(rises, kind="stable")
    ends = np.empty(len(order), np.int64)
    ends[by_end] = np.arange(len(order))
    begins = np.searchsorted(rises[by_end], rises - spans, side="right")
    stuck = rises >= NEVER
    begins = _issued(order, begins)
    begins[stuck] = ends[stuck] = len(order) + np.arange(len(order))[stuck]
    return Moments(4 * begins, 4 * ends, stuck)


def by_ends(order: Order, places: Moments) -> Moments:
    """The same places, but each row stands where it ends: before it, messages that come meanwhile.

    Every RECV stands where it did or earlier, and every SEND, and the order of messages stays; so
    nothing waits for more than it did.
    """
    return replace(places, begin=_issued(order, places.end))


def projected(order: Order, places: Moments, end: Array) -> Program:
    """The program of places. end: when each row of the order ends, if messages take no time."""
    parts = [_compute(order, places), *_messages(order, places), _sums(order, places)]
    return _sorted(order, parts, end)


def _issued(order: Order, begins: Array) -> Array:
    """An all-to-all is issued behind the compute before it, though its lane may be busy then."""
    if not order.placement.layouts:
        return begins
    latest = np.maximum.accumulate(np.where(COMPUTE[order.kind], np.arange(len(order)), 0))
    return np.asarray(begins[latest])


@dataclass(frozen=True)
class _Rows:
    """Rows to be sorted into the program, by rank and then by key."""

    rank: Array
    key: Array
    kind: Array
    operation: Array
    peer: Array
    tie: Array
    part: Array
    origin: Array


def _compute(order: Order, places: Moments) -> _Rows:
    return _Rows(
        order.rank,
        places.begin,
        order.kind,
        order.operation,
        order.peer,
        order.tie,
        order.part,
        order.origin,
    )


def _messages(order: Order, places: Moments) -> tuple[_Rows, _Rows]:
    """The SENDs and the RECVs. Both carry the id of the operation that consumes the payload."""
    producer, consumer = _crossings(order)
    source, target = order.rank[producer], order.rank[consumer]
    operation = order.operation[consumer]
    sent = received = places.end[producer] + 1
    lost = np.flatnonzero(places.stuck[producer])
    if len(lost):
        received = received.copy()
        channel = source[lost].astype(np.int64) * order.ranks + target[lost]
        received[lost] = _kept_in_order(channel, places.begin[consumer[lost]] - 1)
    return (
        _communication(Kind.SEND, source, sent, operation, target, order.origin[producer]),
        _communication(Kind.RECV, target, received, operation, source, order.origin[consumer]),
    )


def _kept_in_order(channel: Array, latest: Array) -> Array:
    """Keys of RECVs whose SENDs stand in this order: none behind its latest, nor behind a later."""
    keys = latest.copy()
    for one in np.unique(channel):
        here = channel == one
        keys[here] = np.minimum.accumulate(latest[here][::-1])[::-1]
    return keys


def _crossings(order: Order) -> tuple[Array, Array]:
    """Rows that make what travels to another rank, and the rows there that consume it."""
    row_of = np.full(order.placement.size + 1, -1, np.int64)
    row_of[order.operation[order.exits]] = order.exits
    consumer = order.entries
    producer = row_of[order.placement.sources(order.operation[consumer])]
    crosses = (producer >= 0) & (order.rank[producer] != order.rank[consumer])
    consumer, producer = consumer[crosses], producer[crosses]
    by_producer = np.argsort(producer, kind="stable")
    return producer[by_producer], consumer[by_producer]


def _sums(order: Order, places: Moments) -> _Rows:
    """For each stage with two holders a SUM on each, behind the last operation on its gradient."""
    copies = order.placement.copies
    twice = np.array([stage for stage, ranks in enumerate(copies) if len(ranks) == 2], np.int64)
    rows = np.flatnonzero(_MAKES_GRADIENT[order.kind]) if len(twice) else twice
    stage = order.placement.stage_of(order.operation[rows])
    rows, stage = rows[np.isin(stage, twice)], stage[np.isin(stage, twice)]
    by_end = np.argsort(places.end[rows], kind="stable")
    last = np.full(len(copies), -1, np.int64)
    last[stage[by_end]] = rows[by_end]
    twice = twice[last[twice] >= 0]
    low, high = (np.array([copies[stage][side] for stage in twice], np.int32) for side in (0, 1))
    key = places.end[last[twice]] + 2
    origin = order.origin[last[twice]]
    ends = [
        _communication(Kind.SUM, rank, key, twice, peer, origin)
        for rank, peer in ((low, high), (high, low))
    ]
    return _joined(ends)


def _makes_gradient(kind: Kind) -> bool:
    """Every step of the backward may add to the gradient of a parameter (B does for norms)."""
    consumes = {use.value for use in EFFECTS[kind].consumes}
    return EFFECTS[kind].step is not None and bool(consumes & {Value.SAVED, Value.STASH})


_MAKES_GRADIENT = np.array([_makes_gradient(kind) for kind in Kind])


def _communication(
    kind: Kind, rank: Array, key: Array, operation: Array, peer: Array, origin: Array
) -> _Rows:
    kinds, ties = np.full(len(rank), kind, np.int8), np.zeros(len(rank), bool)
    operation, peer = operation.astype(np.int32, copy=False), peer.astype(np.int32, copy=False)
    return _Rows(rank, key, kinds, operation, peer, ties, np.zeros(len(rank), np.int16), origin)


def _joined(parts: list[_Rows]) -> _Rows:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return _Rows(*(np.concatenate(column) for column in columns))


def _sorted(order: Order, parts: list[_Rows], end: Array) -> Program:
    """Merge the runs: each of them is sorted or nearly so, which a stable sort makes use of.

    end: when each row of the order ends. Of messages and sums nothing is claimed.
    """
    rows = _joined(parts)
    place = rows.rank.astype(np.int64) * (8 * len(order) + 8) + rows.key + 1
    by_place = np.argsort(place, kind="stable")
    counts = np.bincount(rows.rank, minlength=order.ranks)
    ends = np.full(len(by_place), -1, np.int64)
    ends[: len(order)] = end
    return Program(
        order.placement,
        np.concatenate([[0], np.cumsum(counts)]),
        rows.kind[by_place],
        rows.operation[by_place].astype(np.int32, copy=False),
        rows.peer[by_place].astype(np.int32, copy=False),
        rows.tie[by_place],
        np.zeros(len(by_place), bool),
        rows.part[by_place],
        rows.origin[by_place],
        order.origins,
        None if order.placement.layouts else Witness(rows.key[by_place] + 1, ends[by_place]),
    )
