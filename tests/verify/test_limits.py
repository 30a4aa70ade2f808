"""Where the model ends: programs that are certified, and machines of other kinds that hang in them.

Each machine is the explorer of all interleavings with one rule changed; docs/machine-model.md names
the programs under its limits.
"""

from pathlib import Path

import pytest
from explorer import Explorer, State

from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.graph import Channels
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.program.reading import parse_listing
from pipec.source import Source
from pipec.verify.certificate import verify

LIMITS = Path(__file__).parent / "limits"


class Pool(Explorer):
    """Credits count all that a rank has sent, to whomever; without one, a SEND waits for its RECV.

    So a SEND goes on if there is room *or* its receiver is there: a choice.
    """

    def _deliver(self, state: State, row: int) -> list[State]:
        if self.kind[row] is not Kind.SEND:
            return super()._deliver(state, row)
        rank, after = self.rank[row], []
        way = [(rank, self.peer[other]) for other in self.ahead if self.rank[other] == rank]
        held = sum(
            sent - received for sent, received in (self._between(state, *w) for w in set(way))
        )
        if held < self.credits:
            after += [_through(state, row)]
        for other in self.ahead:
            here = self.rank[other] == self.peer[row] and self.peer[other] == rank
            if self.kind[other] is Kind.RECV and here and not self._done(state, other):
                return after + ([_through(state, row, other)] if self._open(state, other) else [])
        return after

    def _between(self, state: State, source: int, target: int) -> tuple[int, int]:
        sends = [r for r, k in enumerate(self.kind) if k is Kind.SEND and self.rank[r] == source]
        sent = [row for row in sends if self.peer[row] == target]
        return self._traffic(state, sent[0]) if sent else (0, 0)


class Blocking(Explorer):
    """A host waits in each SEND and RECV until it is through."""

    def _goes_on(self, state: State, row: int) -> bool:
        number, at = self.posted_at[row]
        before = self.hosts[number][at - 1] if at else row
        waits = self.kind[before] in (Kind.SEND, Kind.RECV) and before != row
        return super()._goes_on(state, row) and (not waits or self._done(state, before))


class Lazy(Explorer):
    """At its first message with a rank a host waits until that rank has come to its first, too."""

    def _goes_on(self, state: State, row: int) -> bool:
        first = {}
        for other in sorted(self.ahead, reverse=True):
            first[self.rank[other], self.peer[other]] = other
        rank, peer = self.rank[row], self.peer[row]
        if first.get((rank, peer)) != row:
            return super()._goes_on(state, row)
        number, at = self.posted_at[first[peer, rank]]
        return state[number] >= at


class Meeting(Explorer):
    """The forwards of a microbatch in different flows wait for each other: a collective inside."""

    def _goes_on(self, state: State, row: int) -> bool:
        ends = self.launch[row]
        alike = [
            other
            for other in range(len(self.kind))
            if self.microbatch[other] == self.microbatch[row]
        ]
        return all(
            state[self.posted_at[one][0]] >= self.posted_at[one][1] for one in (*ends, *alike)
        )

    def __init__(self, program: Program, channels: Channels):
        super().__init__(program, channels)
        self.microbatch = program.placement.split(program.operation).microbatch.tolist()


class OneAtATime(Explorer):
    """A device begins a communication only when the one before it is through, sums included."""

    def _queue(self, row: int, kind: Kind, topology: str) -> object:
        queue = super()._queue(row, kind, topology)
        return None if queue is None else self.rank[row]


def _through(state: State, *rows: int) -> State:
    return (*state[:-1], state[-1] | sum(1 << row for row in rows))


def program_of(path: Path) -> Program:
    return parse_listing(Source(path.name, path.read_text(encoding="utf-8")))


def verdicts(machine: Explorer) -> set[bool]:
    """Whether a machine comes to its end: True, False or, where it depends on timing, both."""
    ends = machine.ends()
    assert ends is not None
    return {len(machine.completed(end)) == len(machine.kind) for end in ends}


CASES = {
    "shared_buffer": (Pool, Channels("pair", 1), {True, False}),
    "shared_buffer, one queue": (Pool, Channels("rank", 1), {False}),
    "blocking_sends": (Blocking, Channels("directed"), {False}),
    "lazy_communicators": (Lazy, Channels("pair"), {False}),
    "own_communication": (Meeting, Channels("pair"), {False}),
    "sum_crosses_message": (OneAtATime, Channels("pair"), {False}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_limit_of_the_model(name: str) -> None:
    """Certified, and rightly so in the model; on a machine with another rule it can hang."""
    machine, channels, expected = CASES[name]
    path = LIMITS / f"{name.split(',', maxsplit=1)[0]}.listing"
    path = path if path.exists() else LIMITS.parent / "warned" / path.name
    program = program_of(path)
    assert verify(program, Costs(), Memory(), channels).ok
    assert verdicts(Explorer(program, channels)) == {True}
    assert verdicts(machine(program, channels)) == expected


def test_every_limit_is_in_the_docs() -> None:
    """The page of the model names each of the programs."""
    page = (Path(__file__).parents[2] / "docs" / "machine-model.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in page for path in LIMITS.iterdir())
