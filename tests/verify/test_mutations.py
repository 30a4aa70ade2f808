"""One instruction of a good program is changed: the verifier rejects it, or nothing has changed."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import run
from values import Wrong, results

from pipec.compiler import build
from pipec.program.costs import Costs
from pipec.program.effects import COMPUTE, STEP, Kind
from pipec.program.graph import Channels
from pipec.program.listing import listing, parse_listing
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.source import Source
from pipec.verify.certificate import verify

SMALL = [
    ("1f1b", 3, 3),
    ("zb1p", 2, 3),
    ("interleaved", 2, 2),
    ("zbv", 2, 3),
    ("dualpipe", 2, 4),
    ("dualpipev", 2, 4),
    ("forward", 3, 2),
]
MUTATIONS = ("drop", "duplicate", "swap", "move", "peer", "operation")
seen: Counter[str] = Counter()


@cache
def good(name: str, ranks: int, microbatches: int) -> Program:
    return build(name, {"P": ranks, "M": microbatches}).program


@st.composite
def mutants(draw: st.DrawFn) -> tuple[Program, Program, str]:
    """A library program, the same with one change, and what was changed."""
    program = good(*draw(st.sampled_from(SMALL)))
    mutation = draw(st.sampled_from(MUTATIONS))
    rank = draw(st.integers(0, program.ranks - 1))
    begin, end = int(program.start[rank]), int(program.start[rank + 1])
    row = draw(st.integers(begin, end - 1))
    rows = np.arange(len(program))
    if mutation == "drop":
        return program, chosen(program, np.delete(rows, row)), mutation
    if mutation == "duplicate":
        return (
            program,
            chosen(program, np.insert(rows, draw(st.integers(begin, end)), row)),
            mutation,
        )
    if mutation == "swap":
        other = draw(st.integers(begin, end - 1))
        rows[[row, other]] = rows[[other, row]]
        return program, chosen(program, rows), mutation
    if mutation == "move":
        place = draw(st.integers(begin, end - 1))
        return program, chosen(program, np.insert(np.delete(rows, row), place, row)), mutation
    column = program.peer.copy() if mutation == "peer" else program.operation.copy()
    kind = Kind(program.kind[row])
    if mutation == "peer" and not COMPUTE[kind]:
        others = [other for other in range(program.ranks) if other != rank]
        column[row] = draw(st.sampled_from(others))
    if mutation == "operation":
        column[row] = draw(st.sampled_from(alike(program, kind)))
    return program, replace(program, **{mutation: column}), mutation


def alike(program: Program, kind: Kind) -> list[int]:
    """Operation ids that an instruction of this kind may carry."""
    if kind is Kind.SUM:
        return list(range(program.placement.stages[0]))
    steps = program.placement.split(np.arange(program.placement.size)).step
    wanted = (STEP[kind],) if COMPUTE[kind] else (0, 1)
    return np.flatnonzero(np.isin(steps, wanted)).tolist()


def chosen(program: Program, rows: np.ndarray) -> Program:
    """Rows of a program in a new order; ties that lose their first half are cut."""
    rank = program.rank[rows]
    start = np.searchsorted(rank, np.arange(program.ranks + 1))
    tie = program.tie[rows].copy()
    made = replace(
        program,
        start=start,
        kind=program.kind[rows],
        operation=program.operation[rows],
        peer=program.peer[rows],
        tie=np.zeros(len(rows), bool),
        origin=program.origin[rows],
    )
    compute = made.compute.tolist()
    for before, row in zip([None, *compute], compute, strict=False):
        alone = before is None or made.rank[before] != made.rank[row] or tie[before]
        tie[row] &= not alone
    return replace(made, tie=tie)


def behaves(program: Program, mutant: Program, channels: Channels) -> bool:
    """Whether a mutant runs through and gives the outputs and gradients of the program."""
    try:
        whole = len(run(mutant, channels)) == len(mutant)
        return whole and results(mutant) == results(program)
    except (Wrong, ValueError):  # ValueError: SENDs without RECVs
        return False


MODELS = st.builds(Channels, st.sampled_from(("rank", "pair", "directed")), st.integers(0, 1))
PATIENT = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@PATIENT
@given(mutants(), MODELS)
def test_what_is_certified_behaves_as_before(
    change: tuple[Program, Program, str], channels: Channels
) -> None:
    """A certified mutant runs through under its channels, with the results of the original."""
    program, mutant, mutation = change
    certificate = verify(mutant, Costs(), Memory(), channels)
    seen[f"{mutation}: {'certified' if certificate.ok else 'rejected'}"] += 1
    if certificate.ok:
        assert behaves(program, mutant, channels), (mutation, listing(mutant))


@PATIENT
@given(mutants(), MODELS)
def test_what_is_rejected_is_wrong(
    change: tuple[Program, Program, str], channels: Channels
) -> None:
    """A rejected mutant hangs, or does or computes something else."""
    program, mutant, _ = change
    certificate = verify(mutant, Costs(), Memory(), channels)
    if not certificate.ok:
        codes = {finding.code for finding in certificate.findings}
        untied = codes == {"overlap"}  # it would run, but an overlap could not be one
        assert untied or not behaves(program, mutant, channels), (codes, listing(mutant))
        assert all(finding.message for finding in certificate.findings)


def test_mutations_were_of_all_sorts() -> None:
    """The tests above saw mutants of every sort rejected, and some that change nothing."""
    assert {f"{mutation}: rejected" for mutation in MUTATIONS} <= set(seen)
    assert {"swap: certified", "move: certified"} <= set(seen)


def test_a_mutant_reads_back_from_its_listing() -> None:
    """A mutant is a program like any other: its listing says what it is, findings included."""
    program = good("dualpipe", 2, 4)
    mutant = chosen(program, np.delete(np.arange(len(program)), 9))
    text = listing(mutant)
    again = parse_listing(Source("x.listing", text))
    codes = [
        [finding.code for finding in verify(one, Costs(), Memory()).findings]
        for one in (mutant, again)
    ]
    assert again.same(mutant) and codes[0] == codes[1] and codes[0]
