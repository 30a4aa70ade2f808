"""What a program computes, symbolically: written without the effects table, links or graph.

Every forward is a term over its input, every backward a term over its forward and its gradient;
of an opened chunk, every part is. Messages carry whatever term was made, by position in their
directed pair, or among those of their tag. What is compared are the outputs of the last stages and
the gradients that every rank ends up with. What another lane brings is not there for a row that
does not wait.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import Any

import numpy as np

from pipec.program.effects import Kind
from pipec.program.program import Program

Term = Any
FORWARD, BACKWARD = 0, 1
TRAINS = (Kind.B, Kind.BW, Kind.W)
EXPERTS = (Kind.DISPATCH, Kind.COMBINE)
MADE_BY = (Kind.F, Kind.B, Kind.BW, *EXPERTS)
"""What makes activations and gradients."""


_numbers = count()


@cache
def term_of(*parts: Term) -> int:
    """A term as a number, the same for equal parts: terms share most of what is in them."""
    return next(_numbers)


class Wrong(Exception):
    """The program uses something that is not there."""


def results(program: Program, tagged: bool = False) -> tuple[Any, ...]:
    """The work done, the outputs, and each (rank, stage)'s gradients at the end. Raises `Wrong`.

    tagged: whether messages have tags.
    """
    evaluation = _Evaluation(program, tagged)
    return evaluation.work(), evaluation.outputs(), evaluation.totals()


class _Evaluation:
    def __init__(self, program: Program, tagged: bool):
        self.program = program
        self.terms: dict[int, Term] = {}
        self.partner: dict[int, int] = {}
        self.kind = [Kind(kind) for kind in program.kind.tolist()]
        self.rank, self.peer = program.rank.tolist(), program.peer.tolist()
        self.nowait, self.start = program.nowait.tolist(), program.start.tolist()
        sums = program.kind == Kind.SUM
        split = program.placement.split(np.where(sums, 0, program.operation))
        self.operation = program.operation.tolist()
        self.of = list(zip(*(part.tolist() for part in split), program.part.tolist(), strict=True))
        self.stages = program.placement.stages.tolist()
        self.parts = program.placement.lengths.tolist()
        self.slices = [flow.slices for flow in program.placement.flows]
        self.rows: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        """The rows of a rank, of a kind, for a flow, step, stage, microbatch and part."""
        ends: dict[Any, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
        for row, (kind, rank, peer) in enumerate(zip(self.kind, self.rank, self.peer, strict=True)):
            self.rows[rank, kind, self.of[row]].append(row)
            if kind in (Kind.SEND, Kind.RECV):
                sends = kind is Kind.SEND
                tag = self.operation[row] if tagged else None
                ends[tag, *((rank, peer) if sends else (peer, rank))][sends].append(row)
            if kind is Kind.SUM:
                ends["sum", min(rank, peer), max(rank, peer)][rank < peer].append(row)
        for sides in ends.values():
            for one, other in zip(sides[True], sides[False], strict=True):
                self.partner[one], self.partner[other] = other, one

    def work(self) -> Counter[Term]:
        """How often each rank computes what, and sends it through all-to-alls."""
        return Counter(
            (self.rank[row], kind, self.of[row])
            for row, kind in enumerate(self.kind)
            if kind in (*MADE_BY, Kind.W)
        )

    def outputs(self) -> Counter[Term]:
        ends = []
        for row, kind in enumerate(self.kind):
            flow, _, stage, _, part = self.of[row]
            last = stage == self.stages[flow] - 1 and part == self.parts[stage] - 1
            ends += [row] if kind is Kind.F and last else []
        return Counter((self.of[row], self.term(row)) for row in ends)

    def totals(self) -> dict[tuple[int, int], Counter[Term]]:
        trains = [row for row, kind in enumerate(self.kind) if kind in TRAINS]
        stages = {(self.rank[row], self.of[row][2]) for row in trains}
        return {
            (rank, stage): self.total(rank, stage, self.start[rank + 1]) for rank, stage in stages
        }

    def total(self, rank: int, stage: int, end: int) -> Counter[Term]:
        """What a rank has added up for a stage before row `end`."""
        sum_: Counter[Term] = Counter()
        for row in range(self.start[rank], end):
            kind = self.kind[row]
            if kind is Kind.SUM and self.operation[row] == stage:
                other = self.partner[row]
                sum_ = sum_ + self.total(self.rank[other], self.operation[other], other)
            elif kind in TRAINS and self.of[row][2] == stage:
                parts = {Kind.B: ("b",), Kind.W: ("w",), Kind.BW: ("b", "w")}[kind]
                sum_.update((part, self.term(row)) for part in parts)
        return sum_

    def term(self, row: int) -> Term:
        if row not in self.terms:
            self.terms[row] = None
            self.terms[row] = self.computed(row)
        if self.terms[row] is None:
            raise Wrong(f"row {row} needs itself")
        return self.terms[row]

    def computed(self, row: int) -> Term:
        kind, (flow, step, stage, mb, part) = self.kind[row], self.of[row]
        if kind is Kind.RECV:
            return self.term(self.partner[row])
        if kind is Kind.SEND:
            return self.term(self.maker(row, (flow, step, stage, mb)))
        if kind is Kind.W:
            return self.term(self.made(row, (Kind.B,), (flow, BACKWARD, stage, mb, part)))
        if step == FORWARD:
            given = term_of("input", flow, mb)
            if part:
                given = self.beside(row, (flow, step, stage, mb, part - 1))
            elif stage:
                given = self.brought(row, (flow, step, stage, mb))
            return term_of("f", stage, part, given, *self.carried(row, flow, step, stage, mb, part))
        forward = self.made(row, (Kind.F, *EXPERTS), (flow, FORWARD, stage, mb, part))
        gradient = term_of("loss", flow, mb, self.term(forward))
        if part < self.parts[stage] - 1:
            gradient = self.beside(row, (flow, step, stage, mb, part + 1))
        elif stage < self.stages[flow] - 1:
            gradient = self.brought(row, (flow, step, stage, mb))
        carried = self.carried(row, flow, step, stage, mb, part)
        return term_of("b", stage, part, self.term(forward), gradient, *carried)

    def carried(
        self, row: int, flow: int, step: int, stage: int, mb: int, part: int
    ) -> Iterator[Term]:
        """What the slice next to this one has left on the rank, in the order of the step."""
        slices, last = self.slices[flow], self.parts[stage] - 1
        begin, end = (0, last) if step == FORWARD else (last, 0)
        other = mb - 1 if step == FORWARD else mb + 1
        if part == begin and other >= 0 and other // slices == mb // slices:
            yield self.term(self.made(row, MADE_BY, (flow, step, stage, other, end)))

    def brought(self, row: int, own: tuple[int, ...]) -> Term:
        """What an operation consumes: received for it on its rank, or made there."""
        received = self.before(row, (Kind.RECV,), (*own, 0))
        if received is None:
            return self.term(self.maker(row, own))
        if self.nowait[row]:
            raise Wrong(f"row {row} does not wait for row {received}")
        return self.term(received)

    def maker(self, row: int, own: tuple[int, ...]) -> int:
        """The row that ends what an operation takes its input from."""
        flow, step, stage, mb = own
        source = stage - 1 if step == FORWARD else stage + 1
        end = self.parts[source] - 1 if step == FORWARD else 0
        return self.made(row, MADE_BY, (flow, step, source, mb, end))

    def beside(self, row: int, wanted: tuple[int, ...]) -> Term:
        """What the part before this one has made, in the same chunk."""
        maker = self.made(row, MADE_BY, wanted)
        if self.kind[maker] in EXPERTS and self.nowait[row]:
            raise Wrong(f"row {row} does not wait for row {maker}")
        return self.term(maker)

    def made(self, row: int, kinds: tuple[Kind, ...], wanted: tuple[int, ...]) -> int:
        found = self.before(row, kinds, wanted)
        if found is None:
            raise Wrong(f"row {row} uses {wanted}, which is not there")
        return found

    def before(self, row: int, kinds: tuple[Kind, ...], wanted: tuple[int, ...]) -> int | None:
        """The last earlier row of the same rank of these kinds for what is wanted."""
        earlier = []
        for kind in kinds:
            rows = self.rows.get((self.rank[row], kind, wanted), [])
            at = bisect_left(rows, row)
            earlier += rows[at - 1 : at] if at else []
        return max(earlier, default=None)
