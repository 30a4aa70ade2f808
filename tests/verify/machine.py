"""A second model of ranks and channels, written without the event graph: it just runs.

Dictionaries, lists and a loop that goes round until nothing moves any more. Slow and plain on
purpose: the verifier's verdicts are compared with what happens here. Launches, all-to-alls,
missing waits and tags are known.
"""

import random
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np

from pipec.program.effects import Kind
from pipec.program.graph import Channels
from pipec.program.program import Program

COMPUTE = {Kind.F, Kind.B, Kind.W, Kind.BW}
MESSAGES = {Kind.SEND, Kind.RECV}
EXPERTS = {Kind.DISPATCH, Kind.COMBINE}
Key = tuple[object, ...]


def run(program: Program, channels: Channels) -> set[int]:
    """The rows that ever complete."""
    machine = Machine(program, channels)
    while machine.turn():
        pass
    return machine.done


class Machine:
    """Rows complete one by one, each when everything that it waits for has completed."""

    def __init__(self, program: Program, channels: Channels):
        self.kind = [Kind(kind) for kind in program.kind.tolist()]
        self.rank, self.peer = program.rank.tolist(), program.peer.tolist()
        self.tie, self.nowait = program.tie.tolist(), program.nowait.tolist()
        self.operation = program.operation.tolist()
        self.channels, self.tagged = channels, channels.topology == "tagged"
        self.done: set[int] = set()
        self.units: dict[int, list[int]] = defaultdict(list)
        self.computed: dict[int, int] = defaultdict(int)
        """How many units of each rank have completed."""
        self.queues: dict[Key, list[int]] = defaultdict(list)
        self.head: dict[Key, int] = defaultdict(int)
        """In each queue the place of the first row whose launch has not completed."""
        self.pairs: dict[Key, list[int]] = defaultdict(list)
        self.queue_of: dict[int, tuple[Key, int]] = {}
        self.launch: dict[int, list[int]] = {}
        self.sent: dict[Key, list[int]] = defaultdict(list)
        """The SENDs of each directed pair, in the order in which they are posted."""
        self.behind: list[int] = []
        """For each row, how many units of its rank stand before it."""
        self.inputs = self._inputs(program)
        for row, kind in enumerate(self.kind):
            self.behind.append(len(self.units[self.rank[row]]))
            self._add(row, kind, self.rank[row], self.peer[row])
        ends = [
            (rows, self.pairs[(*key[:-1], False)]) for key, rows in [*self.pairs.items()] if key[-1]
        ]
        self.recv_of = {send: recv for both in ends for send, recv in zip(*both, strict=False)}

    def _add(self, row: int, kind: Kind, rank: int, peer: int) -> None:
        if kind in COMPUTE:
            self.units[rank].append(row)
            return
        key: Key = ("experts", rank)
        if kind is Kind.SUM:
            key = ("sum", rank)
            self.pairs["sum", min(rank, peer), max(rank, peer), rank < peer].append(row)
        elif kind in MESSAGES:
            key = ("own", row) if self.tagged else self.queue(kind, rank, peer)
            way: Key = (rank, peer) if kind is Kind.SEND else (peer, rank)
            if kind is Kind.SEND:
                self.sent[way].append(row)
            way = (*way, self.operation[row]) if self.tagged else way
            self.pairs["message", *way, kind is Kind.SEND].append(row)
        tied = kind in MESSAGES and self.tie[row] and row - 1 in self.launch
        tied = tied and self.kind[row - 1] in MESSAGES and self.rank[row - 1] == rank
        tied = tied and not self.tagged  # a launch is nothing but its members
        self.launch[row] = self.launch[row - 1] if tied else []
        self.launch[row].append(row)
        self.queue_of[row] = key, len(self.queues[key])
        self.queues[key].append(row)

    def queue(self, kind: Kind, rank: int, peer: int) -> Key:
        return {
            "rank": (rank,),
            "pair": (rank, peer),
            "directed": (rank, peer, kind),
        }[self.channels.topology]

    def _inputs(self, program: Program) -> dict[int, list[int]]:
        """For each compute row the messages or the all-to-all that bring what it consumes."""
        lengths, operations = program.placement.lengths.tolist(), program.operation.tolist()
        split = program.placement.split(np.where(program.kind == Kind.SUM, 0, program.operation))
        forward, stage = (split.step == 0).tolist(), split.stage.tolist()
        brought: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        inputs = {}
        for row, (kind, part) in enumerate(zip(self.kind, program.part.tolist(), strict=True)):
            rank, operation = self.rank[row], operations[row]
            entry = 0 if forward[row] else lengths[stage[row]] - 1
            if kind is Kind.RECV:
                brought[rank, operation, entry].append(row)
            elif kind in EXPERTS:
                brought[rank, operation, part + (1 if forward[row] else -1)].append(row)
            elif kind in COMPUTE and not self.nowait[row]:
                inputs[row] = brought[rank, operation, part][:1]
        return inputs

    def turn(self) -> bool:
        """Complete what can be completed now; whether anything was."""
        before = len(self.done)
        for rank, rows in self.units.items():
            while self.computed[rank] < len(rows) and self.can_compute(rank, rows):
                self.done.add(rows[self.computed[rank]])
                self.computed[rank] += 1
        for key, sends in list(self.pairs.items()):
            if key[-1]:
                recvs = self.pairs[(*key[:-1], False)]
                if self.tagged and key[0] == "message":
                    self.meet_by_tag(sends, recvs)
                else:
                    self.meet(sends, recvs, key[0] == "sum")
        for key, rows in self.queues.items():
            while key[0] == "experts" and self.head[key] < len(rows):
                row = rows[self.head[key]]
                if not self.reached(row):
                    break
                self.done.add(row)
                self.head[key] += 1
        return len(self.done) > before

    def can_compute(self, rank: int, rows: list[int]) -> bool:
        """Whether a rank's next unit has what it needs; of an OVERLAP, both halves."""
        place = self.computed[rank]
        partner = [row for row in rows[place + 1 : place + 2] if self.tie[row]]
        both = [rows[place], *partner]
        return all(self.through(message) for unit in both for message in self.inputs.get(unit, []))

    def through(self, row: int) -> bool:
        """Whether a row and all that was launched with it have completed."""
        return all(member in self.done for member in self.launch[row])

    def meet(self, sends: list[int], recvs: list[int], collective: bool) -> None:
        for place, (send, recv) in enumerate(zip(sends, recvs, strict=True)):
            if send in self.done and recv in self.done:
                continue
            credits = 0 if collective else self.channels.credits
            if self.reached(send) and self.reached(recv):
                self.done |= {send, recv} if credits == 0 else {recv}
            if credits and self.reached(send):
                room = place < credits or recvs[place - credits] in self.done
                self.done |= {send} if room else set()

    def meet_by_tag(self, sends: list[int], recvs: list[int]) -> None:
        """A message waits for its SEND alone: receives are posted ahead."""
        for send, recv in zip(sends, recvs, strict=True):
            if not self.reached(send):
                continue
            self.done.add(recv)
            posted = self.sent[self.rank[send], self.peer[send]]
            place = posted.index(send) - self.channels.credits
            room = self.channels.credits == 0 or place < 0
            if room or self.recv_of[posted[place]] in self.done:
                self.done.add(send)

    def reached(self, row: int) -> bool:
        """All its launch is posted, and everything before it in its queues has completed."""
        for member in self.launch[row]:
            key, place = self.queue_of[member]
            while place and self.queues[key][place - 1] in self.launch[row]:
                place -= 1
            posted = self.computed[self.rank[member]] >= self.behind[member]
            if not posted or not self.ahead_is_through(key, place):
                return False
        return True

    def ahead_is_through(self, key: Key, place: int) -> bool:
        rows = self.queues[key]
        while self.head[key] < place and self.through(rows[self.head[key]]):
            self.head[key] += 1
        return self.head[key] >= place


def shuffled(program: Program, seed: int, spread: float) -> Program:
    """The same program with its communication moved about, each message still in a possible place.

    SENDs stay behind their producers and RECVs before their consumers; `spread` says how far they
    stray, in compute operations.
    """
    draw = random.Random(seed)
    order: list[int] = []
    kinds, operation = program.kind.tolist(), program.operation.tolist()
    row_of = {operation[row]: row for row, kind in enumerate(kinds) if kind in COMPUTE}
    for begin, end in pairwise(program.start.tolist()):
        units = [row for row in range(begin, end) if kinds[row] in COMPUTE]
        keys: dict[int, float] = {row: place for place, row in enumerate(units)}
        before = begin
        for row in range(begin, end):
            if kinds[row] in COMPUTE:
                before = row
            elif kinds[row] == Kind.RECV:
                place = keys[row_of[operation[row]]]
                keys[row] = place - 0.01 - draw.random() * spread
            elif kinds[row] == Kind.SEND:
                keys[row] = keys[before] + 0.01 + draw.random() * spread
            elif kinds[row] == Kind.SUM:
                keys[row] = keys[before] + 0.5
        order += sorted(range(begin, end), key=keys.__getitem__)
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
