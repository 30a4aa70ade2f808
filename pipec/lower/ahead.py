"""Program -> the same program with RECVs posted ahead, where messages take time.

`lower` lets a RECV wait for the compute that runs while its message is made. That costs nothing if
messages take no time; else the whole message comes behind that compute. Here each row stands where
it *ends* by a simulation with messages, and both ends of a message right behind its producer. So
every stream is still a projection of one global sequence, safe as `lower` says.

Assumes what `lower` made of this order. Afterwards compute and SENDs stand as before, and the
program takes no longer under the channels that it is for; where no message takes time, or none is
late, it is the same program. It needs buffers earlier: where memory has a limit that the program
was within, it still is. Opened chunks are no exception: an all-to-all stays behind its compute.

    before                              after
    rank 0: F(0) SEND(0) F(1) SEND(1)   rank 0: F(0) SEND(0) F(1) SEND(1)
    rank 1: RECV(0) F(0) RECV(1) F(1)   rank 1: RECV(0) RECV(1) F(0) F(1)
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from pipec.lower.lower import Moments, by_ends, moments, projected
from pipec.program.costs import Costs, durations
from pipec.program.effects import Kind
from pipec.program.events import Graph
from pipec.program.graph import Channels, event_graph, order_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Order, Program, Witness
from pipec.simulate.timeline import Swept, simulate
from pipec.simulate.usage import usage

ROUNDS = 3
"""How often places are taken from times: first those without queues, then of what came of it."""


def ahead(
    order: Order, program: Program, costs: Costs, memory: Memory, channels: Channels
) -> Program:
    """The shortest within the limit: this program, or one with places by simulated ends.

    No program of the order is shorter than where no message waits for another (`tagged`). So
    nothing is tried where this one is as short, nor any further once another is.
    """
    if not _messages_take_time(costs):
        return program
    free = _timed(program, costs, Channels("tagged"))
    if len(free.swept.stuck):
        return program
    known = best = _timed(program, costs, channels)
    times = free
    for _ in range(ROUNDS):
        if best.makespan == free.makespan:
            break
        times = _timed(_projected(order, _places(order, times, costs)), costs, channels)
        if not _better(times, best, known, memory):
            break
        best = times
    if best is known and best.makespan > free.makespan:
        silent = _timed(_projected(order, _silent(order, costs)), costs, channels)
        best = silent if _better(silent, best, known, memory) else best
    return best.witnessed


def _messages_take_time(costs: Costs) -> bool:
    stated = costs.times.get("send", Fraction(0))
    sends = stated if isinstance(stated, tuple) else (stated,)
    return any(sends) or any(costs.pairs.values())


@dataclass(frozen=True)
class _Timed:
    """A program and its times under the channels that it is for."""

    program: Program
    channels: Channels
    graph: Graph
    swept: Swept

    @property
    def makespan(self) -> int:
        """When the last compute ends, in ticks."""
        return int(self.swept.end[self.program.compute].max(initial=0))

    @property
    def witnessed(self) -> Program:
        """The program, with these times as what it claims."""
        if self.program.witness is None:
            return self.program
        claimed = Witness(self.program.witness.moment, self.swept.end)
        return replace(self.program, witness=claimed)


def _timed(program: Program, costs: Costs, channels: Channels, whole: bool = False) -> _Timed:
    """whole: OVERLAPs wait for both inputs, also where their halves run one after the other."""
    pairs = whole or not costs.serial
    graph = event_graph(program, Links(program), channels, whole_pairs=pairs)
    return _Timed(program, channels, graph, simulate(graph, durations(program, costs)))


def _better(other: _Timed, best: _Timed, known: _Timed, memory: Memory) -> bool:
    """Whether it is shorter than the best so far, and within a limit that the first was within."""
    if other.makespan >= best.makespan:
        return False
    return memory.limit is None or _within(other, memory) or not _within(known, memory)


def _within(timed: _Timed, memory: Memory) -> bool:
    assert memory.limit is not None
    used = usage(memory, timed.swept.timeline)
    return int(used.peak.max(initial=0)) <= memory.limit.most * used.scale


def _projected(order: Order, places: Moments) -> Program:
    return projected(order, by_ends(order, places), np.full(len(order), -1, np.int64))


def _places(order: Order, timed: _Timed, costs: Costs) -> Moments:
    """Places by the times of a program, in which no half of an OVERLAP goes before its pair may."""
    if costs.serial and order.tie.any():
        timed = _timed(timed.program, costs, timed.channels, whole=True)
    wired = np.isin(timed.program.kind, (Kind.SEND, Kind.RECV, Kind.SUM))
    events = timed.graph.event[np.flatnonzero(~wired)]
    return moments(order, timed.swept, events)


def _silent(order: Order, costs: Costs) -> Moments:
    """The places of `lower`: by ends, they make nothing later under any channels."""
    return moments(order, simulate(order_graph(order), durations(order, costs, serial=True)))
