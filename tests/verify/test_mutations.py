"""Every kind of damage to every library schedule is detected, or it changes nothing.

How the tests know what damage does, stands in `mutants.py`. `bench/mutations.py` counts many more.
"""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from damage import DAMAGE, Case, chosen
from mutants import good, judged, library

from pipec.lower.forward_only import forward_only
from pipec.program.costs import Costs
from pipec.program.effects import Kind, Step
from pipec.program.graph import Channels
from pipec.program.listing import listing
from pipec.program.memory import Memory
from pipec.program.program import Instruction, Program
from pipec.program.reading import parse_listing
from pipec.source import Source
from pipec.verify.certificate import verify
from pipec.verify.members import members

EACH = 2
"""Mutants of each kind, of each schedule, at each size."""
SOMETIMES = set(DAMAGE) - {
    "drop",
    "duplicate",
    "another rank",
    "retarget",
    "microbatch",
    "stage",
    "part",
    "reorder a channel",
    "late RECV",
}
"""The kinds that may change nothing."""
counted: Counter[str] = Counter()


@pytest.mark.parametrize("case", library(), ids=lambda case: "-".join(map(str, case)))
def test_damage_is_detected_or_changes_nothing(case: tuple[str, int, int]) -> None:
    """What is certified does what it did before, and what is refused does not."""
    for kind in DAMAGE:
        for seed in range(EACH):
            outcome, mutant = judged(*case, kind, seed)
            assert outcome not in ("missed", "refused"), (kind, listing(mutant.program))
            counted[f"{kind}: {outcome}"] += 1


def test_damage_was_of_all_kinds() -> None:
    """The tests above saw every kind detected, and kinds that may change nothing change nothing."""
    if counted:  # else this test was asked for alone
        assert {f"{kind}: detected" for kind in DAMAGE} <= set(counted)
        assert {f"{kind}: harmless" for kind in SOMETIMES} <= set(counted)


@pytest.mark.parametrize("form", ["plain", "launched", "opened", "forward"])
def test_nothing_can_be_added(form: str) -> None:
    """One more operation, part or all-to-all, or message that both its ranks know of, is refused.

    In training, and where there is no backward that an addition could be at odds with.
    """
    draw = Random(form)
    for case in library():
        program = good(*case, "opened" if form == "forward" else form) or good(*case)
        assert program is not None
        program = forward_only(program) if form == "forward" else program
        for _ in range(4):
            more = added(program, draw)
            assert not verify(more, Costs(), Memory()).ok, listing(more)


def added(program: Program, draw: Random) -> Program:
    """The program with one more instruction that a listing can say; of messages, both ends."""
    placement = program.placement
    rank, peer = draw.sample(range(program.ranks), 2)
    operation = draw.randrange(placement.size)
    _, step, stage, _ = map(int, placement.split(operation))
    parts = placement.wires[stage, : placement.lengths[stage]].tolist()
    part = draw.randrange(len(parts))
    steps = {Step.FORWARD: (Kind.F,), Step.BACKWARD: (Kind.B, Kind.BW), Step.WEIGHTS: (Kind.W,)}
    kind = draw.choice(steps[Step(step)]) if parts[part] < 0 else Kind(parts[part])
    rows = [(rank, kind, -1, part)]
    if step != Step.WEIGHTS and (draw.random() < 0.5):
        rows = [(rank, Kind.SEND, peer, 0), (peer, Kind.RECV, rank, 0)]
    for where, kind, other, part in rows:
        if step == Step.WEIGHTS and kind in (Kind.DISPATCH, Kind.COMBINE):
            return added(program, draw)
        at = draw.randint(int(program.start[where]), int(program.start[where + 1]))
        columns = {
            "kind": kind, "operation": operation, "peer": other, "tie": False, "nowait": False,
            "part": part, "origin": -1,
        }  # fmt: skip
        start = program.start + (np.arange(program.ranks + 1) > where)
        wider = {name: np.insert(getattr(program, name), at, one) for name, one in columns.items()}
        program = replace(program, start=start, witness=None, **wider)
    return program


OPENED = [case for case in library()[::2] if good(*case, "opened") is not None]


@pytest.mark.parametrize("case", OPENED, ids=lambda case: "-".join(map(str, case)))
def test_one_member_of_an_expert_group_is_damaged(case: tuple[str, int, int]) -> None:
    """All-to-alls in another order than the other members issue are found, on the ranks where."""
    program = good(*case, "opened")
    assert program is not None
    assert members(program, program, "itself") == []
    mutant = DAMAGE["order of a group"](Case(program, Channels(), Fraction(0)), Random(1))
    assert mutant is not None
    meant, made = (exchanged(one) for one in (program, mutant.program))
    wrong = {rank for rank in range(program.ranks) if meant[rank] != made[rank]}
    found = members(mutant.program, program, "the others")
    assert wrong and {one.places[0].rank for one in found} == wrong


def exchanged(program: Program) -> list[list[Instruction]]:
    """The all-to-alls of each rank, in order."""
    return [[row for row in rows if row.kind in (Kind.DISPATCH, Kind.COMBINE)] for rows in program]


def test_ties_that_no_text_can_say() -> None:
    """Three operations in one OVERLAP, or one tied to nothing, are refused in a table, too."""
    program = good("dualpipe", 2, 4)
    assert program is not None
    second = program.pairs[1]
    behind = program.compute[np.searchsorted(program.compute, second[0]) + 1]
    for row in (behind, program.compute[0]):
        tie = program.tie.copy()
        tie[row] = True
        findings = verify(replace(program, tie=tie), Costs(), Memory()).findings
        assert [finding.code for finding in findings] == ["overlap"]


def test_a_mutant_reads_back_from_its_listing() -> None:
    """A mutant is a program like any other: its listing says what it is, findings included."""
    program = good("dualpipe", 2, 4)
    assert program is not None
    mutant = chosen(program, np.delete(np.arange(len(program)), 9))
    again = parse_listing(Source("x.listing", listing(mutant)))
    codes = [
        [finding.code for finding in verify(one, Costs(), Memory()).findings]
        for one in (mutant, again)
    ]
    assert again.same(mutant) and codes[0] == codes[1] and codes[0]
