"""Sums and messages between two ranks: warned of where the ranks use them in two orders."""

from dataclasses import replace

import numpy as np
import pytest

from pipec.compiler import build
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.verify.certificate import verify
from pipec.verify.communicators import communicators


def exchanged(program: Program, row: int) -> Program:
    """The program with a row and the one behind it in the other order."""
    at = np.arange(len(program))
    at[[row, row + 1]] = row + 1, row
    columns = ("kind", "operation", "peer", "tie", "nowait", "part", "origin")
    return replace(program, **{name: getattr(program, name)[at] for name in columns})


@pytest.mark.parametrize("name", ["dualpipe", "chimera"])
@pytest.mark.parametrize("size", [2, 4, 6])
def test_lowering_uses_communicators_in_one_order(name: str, size: int) -> None:
    """Streams are projections of one sequence, sums included."""
    program = build(name, {"P": size, "M": 2 * size}).program
    assert (program.kind == Kind.SUM).any()
    assert communicators(program, Links(program)) == []


def test_a_sum_that_passes_a_message_on_one_rank_is_warned_of() -> None:
    """Exactly where a SUM and a message between the same two ranks change places on one of them."""
    program = build("dualpipe", {"P": 2, "M": 4}).program
    wired = (program.kind == Kind.SEND) | (program.kind == Kind.RECV)
    summed = program.kind == Kind.SUM
    warned = 0
    for row in range(len(program) - 1):
        if program.rank[row] != program.rank[row + 1] or not (summed[row] or summed[row + 1]):
            continue
        changed = exchanged(program, row)
        crosses = bool(wired[row] | wired[row + 1])
        assert bool(communicators(changed, Links(changed))) == crosses
        certificate = verify(changed, Costs(), Memory())
        codes = [one.code for one in certificate.warnings]
        assert codes.count("communicator-order") == (certificate.ok and crosses)
        warned += crosses
    assert warned
