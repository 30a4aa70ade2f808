"""What opened chunks hold: from the first part of an F to the last of its B, BW or W."""

from fractions import Fraction

import pytest

from pipec.compiler import Settings, build, build_text, layers_of
from pipec.program.costs import Costs
from pipec.program.effects import COMPUTE, Kind, Step
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.program.reading import parse_listing
from pipec.source import Source
from pipec.verify.certificate import verify

CHUNK = "embed attention mlp | 2 x attention dispatch mlp combine | norm head"
COSTS = Costs.of({"dispatch": "0.75", "combine": "0.5", "W.mlp": 3, "W.attention": "0.5"})

MEMORIES = [
    Memory({"activation": Fraction(3), "stash": Fraction(2)}),
    Memory({"activation": Fraction(1), "stash": Fraction(3)}),
    Memory({"activation": (Fraction(1), Fraction(4)), "stash": (Fraction(5), Fraction(2))}),
]


def recount(program: Program, memory: Memory, rank: int) -> list[Fraction]:
    """What a rank holds at each of its rows, operation by operation."""
    begin, end = int(program.start[rank]), int(program.start[rank + 1])
    held = [Fraction(0)] * (end - begin)
    found: dict[tuple[int, int, int], dict[int, list[int]]] = {}
    for row in range(begin, end):
        if COMPUTE[program.kind[row]]:
            flow, step, stage, number = map(int, program.placement.split(program.operation[row]))
            steps = found.setdefault((flow, stage, number), {})
            steps.setdefault(step, []).append(row - begin)
    for (_, stage, _), steps in found.items():
        kept, stash = memory.size("activation", stage), memory.size("stash", stage)
        forward, backward = steps[Step.FORWARD], steps.get(Step.BACKWARD)
        weights = steps.get(Step.WEIGHTS)
        for row in range(forward[0], (backward or forward)[-1] + 1):
            held[row] += kept
        if backward and weights:
            for row in range(backward[0], backward[-1] + 1):
                held[row] += max(stash - kept, Fraction(0))
            for row in range(backward[-1] + 1, weights[-1] + 1):
                held[row] += stash
    return held


def check(program: Program) -> None:
    for memory in MEMORIES:
        certificate = verify(program, COSTS, memory)
        used = certificate.used
        assert used is not None
        for rank in range(program.ranks):
            begin, end = program.start[rank : rank + 2].tolist()
            held = [Fraction(int(amount), used.scale) for amount in used.held[begin:end]]
            assert held == recount(program, memory, rank)
            assert sum(part.amount for part in used.parts[rank]) == used.peak[rank]


@pytest.mark.parametrize("neighbours", [0, 1, 3])
@pytest.mark.parametrize("name", ["1f1b", "zb1p", "dualpipe", "dualpipev", "forward"])
def test_what_is_held_equals_a_slow_recount(name: str, neighbours: int) -> None:
    """At every instruction of every rank, however parts and their W are interleaved."""
    settings = Settings(COSTS, layers=layers_of(CHUNK), neighbours=neighbours)
    check(build(name, {"P": 2, "M": 4}, settings).program)


def test_a_stash_is_held_until_the_last_w() -> None:
    """An author may issue W of the first part before that of the others."""
    text = """
schedule late(P, M):
    flow main(stages=P, microbatches=M): rank = stage
    layers 2: attention dispatch mlp combine
    overlap F & BW:
        compute:  B.mlp  F.attention  B.attention  W.attention  F.mlp  W.mlp
        wire:     B.combine  F.dispatch  B.dispatch  F.combine
    on rank r:
        let warmup = min(2 * (P - 1 - r) + 1, M)
        repeat warmup:      F
        repeat M - warmup:  F & BW
        repeat warmup:      BW
"""
    check(build_text(Source("late.pipe", text), {"P": 2, "M": 6}, Settings(COSTS)).program)


LATE = """
ranks 1
flow main microbatches 2 ranks 0
chunk 0: attention dispatch mlp combine

rank 0:
    F     main 0 0 attention.0
    DISPATCH  F main 0 0 dispatch.0
    F     main 0 0 mlp.0
    COMBINE  F main 0 0 combine.0
    F     main 0 0 out.1
    {0}     main 0 0 out.1
    COMBINE  B main 0 0 combine.0
    {1}     main 0 0 mlp.0
    DISPATCH  B main 0 0 dispatch.0
    {2}     main 0 0 attention.0
    {3}
    F     main 0 1 attention.0
    DISPATCH  F main 0 1 dispatch.0
    F     main 0 1 mlp.0
    COMBINE  F main 0 1 combine.0
    F     main 0 1 out.1
    {4}
    {5}
    BW    main 0 1 out.1
    COMBINE  B main 0 1 combine.0
    BW    main 0 1 mlp.0
    DISPATCH  B main 0 1 dispatch.0
    BW    main 0 1 attention.0
"""
W = "W     main 0 0 "


@pytest.mark.parametrize(
    "rows",
    [
        ("B", "B", "B", f"{W}attention.0", f"{W}mlp.0", f"{W}out.1"),
        ("B", "B", "B", f"{W}out.1", f"{W}attention.0", f"{W}mlp.0"),
        ("BW", "BW", "B", f"{W}attention.0", "", ""),
        ("B", "BW", "BW", "", f"{W}out.1", ""),
        ("BW", "B", "BW", "", "", f"{W}mlp.0"),
        ("BW", "BW", "BW", "", "", ""),
    ],
)
def test_parts_in_any_order_that_can_be(rows: tuple[str, ...]) -> None:
    """An operation of which one part has a W apart keeps its stash until that W."""
    program = parse_listing(Source("x.listing", LATE.format(*rows)))
    assert {Kind(kind) for kind in program.kind.tolist()} >= {Kind.F, Kind.BW}
    check(program)
