"""A second model of ranks and channels, written without the event graph: it just runs.

Dictionaries, lists and a loop that goes round until nothing moves any more. Slow and plain on
purpose: the verifier's verdicts are compared with what happens here.
"""

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np

from pipec.program.effects import Kind
from pipec.program.graph import Channels
from pipec.program.program import Program

COMPUTE = (Kind.F, Kind.B, Kind.W, Kind.BW)


def run(program: Program, channels: Channels) -> set[int]:
    """The rows that ever complete."""
    machine = Machine(program, channels)
    while machine.turn():
        pass
    return machine.done


class Machine:
    """Rows complete one by one, each when everything that it waits for has completed."""

    def __init__(self, program: Program, channels: Channels):
        self.program = program
        self.channels = channels
        self.done: set[int] = set()
        self.units: dict[int, list[int]] = defaultdict(list)
        self.queues: dict[tuple[object, ...], list[int]] = defaultdict(list)
        self.pairs: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for row in range(len(program)):
            kind, rank, peer = (
                Kind(program.kind[row]),
                int(program.rank[row]),
                int(program.peer[row]),
            )
            if kind in COMPUTE:
                self.units[rank].append(row)
            elif kind is Kind.SUM:
                self.queues["sum", rank].append(row)
                self.pairs["sum", min(rank, peer), max(rank, peer), rank < peer].append(row)
            else:
                self.queues[self.queue(kind, rank, peer)].append(row)
                way = (rank, peer) if kind is Kind.SEND else (peer, rank)
                self.pairs["message", *way, kind is Kind.SEND].append(row)

    def queue(self, kind: Kind, rank: int, peer: int) -> tuple[object, ...]:
        return {
            "rank": (rank,),
            "pair": (rank, peer),
            "directed": (rank, peer, kind),
        }[self.channels.topology]

    def turn(self) -> bool:
        """Complete what can be completed now; whether anything was."""
        before = len(self.done)
        for rows in self.units.values():
            for row in rows:
                if row not in self.done and self.can_compute(row, rows):
                    self.done.add(row)
        for key, sends in list(self.pairs.items()):
            if key[-1]:
                self.meet(sends, self.pairs[(*key[:-1], False)], key[0] == "sum")
        return len(self.done) > before

    def can_compute(self, row: int, rows: list[int]) -> bool:
        place = rows.index(row)
        if not all(earlier in self.done for earlier in rows[:place]):
            return False
        partner = rows[place + 1 : place + 2]
        both = [row, *(other for other in partner if self.program.tie[other])]
        return all(self.arrived(unit) for unit in both)

    def arrived(self, unit: int) -> bool:
        """Whether everything that is received for an operation is there."""
        program = self.program
        return all(
            recv in self.done
            for recv in range(int(program.start[program.rank[unit]]), unit)
            if program.kind[recv] == Kind.RECV
            and program.operation[recv] == program.operation[unit]
        )

    def meet(self, sends: list[int], recvs: list[int], collective: bool) -> None:
        for place, (send, recv) in enumerate(zip(sends, recvs, strict=True)):
            credits = 0 if collective else self.channels.credits
            ready = self.at_head(send) and self.at_head(recv)
            if ready and (send not in self.done or recv not in self.done):
                self.done |= {send, recv} if credits == 0 else {recv}
            if credits and self.at_head(send):
                room = place < credits or recvs[place - credits] in self.done
                self.done |= {send} if room else set()

    def at_head(self, row: int) -> bool:
        """Posted, and everything before it in its queue has completed."""
        program, rank = self.program, int(self.program.rank[row])
        if any(unit not in self.done for unit in self.units[rank] if unit < row):
            return False
        kind = Kind(program.kind[row])
        key = ("sum", rank) if kind is Kind.SUM else self.queue(kind, rank, int(program.peer[row]))
        queue = self.queues[key]
        return all(earlier in self.done for earlier in queue[: queue.index(row)])


def shuffled(program: Program, seed: int, spread: float) -> Program:
    """The same program with its communication moved about, each message still in a possible place.

    SENDs stay behind their producers and RECVs before their consumers; `spread` says how far they
    stray, in compute operations.
    """
    draw = random.Random(seed)
    order: list[int] = []
    row_of = {
        int(program.operation[row]): row
        for row in range(len(program))
        if program.kind[row] in COMPUTE
    }
    for rank in range(program.ranks):
        begin, end = int(program.start[rank]), int(program.start[rank + 1])
        units = [row for row in range(begin, end) if program.kind[row] in COMPUTE]
        keys: dict[int, float] = {row: place for place, row in enumerate(units)}
        for row in range(begin, end):
            if program.kind[row] == Kind.RECV:
                place = keys[row_of[int(program.operation[row])]]
                keys[row] = place - 0.01 - draw.random() * spread
            elif program.kind[row] == Kind.SEND:
                before = [unit for unit in units if unit < row]
                keys[row] = keys[before[-1]] + 0.01 + draw.random() * spread
            elif program.kind[row] == Kind.SUM:
                keys[row] = keys[max(unit for unit in units if unit < row)] + 0.5
        order += sorted(range(begin, end), key=lambda row: keys[row])
    rows = np.array(order)
    return replace(
        program,
        kind=program.kind[rows],
        operation=program.operation[rows],
        peer=program.peer[rows],
        tie=program.tie[rows],
        nowait=program.nowait[rows],
        part=program.part[rows],
        origin=program.origin[rows],
    )
