"""Positions of all ranks -> a sentence: who waits for whom, and where the chain of waits ends."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pipec.findings import Place
from pipec.lower.forward_only import forward_only
from pipec.program.effects import COMPUTE, EXPERTS, Kind
from pipec.program.lanes import brought
from pipec.program.listing import text
from pipec.program.program import Program
from pipec.runtime.watch.progress import EVAL, IDLE, Seen
from pipec.verify.place import place


@dataclass(frozen=True)
class Standing:
    """What a rank is doing: a sentence, the instruction, and the rank that it waits for."""

    sentence: str
    place: Place | None = None
    waits_for: int | None = None


def standing(program: Program, rank: int, position: int) -> Standing:
    """Where a rank stands. A position is twice an instruction's index, one more in its wait."""
    index, waiting = divmod(position, 2)
    row = int(program.start[rank]) + index
    if position == IDLE or row >= program.start[rank + 1]:
        return Standing(f"rank {rank} is in no step (it is in your own code)")
    here, kind = place(program, row), Kind(int(program.kind[row]))
    at = f"rank {rank} at index {index} `{here.instruction}`"
    if EXPERTS[kind]:
        return Standing(f"{at} begins it", here)
    if not COMPUTE[kind]:
        peer = int(program.peer[row])
        what = "to be through" if waiting else "to be posted"
        return Standing(f"{at} waits for it {what}", here, peer)
    if waiting:
        sender, message = _source(program, row)
        if sender is None:
            return Standing(f"{at} waits for `{message}` and its expert group", here)
        return Standing(f"{at} waits for `{message}`", here, sender)
    return Standing(f"{at} computes", here)


def _source(program: Program, row: int) -> tuple[int | None, str]:
    """What a compute row waits for, as it reads: a RECV and its sender, or an all-to-all."""
    source = int(brought(program)[row])
    sender = int(program.peer[source])
    return sender if sender >= 0 else None, text(program.instruction(source))


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


class Scene:
    """All ranks of a pipeline at one moment, each in a step of training or of evaluation."""

    def __init__(self, program: Program, read: Callable[[int], Seen]):
        """program: that of training; read: what is known of a rank."""
        self.program = program
        self.read = read

    @cached_property
    def _evaluation(self) -> Program:
        return forward_only(self.program)

    def standing(self, rank: int) -> Standing:
        """Where a rank stands."""
        seen = self.read(rank)
        program = self._evaluation if seen.mode == EVAL else self.program
        return standing(program, rank, seen.position)

    def chain(self, start: int) -> Chain:
        """Follow the waits from a rank to one that waits for nobody, or one seen before."""
        sentences, visited, rank = [], set(), start
        while True:
            found = self.standing(rank)
            sentences.append(found.sentence)
            visited.add(rank)
            if found.waits_for is None or found.waits_for in visited:
                circle = found.waits_for is not None
                return Chain(tuple(sentences), rank, found.place, circle)
            rank = found.waits_for
