"""Every interleaving of a small program, tried out: written without the event graph.

A rank's host issues its rows in order: compute waits for what it receives, everything else is only
posted. A queue completes what was posted to it, one launch after the other. A state is how far each
host has come, and which messages are through (bits); all states that can be reached are visited.
"""

import random
from dataclasses import replace

import numpy as np

from pipec.compiler import build
from pipec.program.effects import Kind
from pipec.program.graph import Channels
from pipec.program.program import Program

State = tuple[int, ...]
WIRED = (Kind.SEND, Kind.RECV, Kind.SUM)


class Explorer:
    """A program as hosts, one a rank, and the messages that they post."""

    def __init__(self, program: Program, channels: Channels):
        self.kind = [Kind(int(kind)) for kind in program.kind]
        self.rank, self.peer = program.rank.tolist(), program.peer.tolist()
        self.operation = program.operation.tolist()
        self.credits, self.tagged = channels.credits, channels.topology == "tagged"
        self.hosts = [
            list(range(int(program.start[rank]), int(program.start[rank + 1])))
            for rank in range(program.ranks)
        ]
        self.posted_at = {
            row: (n, at) for n, rows in enumerate(self.hosts) for at, row in enumerate(rows)
        }
        self.launch = {row: [row] for row in range(len(self.kind))}
        for row in range(1, len(self.kind)):
            if program.tie[row] and self.kind[row] in (Kind.SEND, Kind.RECV) and not self.tagged:
                self.launch[row] = self.launch[row - 1]
                self.launch[row].append(row)
        self.ahead = self._ahead(channels.topology)
        self.inputs = {row: self._inputs(row, program) for row in range(len(self.kind))}

    def _ahead(self, topology: str) -> dict[int, list[int]]:
        """For each row that queues, the launches before it in its queue, its own not among them."""
        queues: dict[object, list[int]] = {}
        ahead = {}
        for row, kind in enumerate(self.kind):
            key = self._queue(row, kind, topology)
            if key is not None:
                before = queues.setdefault(key, [])
                ahead[row] = [
                    member
                    for other in before
                    if other not in self.launch[row]
                    for member in self.launch[other]
                ]
                before.append(row)
        return ahead

    def _queue(self, row: int, kind: Kind, topology: str) -> object:
        rank, peer = self.rank[row], self.peer[row]
        if kind is Kind.SUM:
            return "sum", rank
        if kind not in WIRED or topology == "tagged":
            return None
        return {"rank": (rank,), "pair": (rank, peer), "directed": (rank, peer, kind)}[topology]

    def _inputs(self, row: int, program: Program) -> list[int]:
        """The messages that a compute row waits for; a pair waits for those of both halves."""
        if self.kind[row] in WIRED or program.tie[row]:
            return []
        rows = [row]
        for later in self.hosts[self.rank[row]]:
            if later > row and self.kind[later] not in WIRED:
                rows += [later] if program.tie[later] else []
                break
        return [
            message
            for message, kind in enumerate(self.kind)
            for unit in rows
            if kind is (Kind.SEND if self.tagged else Kind.RECV)
            and self.kind[unit] is not Kind.W
            and self.operation[message] == self.operation[unit]
            and self.rank[unit] == (self.peer if self.tagged else self.rank)[message]
        ]

    # --- states -----------------------------------------------------------------------------------

    def ends(self, most: int = 200_000) -> list[State] | None:
        """The states in which nothing can happen any more; None if there are too many states."""
        start = (0,) * (len(self.hosts) + 1)
        seen, waiting, ends = {start}, [start], []
        while waiting:
            state = waiting.pop()
            after = self._after(state)
            if not after:
                ends.append(state)
            for one in after:
                if one not in seen:
                    seen.add(one)
                    waiting.append(one)
            if len(seen) > most:
                return None
        return ends

    def completed(self, state: State) -> set[int]:
        """The rows that have completed: messages that went through, the rest on their hosts."""
        return {row for row in range(len(self.kind)) if self._done(state, row)}

    def _after(self, state: State) -> list[State]:
        after = []
        for number, rows in enumerate(self.hosts):
            if state[number] == len(rows):
                continue
            if self._goes_on(state, rows[state[number]]):
                after.append((*state[:number], state[number] + 1, *state[number + 1 :]))
        for row in self.ahead:
            if not self._done(state, row) and self._open(state, row):
                after += self._deliver(state, row)
        return after

    def _goes_on(self, state: State, row: int) -> bool:
        """Whether a host that has come to a row can go on: what it consumes is there."""
        needed = [other for message in self.inputs[row] for other in self.launch[message]]
        return all(self._done(state, message) for message in needed)

    def _done(self, state: State, row: int) -> bool:
        if row in self.ahead:
            return bool(state[-1] >> row & 1)
        return self._posted(state, row)

    def _posted(self, state: State, row: int) -> bool:
        number, at = self.posted_at[row]
        return state[number] > at

    def _open(self, state: State, row: int) -> bool:
        """Whether a message may move: all its launch is posted and at the head of its queues.

        In a launch, messages with one rank go in order.
        """
        return (
            all(self._posted(state, member) for member in self.launch[row])
            and all(
                state[-1] >> before & 1
                for member in self.launch[row]
                for before in self.ahead[member]
            )
            and all(
                state[-1] >> member & 1
                for member in self.launch[row]
                if member < row
                and self.kind[member] is self.kind[row]
                and self.peer[member] == self.peer[row]
            )
        )

    def _deliver(self, state: State, row: int) -> list[State]:
        """What a message that may move can do: meet its partner, or use the room of its channel."""
        kind = self.kind[row]
        if self.credits and kind in (Kind.SEND, Kind.RECV):
            sent, received = self._traffic(state, row)
            room = sent - received < self.credits if kind is Kind.SEND else sent > received
            return [_finished(state, row)] if room else []
        if kind is Kind.RECV or (kind is Kind.SUM and self.rank[row] > self.peer[row]):
            return []  # the other end moves both
        wanted = Kind.RECV if kind is Kind.SEND else Kind.SUM
        for other in self.ahead:
            meets = self.kind[other] is wanted and self.rank[other] == self.peer[row]
            meets = meets and self.peer[other] == self.rank[row] and not self._done(state, other)
            if meets:  # the first of its channel that has not arrived
                return [_finished(state, row, other)] if self._open(state, other) else []
        return []

    def _traffic(self, state: State, row: int) -> tuple[int, int]:
        """How many messages of a row's channel were sent, and how many received."""
        ends = (self.rank[row], self.peer[row])
        source, target = ends if self.kind[row] is Kind.SEND else ends[::-1]
        counts = {Kind.SEND: 0, Kind.RECV: 0}
        for other, kind in enumerate(self.kind):
            way = (self.rank[other], self.peer[other])
            if kind in counts and way == (
                (source, target) if kind is Kind.SEND else (target, source)
            ):
                counts[kind] += self._done(state, other)
        return counts[Kind.SEND], counts[Kind.RECV]


def _finished(state: State, *rows: int) -> State:
    return (*state[:-1], state[-1] | sum(1 << row for row in rows))


# --- programs -------------------------------------------------------------------------------------

BASES = (
    ("1f1b", {"P": 2, "M": 2}),
    ("1f1b", {"P": 3, "M": 1}),
    ("gpipe", {"P": 2, "M": 3}),
    ("zb1p", {"P": 2, "M": 2}),
    ("zbv", {"P": 2, "M": 3}),
    ("interleaved", {"P": 2, "M": 2}),
    ("dualpipe", {"P": 2, "M": 4}),
    ("1f1b", {"P": 3, "M": 2}),
)


def scrambled(seed: int) -> tuple[Program, Channels]:
    """A small program with some neighbours swapped, communication most of all; some stay whole."""
    draw = random.Random(seed)
    name, sizes = draw.choice(BASES)
    program = build(name, sizes).program
    rows = list(range(len(program)))
    wired = set(np.flatnonzero(program.kind >= Kind.SEND).tolist())
    tied = set(np.flatnonzero(program.tie).tolist())
    for _ in range(draw.choice((0, 1, 2, 4, 8, 16))):
        at = draw.randrange(len(rows) - 1)
        one, two = rows[at], rows[at + 1]
        same = program.rank[one] == program.rank[two]
        pair = one in tied or two in tied or (one not in wired and two not in wired)
        if same and (not pair or draw.random() < 0.1) and not {one, two} & tied:
            rows[at], rows[at + 1] = two, one
    order = np.array(rows)
    columns = ("kind", "operation", "peer", "tie", "nowait", "part", "origin")
    changed = {column: getattr(program, column)[order] for column in columns}
    channels = Channels(
        draw.choice(("rank", "pair", "directed", "tagged")), draw.choice((0, 0, 1, 2))
    )
    return replace(program, **changed), channels


def grouped(program: Program, seed: int) -> Program:
    """The same program with some neighbouring SENDs and RECVs issued in one launch."""
    draw = random.Random(seed)
    wired = (program.kind == Kind.SEND) | (program.kind == Kind.RECV)
    tie, often = program.tie.copy(), draw.choice((0.2, 0.5, 1.0))
    for row in range(1, len(program)):
        neighbours = wired[row] and wired[row - 1] and program.rank[row] == program.rank[row - 1]
        tie[row] |= bool(neighbours) and draw.random() < often
    return replace(program, tie=tie)
