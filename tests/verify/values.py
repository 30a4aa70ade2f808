"""What a program computes, symbolically: written without the effects table, links or graph.

Every forward is a term over its input, every backward a term over its forward and its gradient;
messages carry whatever term was made, by position in their directed pair. What is compared are the
outputs of the last stages and the gradients that every rank ends up with.
"""

from collections import Counter, defaultdict
from typing import Any

from pipec.program.effects import Kind
from pipec.program.program import Program

Term = Any


class Wrong(Exception):
    """The program uses something that is not there."""


def results(program: Program) -> tuple[Any, ...]:
    """The work done, the outputs, and each (rank, stage)'s gradients at the end. Raises `Wrong`."""
    evaluation = _Evaluation(program)
    return evaluation.work(), evaluation.outputs(), evaluation.totals()


class _Evaluation:
    def __init__(self, program: Program):
        self.program = program
        self.terms: dict[int, Term] = {}
        self.partner: dict[int, int] = {}
        ends: dict[Any, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
        for row in range(len(program)):
            kind, rank, peer = (
                Kind(program.kind[row]),
                int(program.rank[row]),
                int(program.peer[row]),
            )
            if kind in (Kind.SEND, Kind.RECV):
                sends = kind is Kind.SEND
                ends[(rank, peer) if sends else (peer, rank)][sends].append(row)
            if kind is Kind.SUM:
                ends["sum", min(rank, peer), max(rank, peer)][rank < peer].append(row)
        for sides in ends.values():
            for one, other in zip(sides[True], sides[False], strict=True):
                self.partner[one], self.partner[other] = other, one

    def work(self) -> Counter[Term]:
        """How often each rank computes what."""
        return Counter(
            (int(self.program.rank[row]), Kind(self.program.kind[row]), self.of(row))
            for row in range(len(self.program))
            if self.program.kind[row] in (Kind.F, Kind.B, Kind.BW, Kind.W)
        )

    def outputs(self) -> Counter[Term]:
        last = [flow.stages - 1 for flow in self.program.placement.flows]
        forwards = [row for row in range(len(self.program)) if self.program.kind[row] == Kind.F]
        ends = [row for row in forwards if self.of(row)[2] == last[self.of(row)[0]]]
        return Counter((self.of(row), self.term(row)) for row in ends)

    def totals(self) -> dict[tuple[int, int], Counter[Term]]:
        program = self.program
        stages = {
            (int(program.rank[row]), self.of(row)[2])
            for row in range(len(program))
            if program.kind[row] in (Kind.B, Kind.BW, Kind.W)
        }
        ends = program.start[1:].tolist()
        return {(rank, stage): self.total(rank, stage, ends[rank]) for rank, stage in stages}

    def of(self, row: int) -> tuple[int, int, int, int]:
        flow, step, stage, microbatch = self.program.placement.split(self.program.operation[row])
        return int(flow), int(step), int(stage), int(microbatch)

    def before(self, row: int, kinds: tuple[Kind, ...], wanted: tuple[int, ...]) -> int | None:
        """The last earlier row of the same rank of these kinds: flow, step, stage, microbatch."""
        begin = int(self.program.start[self.program.rank[row]])
        for earlier in range(row - 1, begin - 1, -1):
            if self.program.kind[earlier] in kinds and self.of(earlier) == wanted:
                return earlier
        return None

    def total(self, rank: int, stage: int, end: int) -> Counter[Term]:
        """What a rank has added up for a stage before row `end`."""
        sum_: Counter[Term] = Counter()
        for row in range(int(self.program.start[rank]), end):
            kind = Kind(self.program.kind[row])
            if kind is Kind.SUM and self.program.operation[row] == stage:
                other = self.partner[row]
                theirs = int(self.program.rank[other]), int(self.program.operation[other])
                sum_ = sum_ + self.total(*theirs, other)
            elif kind in (Kind.B, Kind.BW, Kind.W) and self.of(row)[2] == stage:
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
        kind, (flow, step, stage, mb) = Kind(self.program.kind[row]), self.of(row)
        last = self.program.placement.flows[flow].stages - 1
        if kind is Kind.RECV:
            return self.term(self.partner[row])
        if kind is Kind.SEND:
            source = (flow, step, stage - 1 if step == 0 else stage + 1, mb)
            return self.made(row, (Kind.F, Kind.B, Kind.BW), source)
        if kind is Kind.F:
            given = ("input", flow, mb)
            if stage:
                given = self.brought(row, (flow, 0, stage, mb), (flow, 0, stage - 1, mb))
            return ("f", stage, given)
        if kind is Kind.W:
            return self.made(row, (Kind.B,), (flow, 1, stage, mb))
        forward = self.made(row, (Kind.F,), (flow, 0, stage, mb))
        gradient: Term = ("loss", flow, mb, forward)
        if stage < last:
            gradient = self.brought(row, (flow, 1, stage, mb), (flow, 1, stage + 1, mb))
        return ("b", stage, forward, gradient)

    def brought(self, row: int, own: tuple[int, ...], source: tuple[int, ...]) -> Term:
        """What an operation consumes: received for it on its rank, or made there."""
        received = self.before(row, (Kind.RECV,), own)
        if received is not None:
            return self.term(received)
        return self.made(row, (Kind.F, Kind.B, Kind.BW), source)

    def made(self, row: int, kinds: tuple[Kind, ...], wanted: tuple[int, ...]) -> Term:
        found = self.before(row, kinds, wanted)
        if found is None:
            raise Wrong(f"row {row} uses {wanted}, which is not there")
        return self.term(found)
