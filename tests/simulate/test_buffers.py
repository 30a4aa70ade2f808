"""The buffers of all-to-alls: counted from what fills them to their last use."""

from fractions import Fraction

import pytest

from pipec.compiler import Settings, build, layers_of
from pipec.program.costs import Costs
from pipec.program.effects import COMPUTE, EXPERTS, Step
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.simulate.usage import Usage
from pipec.verify.certificate import verify

COSTS = Costs.of({"dispatch": "0.75", "combine": "0.5"})
SIZES = (Fraction(1), Fraction(3))
"""Of a buffer in the first stage, and in all others."""
CHUNK = "embed attention mlp | 2 x attention dispatch mlp combine | norm head"


def used_by(program: Program, memory: Memory) -> Usage:
    report = verify(program, COSTS, memory).used
    assert report is not None
    return report


def buffers(program: Program, rank: int) -> list[Fraction]:
    """What stands in buffers at each row of a rank, told one by one."""
    begin, end = int(program.start[rank]), int(program.start[rank + 1])
    rows = {
        (int(program.operation[row]), int(program.part[row])): row
        for row in range(begin, end)
        if COMPUTE[program.kind[row]]
    }
    held = [Fraction(0)] * (end - begin)
    for row in range(begin, end):
        if not EXPERTS[program.kind[row]]:
            continue
        operation, part = int(program.operation[row]), int(program.part[row])
        _, step, stage, _ = (int(value) for value in program.placement.split(operation))
        onward = 1 if step == Step.FORWARD else -1
        maker, user = rows[operation, part - onward], rows[operation, part + onward]
        assert maker < row < user
        for one in (*range(maker, user), *range(row, user + 1)):
            held[one - begin] += SIZES[min(stage, 1)]
    return held


@pytest.mark.parametrize("neighbours", [0, 1, 3])
@pytest.mark.parametrize("name", ["1f1b", "zb1p", "dualpipev"])
def test_buffers_equal_a_slow_recount(name: str, neighbours: int) -> None:
    """At every instruction of every rank, for F and B alike, however parts are interleaved."""
    settings = Settings(COSTS, layers=layers_of(CHUNK), neighbours=neighbours)
    program = build(name, {"P": 2, "M": 5}, settings).program
    nothing = {"activation": Fraction(0)}
    used = used_by(program, Memory({**nothing, "dispatch": SIZES}))
    for rank in range(2):
        begin, end = program.start[rank : rank + 2].tolist()
        held = [Fraction(int(amount), used.scale) for amount in used.held[begin:end]]
        assert held == buffers(program, rank)
        (part,) = used.parts[rank]
        assert part.name == "exchanged" and part.amount == used.peak[rank]


def test_they_stand_beside_the_rest() -> None:
    """Interleaving two microbatches holds more buffers; a chunk that is whole holds none."""
    memory = Memory({"dispatch": Fraction(2)})

    def peak(layers: str | None, neighbours: int) -> int:
        opened = layers_of(layers) if layers else None
        settings = Settings(COSTS, layers=opened, neighbours=neighbours)
        return int(
            used_by(build("dualpipe", {"P": 2, "M": 4}, settings).program, memory).peak.max()
        )

    layer = "2 x attention dispatch mlp combine"
    assert peak(None, 1) == 3
    assert peak(layer, 0) == 3 + 2 * 2
    assert peak(layer, 1) == 3 + 4 * 2


def test_what_is_not_counted() -> None:
    """The size of buffers is missed where chunks are opened, and not elsewhere."""
    memory = Memory.of({"activation": "1GB"})
    opened = build("1f1b", {"P": 2, "M": 2}, Settings(layers=layers_of(CHUNK))).program
    assert "dispatch" in used_by(opened, memory).not_counted
    assert "dispatch" not in used_by(build("1f1b", {"P": 2, "M": 2}).program, memory).not_counted
