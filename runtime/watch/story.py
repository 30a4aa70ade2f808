"""Positions of all ranks -> a sentence: who waits for whom, and where the chain of waits ends."""

from collections.abc import Callable
from dataclasses import dataclass

from pipec.runtime.watch.progress import IDLE, Seen

from pipec.findings import Place
from pipec.program.effects import COMPUTE, Kind
from pipec.program.listing import text
from pipec.program.program import Program
from pipec.verify.place import place


@dataclass(frozen=True)
class Standing:
    """What a rank is doing: a sentence, the instruction, and the rank that it waits for."""

    sentence: str
    place: Place | None = None
    waits_for: int | None = None


def standing(program: Program, rank: int, position: int) -> Standing:
    """Where a rank stands. A position is twice an instruction's index, one more in its wait."""
    if position == IDLE:
        return Standing(f"rank {rank} is in no step (it is in your own code)")
    index, waiting = divmod(position, 2)
    row = int(program.start[rank]) + index
    here, kind = place(program, row), Kind(int(program.kind[row]))
    at = f"rank {rank} at index {index} `{here.instruction}`"
    if not COMPUTE[kind]:
        peer = int(program.peer[row])
        what = "to be through" if waiting else "to be posted"
        return Standing(f"{at} waits for it {what}", here, peer)
    if waiting:
        peer, message = _source(program, row)
        return Standing(f"{at} waits for `{message}`", here, peer)
    return Standing(f"{at} computes", here)


def _source(program: Program, row: int) -> tuple[int, str]:
    """The RECV that a compute row waits for: its sender and how it reads."""
    begin, end = program.start[program.rank[row]], program.start[program.rank[row] + 1]
    for recv in range(int(begin), int(end)):
        if program.kind[recv] == Kind.RECV and program.operation[recv] == program.operation[row]:
            return int(program.peer[recv]), text(program.instruction(recv))
    raise AssertionError(f"row {row} waits for no message")


@dataclass(frozen=True)
class Chain:
    """Who waits for whom, from one rank to the culprit at the end."""

    sentences: tuple[str, ...]
    culprit: int
    place: Place | None
    circle: bool
    """Whether the last one waits for one before it: nobody is to blame but the order."""

    def __str__(self) -> str:
        return " -> ".join(self.sentences)


def chain(program: Program, start: int, read: Callable[[int], Seen]) -> Chain:
    """Follow the waits from a rank to one that waits for nobody, or one seen before (a cycle)."""
    sentences, visited, rank = [], set(), start
    while True:
        found = standing(program, rank, read(rank).position)
        sentences.append(found.sentence)
        visited.add(rank)
        if found.waits_for is None or found.waits_for in visited:
            return Chain(tuple(sentences), rank, found.place, found.waits_for is not None)
        rank = found.waits_for
