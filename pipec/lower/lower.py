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

from pipec.lower.merge import Rows, communication, merged
from pipec.program.columns import argsort, last_before, look_up, narrow, put, rows_where
from pipec.program.costs import Costs, durations
from pipec.program.effects import EFFECTS, Kind, Value
from pipec.program.graph import order_graph
from pipec.program.program import Order, Program
from pipec.program.sweep import NEVER, latest
from pipec.simulate.timeline import Swept, simulate, simulate_both

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
    return projected(order, moments(order, placing), time.end)


@dataclass(frozen=True)
class Moments:
    """Places in the global sequence: where each row begins, and where a message it makes stands.

    Multiples of 4 are compute; a message of a row stands 1 behind its end, a gradient sum 2 behind.
    """

    begin: Array
    end: Array
    stuck: Array


def moments(order: Order, swept: Swept, events: Array | None = None) -> Moments:
    """The places of rows by a simulation, in which they are these events, or all.

    A row begins behind all rows that end no later than what it waits for.
    """
    graph, number = swept.graph, narrow(8 * len(order) + 8)
    by_end, behind = _in_order(swept.rises)
    ended = np.ones(len(graph), bool)
    if events is not None:
        ended[:] = False
        ended[events] = True
    before = ended.take(by_end).cumsum(dtype=number)
    ends, latest_ended = np.empty((2, len(graph)), number)
    put(ends, by_end, before - 1)
    put(latest_ended, by_end, before.take(behind - 1))
    begins = latest(graph.waits, latest_ended)
    stuck = swept.rises >= NEVER
    if events is not None:
        begins, ends, stuck = begins.take(events), ends.take(events), stuck.take(events)
    begins = _issued(order, begins)
    if stuck.any():
        begins[stuck] = ends[stuck] = len(order) + stuck.nonzero()[0]
    begins *= 4
    ends *= 4
    return Moments(begins, ends, stuck)


def _in_order(rises: Array) -> tuple[Array, Array]:
    """The events by their ends, and for each of these places the first one with a later end."""
    by_end = argsort(rises)
    ends = rises.take(by_end)
    behind = np.append((ends[1:] != ends[:-1]).nonzero()[0] + 1, len(ends))
    counts = behind.copy()
    counts[1:] -= behind[:-1]
    return by_end, behind.repeat(counts)


def by_ends(order: Order, places: Moments) -> Moments:
    """The same places, but each row stands where it ends: before it, messages that come meanwhile.

    Every RECV stands where it did or earlier, and every SEND, and the order of messages stays; so
    nothing waits for more than it did.
    """
    return replace(places, begin=_issued(order, places.end))


def projected(order: Order, places: Moments, end: Array) -> Program:
    """The program of places. end: when each row of the order ends, if messages take no time."""
    runs = [_compute(order, places, end), *_messages(order, places), *_sums(order, places)]
    return merged(order, runs)


def _issued(order: Order, begins: Array) -> Array:
    """An all-to-all is issued behind the compute before it, though its lane may be busy then."""
    if not order.placement.layouts:
        return begins
    return begins.take(np.maximum(last_before(order.computes)[1:], 0))


def _compute(order: Order, places: Moments, end: Array) -> Rows:
    return Rows(
        order.rank,
        places.begin,
        order.kind,
        order.operation,
        order.peer,
        order.tie,
        order.part,
        order.origin,
        end.astype(narrow(int(end.max(initial=0)) + 1), copy=False),
    )


def _messages(order: Order, places: Moments) -> tuple[Rows, Rows]:
    """The SENDs and the RECVs. Both carry the id of the operation that consumes the payload."""
    producer, consumer = _crossings(order)
    by_producer = producer.argsort(kind="stable")
    maker, taker = producer.take(by_producer), consumer.take(by_producer)
    sent = look_up(places.end, maker) + 1
    sends = communication(
        Kind.SEND,
        look_up(order.rank, maker),
        sent,
        look_up(order.operation, taker),
        look_up(order.rank, taker),
        look_up(order.origin, maker),
    )
    received = look_up(places.end, producer) + 1
    if places.stuck.any():
        by_rank = look_up(order.rank, taker).argsort(kind="stable")
        producer, consumer = maker.take(by_rank), taker.take(by_rank)
        received = _received(order, places, maker, taker, sent).take(by_rank)
    recvs = communication(
        Kind.RECV,
        look_up(order.rank, consumer),
        received,
        look_up(order.operation, consumer),
        look_up(order.rank, producer),
        look_up(order.origin, consumer),
    )
    return sends, recvs


def _received(
    order: Order, places: Moments, producer: Array, consumer: Array, sent: Array
) -> Array:
    """Keys of RECVs: those of their SENDs, unless these are stuck."""
    received, lost = sent.copy(), places.stuck[producer].nonzero()[0]
    channel = order.rank[producer[lost]].astype(np.int64) * order.ranks
    channel += order.rank[consumer[lost]]
    received[lost] = _kept_in_order(channel, places.begin[consumer[lost]] - 1)
    return received


def _kept_in_order(channel: Array, latest: Array) -> Array:
    """Keys of RECVs whose SENDs stand in this order: none behind its latest, nor behind a later."""
    keys = latest.copy()
    for one in np.unique(channel):
        here = channel == one
        keys[here] = np.minimum.accumulate(latest[here][::-1])[::-1]
    return keys


def _crossings(order: Order) -> tuple[Array, Array]:
    """Rows that make what travels to another rank, and the rows there that consume it."""
    consumer, producer = order.entries, order.producers
    crosses = look_up(order.rank, producer) != look_up(order.rank, consumer)
    crosses &= producer >= 0
    return producer.compress(crosses), consumer.compress(crosses)


def _sums(order: Order, places: Moments) -> list[Rows]:
    """For each stage with two holders a SUM on each, behind the last operation on its gradient."""
    copies = order.placement.copies
    twice = np.array([len(ranks) == 2 for ranks in copies])
    if not twice.any():
        return []
    rows = rows_where(look_up(_MAKES_GRADIENT, order.kind))
    stage = order.placement.stage_of(look_up(order.operation, rows))
    shared = twice.take(stage)
    rows, stage = rows.compress(shared), stage.compress(shared)
    by_end = look_up(places.end, rows).argsort(kind="stable")
    last = np.full(len(copies), -1, np.int64)
    last[stage.take(by_end)] = rows.take(by_end)
    (stages,) = (last >= 0).nonzero()
    low, high = (np.array([copies[stage][side] for stage in stages], np.int32) for side in (0, 1))
    key, origin = places.end.take(last.take(stages)) + 2, order.origin.take(last.take(stages))
    rank, peer = np.append(low, high), np.append(high, low)
    by_rank = rank.argsort(kind="stable")
    columns = (rank, np.tile(key, 2), np.tile(stages, 2), peer, np.tile(origin, 2))
    return [communication(Kind.SUM, *(column.take(by_rank) for column in columns))]


def _makes_gradient(kind: Kind) -> bool:
    """Every step of the backward may add to the gradient of a parameter (B does for norms)."""
    consumes = {use.value for use in EFFECTS[kind].consumes}
    return EFFECTS[kind].step is not None and bool(consumes & {Value.SAVED, Value.STASH})


_MAKES_GRADIENT = np.array([_makes_gradient(kind) for kind in Kind])
