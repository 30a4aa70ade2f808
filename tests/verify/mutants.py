"""Mutants of library schedules, and what damage (`damage.py`) does to them.

Whether damage changes behaviour is found without the verifier: the machine (`machine.py`) says
whether the program still runs to its end, the evaluator (`values.py`) whether every rank still does
the same work and ends up with the same outputs and gradients, and a walk over the rows counts what
is held. What a verdict says must be the same, both ways.
"""

import random
from collections import Counter
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from damage import DAMAGE, Case
from machine import run
from values import Wrong, results

from pipec.compiler import Settings, build, layers_of
from pipec.findings import PipecError
from pipec.library import names
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.graph import TOPOLOGIES, Channels
from pipec.program.memory import Limit, Memory
from pipec.program.program import Program
from pipec.verify.certificate import verify

SIZES = ((2, 2), (2, 3), (2, 4), (2, 6), (3, 6), (3, 4), (3, 3))
FORMS = {
    "plain": Settings(),
    "launched": Settings(grouped=True),
    "opened": Settings(layers=layers_of("attention dispatch mlp combine"), neighbours=2),
}
"""A schedule as it is, with its exchanges in launches, and with its chunks opened."""

ONLY = {
    "part": ("opened",),
    "order of a group": ("plain", "opened"),
    "order in a launch": ("plain",),
    "other launches": ("plain",),
    "shrink a buffer": ("plain",),
}
"""The forms that some kinds of damage are for; the others are done to all of them."""

UNTIED = {"overlap"}
"""Refused although it would run: an overlap that the runtime could not make one."""


@cache
def library() -> tuple[tuple[str, int, int], ...]:
    """Every library schedule at two sizes, the first and the last legal one of `SIZES`."""
    cases = []
    for name in names():
        legal = [size for size in SIZES if good(name, *size) is not None]
        cases += [(name, *legal[0]), (name, *legal[-1])]
    return tuple(cases)


@cache
def good(name: str, ranks: int, microbatches: int, form: str = "plain") -> Program | None:
    """A library program, or None where a `require` refuses it."""
    try:
        return build(name, {"P": ranks, "M": microbatches}, FORMS[form]).program
    except PipecError:
        return None


def judged(name: str, ranks: int, microbatches: int, kind: str, seed: int) -> tuple[str, Case]:
    """Damage a library program; what became of it, and the mutant.

    `detected`: it behaves otherwise and is refused. `missed`: it is certified all the same.
    `harmless`: it behaves as before and is certified. `refused`: it behaves as before and is not.
    `none`: this seed finds nothing to damage in this way.
    """
    draw = random.Random(f"{name} {ranks} {microbatches} {kind} {seed}")
    plain = good(name, ranks, microbatches)
    assert plain is not None
    forms = ONLY.get(kind, ("plain", "plain", "launched", "opened"))
    forms = tuple(form for form in forms if good(name, ranks, microbatches, form) is not None)
    if not forms:  # what has slices is not opened
        return "none", Case(plain, Channels(), Fraction(0))
    program = good(name, ranks, microbatches, draw.choice(forms))
    assert program is not None
    topology = draw.choice(TOPOLOGIES)
    case = Case(program, Channels(topology, draw.choice((0, 1))), _peak(program))
    mutant = DAMAGE[kind](case, draw)
    if mutant is None:
        return "none", case
    memory = Memory(limit=Limit(mutant.limit))
    certificate = verify(mutant.program, Costs(), memory, mutant.channels)
    same = behaves(program, mutant)
    if certificate.ok:
        return "harmless" if same else "missed", mutant
    untied = {finding.code for finding in certificate.findings} == UNTIED
    return "refused" if same and not untied else "detected", mutant


def behaves(program: Program, mutant: Case) -> bool:
    """Whether a mutant runs through, within its limit, to the same outputs and gradients."""
    try:
        whole = len(run(mutant.program, mutant.channels)) == len(mutant.program)
        fits = peak(mutant.program) <= mutant.limit
        tagged = mutant.channels.topology == "tagged"
        return whole and fits and results(mutant.program, tagged) == _meant(program)
    except (Wrong, ValueError):  # ValueError: SENDs without RECVs
        return False


@cache
def _meant(program: Program) -> tuple[Any, ...]:
    return results(program)


@cache
def _peak(program: Program) -> Fraction:
    return peak(program)


def peak(program: Program) -> Fraction:
    """The most that any rank holds: an activation from each F to the end of its W or BW.

    Of an opened chunk, from the first part of its F to the last of its W or BW.
    """
    compute = program.compute
    where = program.placement.split(program.operation[compute])
    named = list(
        zip(program.rank[compute].tolist(), program.operation[compute].tolist(), strict=True)
    )
    first = {one: at for at, one in reversed(list(enumerate(named)))}
    last = {one: at for at, one in enumerate(named)}
    keeps = [program.placement.flows[flow].backward for flow in np.atleast_1d(where.flow).tolist()]
    kinds, tied = program.kind[compute].tolist(), program.tie[compute].tolist()
    held: Counter[int] = Counter()
    most, given = 0, 0
    for at, one in enumerate(named):
        rank = one[0]
        held[rank] += kinds[at] == Kind.F and first[one] == at
        most = max(most, held[rank])
        gives = kinds[at] in (Kind.W, Kind.BW) or (kinds[at] == Kind.F and not keeps[at])
        given += gives and last[one] == at
        if not any(tied[at + 1 : at + 2]):  # an OVERLAP gives back when both halves end
            held[rank] -= given
            given = 0
    return Fraction(most)
