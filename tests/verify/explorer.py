"""Every interleaving of a small program, tried out: written without the event graph.

A rank's host issues its rows in order: compute waits for what it receives, everything else is only
posted. A queue completes what was posted to it, one after the other. A state is how far each of
them has come; all states that can be reached are visited.
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
    """The processes of a program: one host a rank, and its queues."""

    def __init__(self, program: Program, channels: Channels):
        self.kind = [Kind(int(kind)) for kind in program.kind]
        self.rank, self.peer = program.rank.tolist(), program.peer.tolist()
        self.operation = program.operation.tolist()
        self.credits, self.tagged = channels.credits, channels.topology == "tagged"
        self.hosts = [
            list(range(int(program.start[rank]), int(program.start[rank + 1])))
            for rank in range(program.ranks)
        ]
        queues: dict[object, list[int]] = {}
        for row, kind in enumerate(self.kind):
            key = self._queue(row, kind, channels.topology)
            if key is not None:
                queues.setdefault(key, []).append(row)
        self.processes = self.hosts + list(queues.values())
        self.place = {
            row: (number, at)
            for number, rows in enumerate(self.processes)
            for at, row in enumerate(rows)
        }
        self.posted_at = {
            row: (n, at) for n, rows in enumerate(self.hosts) for at, row in enumerate(rows)
        }
        self.inputs = {row: self._inputs(row, program) for row in range(len(self.kind))}

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
        start = (0,) * len(self.processes)
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
        """The rows that have completed: messages in their queues, the rest on their hosts."""
        return {row for row, (number, at) in self.place.items() if state[number] > at}

    def _after(self, state: State) -> list[State]:
        after = []
        for number, rows in enumerate(self.processes):
            if state[number] == len(rows):
                continue
            row = rows[state[number]]
            if number < len(self.hosts):
                if all(self._done(state, message) for message in self.inputs[row]):
                    after.append(_moved(state, number))
            elif self._done_posting(state, row):
                after += self._deliver(state, number, row)
        return after

    def _done(self, state: State, row: int) -> bool:
        number, at = self.place[row]
        return state[number] > at

    def _done_posting(self, state: State, row: int) -> bool:
        number, at = self.posted_at[row]
        return state[number] > at

    def _deliver(self, state: State, number: int, row: int) -> list[State]:
        """What the head of a queue can do: meet its partner, or use the room of the channel."""
        kind = self.kind[row]
        if self.credits and kind in (Kind.SEND, Kind.RECV):
            sent, received = self._traffic(state, row)
            room = sent - received < self.credits if kind is Kind.SEND else sent > received
            return [_moved(state, number)] if room else []
        if kind is Kind.RECV or (kind is Kind.SUM and self.rank[row] > self.peer[row]):
            return []  # the other end moves both
        wanted = Kind.RECV if kind is Kind.SEND else Kind.SUM
        for other, rows in enumerate(self.processes[len(self.hosts) :], len(self.hosts)):
            if other == number or state[other] == len(rows):
                continue
            head = rows[state[other]]
            meets = self.kind[head] is wanted and self.rank[head] == self.peer[row]
            if meets and self.peer[head] == self.rank[row] and self._done_posting(state, head):
                return [_moved(_moved(state, number), other)]
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


def _moved(state: State, number: int) -> State:
    return (*state[:number], state[number] + 1, *state[number + 1 :])


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
    columns = ("kind", "operation", "peer", "tie", "origin")
    changed = {column: getattr(program, column)[order] for column in columns}
    channels = Channels(
        draw.choice(("rank", "pair", "directed", "tagged")), draw.choice((0, 0, 1, 2))
    )
    return replace(program, **changed), channels
