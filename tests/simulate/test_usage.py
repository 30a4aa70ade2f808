"""Memory over time, recounted slowly: dictionaries, one rank at a time, tensor by tensor."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipec.compiler import build
from pipec.findings import PipecError
from pipec.program.costs import Costs, durations
from pipec.program.effects import COMPUTE, Kind
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.simulate.timeline import Timeline, simulate
from pipec.simulate.usage import usage
from pipec.verify.certificate import verify

CASES = [
    ("1f1b", 3, 4),
    ("gpipe", 2, 3),
    ("zb1p", 3, 5),
    ("zb2p", 3, 6),
    ("interleaved", 2, 4),
    ("zbv", 2, 4),
    ("dualpipe", 2, 4),
    ("dualpipe", 4, 8),
    ("dualpipev", 2, 5),
    ("forward", 3, 4),
]
AMOUNTS = st.fractions(0, 5, max_denominator=6)


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Amounts that are given back in full: F takes, B gives a part (or takes), W the rest."""
    forward, part = draw(AMOUNTS), draw(st.fractions(-3, 2, max_denominator=6))
    amounts = {"F": forward, "B": max(part, -forward)}
    for key in ("state", "message"):
        if draw(st.booleans()):
            amounts[key] = draw(AMOUNTS)
    if draw(st.booleans()):
        per_stage = draw(st.lists(AMOUNTS, min_size=1, max_size=9).map(tuple))
        return Memory({"F": per_stage, "message": draw(AMOUNTS)})
    return Memory(amounts)


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    times = {key: draw(st.integers(0, 4)) for key in ("F", "B", "W", "send")}
    if draw(st.booleans()):
        times["F&B"] = draw(st.integers(0, 9))
    return Costs.of({**times, **({"F&B": "serial"} if draw(st.booleans()) else {})})


def timeline(program: Program, costs: Costs) -> Timeline:
    graph = event_graph(program, Links(program), Channels(), whole_pairs=not costs.serial)
    return simulate(graph, durations(program, costs)).timeline


def recount(program: Program, memory: Memory, time: Timeline) -> list[list[Fraction]]:
    """Per rank what is held while each row runs: a sum over all that began and has not ended."""
    return [_rank(program, memory, time, rank) for rank in range(program.ranks)]


def _rank(program: Program, memory: Memory, time: Timeline, rank: int) -> list[Fraction]:
    begin, end = int(program.start[rank]), int(program.start[rank + 1])
    changes: dict[tuple[int, bool], Fraction] = {}

    def add(row: int, at_end: bool, amount: Fraction) -> None:
        changes[row, at_end] = changes.get((row, at_end), Fraction(0)) + amount

    for row in range(begin, end):
        kind, _, stage, *_ = program.instruction(row)
        if kind is Kind.SUM:
            continue
        amount = memory.amount(kind.name if COMPUTE[kind] else "message", stage)
        if COMPUTE[kind]:
            first, last = _unit(program, row, begin, end)
            flow = program.placement.flows[
                int(program.placement.split(program.operation[row]).flow)
            ]
            add(first if amount > 0 else last, amount < 0, amount)
            if not flow.backward:
                add(last, True, -max(amount, Fraction(0)))
            continue
        add(row, False, amount)
        if kind is Kind.RECV:
            users = [
                later
                for later in range(begin, end)
                if COMPUTE[program.kind[later]]
                and program.kind[later] != Kind.W
                and program.operation[later] == program.operation[row]
            ]
            add(users[0], True, -amount)
        else:
            later = [
                unit
                for unit in range(begin, end)
                if COMPUTE[program.kind[unit]] and time.begin[unit] >= time.end[row]
            ]
            if later:
                add(max(later[0] - 1, row), True, -amount)
    state = sum(
        (memory.amount("state", stage) for stage in program.placement.held(rank)), Fraction(0)
    )
    held, now = [], state
    for row in range(begin, end):
        now += changes.get((row, False), Fraction(0))
        held.append(now)
        now += changes.get((row, True), Fraction(0))
    return held


def _unit(program: Program, row: int, begin: int, end: int) -> tuple[int, int]:
    """The first and last row of the OVERLAP that a row is in, or the row twice."""
    compute = [one for one in range(begin, end) if COMPUTE[program.kind[one]]]
    at = compute.index(row)
    if program.tie[row]:
        return compute[at - 1], row
    if at + 1 < len(compute) and program.tie[compute[at + 1]]:
        return row, compute[at + 1]
    return row, row


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(case=st.sampled_from(CASES), memory=memories(), costs=costs())
def test_what_is_held_equals_a_slow_recount(
    case: tuple[str, int, int], memory: Memory, costs: Costs
) -> None:
    """At every instruction of every rank, with peaks and where they are reached."""
    name, ranks, microbatches = case
    program = build(name, {"P": ranks, "M": microbatches}).program
    time = timeline(program, costs)
    used, slow = usage(memory, time), recount(program, memory, time)
    held = [Fraction(int(amount), used.scale) for amount in used.held]
    assert held == [amount for rank in slow for amount in rank]
    for rank, amounts in enumerate(slow):
        assert Fraction(int(used.peak[rank]), used.scale) == max(amounts)
        row = int(used.peak_row[rank]) - int(program.start[rank])
        assert row == amounts.index(max(amounts))


@settings(deadline=None, max_examples=60)
@given(case=st.sampled_from(CASES), memory=memories())
def test_everything_is_given_back(case: tuple[str, int, int], memory: Memory) -> None:
    """Behind the last instruction a rank holds its state, and what has not left yet."""
    name, ranks, microbatches = case
    program = build(name, {"P": ranks, "M": microbatches}).program
    time = timeline(program, Costs())
    sent = memory.amount("message", 0)
    for rank, held in enumerate(recount(program, memory, time)):
        rows = range(int(program.start[rank]), int(program.start[rank + 1]))
        backward = [row for row in rows if program.kind[row] in (Kind.W, Kind.BW)]
        state = sum(
            (memory.amount("state", stage) for stage in program.placement.held(rank)), Fraction(0)
        )
        if backward and backward[-1] == rows[-1] and not sent:
            last = program.instruction(rows[-1])
            assert held[-1] + memory.amount(last.kind.name, last.stage) == state


@pytest.mark.parametrize(
    ("name", "ranks", "microbatches", "peaks"),
    [
        ("gpipe", 4, 8, [8, 8, 8, 8]),
        ("1f1b", 4, 8, [4, 3, 2, 1]),
        ("zb1p", 4, 8, [4, 4, 4, 4]),
        ("zb2p", 4, 8, [7, 7, 7, 7]),
        ("zbv", 4, 8, [8, 8, 8, 8]),
    ],
)
def test_peaks_that_papers_state(
    name: str, ranks: int, microbatches: int, peaks: list[int]
) -> None:
    """Activations of one stage, from F to W, on each rank."""
    program = build(name, {"P": ranks, "M": microbatches}).program
    used = usage(Memory(), timeline(program, Costs()))
    assert used.peak.tolist() == peaks


def test_a_stage_held_twice_counts_twice() -> None:
    """DualPipe: every rank pays the state of two stages."""
    program = build("dualpipe", {"P": 4, "M": 8}).program
    memory = Memory({"F": Fraction(0), "state": tuple(map(Fraction, (1, 10, 100, 1000)))})
    used = usage(memory, timeline(program, Costs()))
    assert used.peak.tolist() == [1001, 110, 110, 1001]
    assert used.peak_row.tolist() == program.start[:-1].tolist()


def test_the_limit_is_exact() -> None:
    """A limit that equals the peak holds; a hair below it does not, at the instruction shown."""
    program = build("1f1b", {"P": 2, "M": 4}).program
    memory = {"F": Fraction(1, 3)}
    peak = Fraction(2, 3)
    assert verify(program, Costs(), Memory(memory, peak)).ok
    (finding,) = verify(program, Costs(), Memory(memory, peak - Fraction(1, 10**9))).findings
    assert finding.code == "memory-limit" and finding.places[0].instruction == "F main 0 1"
    used = usage(Memory(memory), timeline(program, Costs()))
    assert np.flatnonzero(used.held == used.peak[0])[0] == finding.places[0].index


@pytest.mark.parametrize("amount", [10**17, 10**18, 10**30])
@pytest.mark.parametrize("key", ["F", "state", "message"])
def test_amounts_that_add_up_to_too_much(amount: int, key: str) -> None:
    """More than 63 bits is an error with a hint, and never a peak that is wrong."""
    program = build("gpipe", {"P": 2, "M": 200}).program
    memory = Memory({"F": Fraction(1, 7), key: Fraction(amount)})
    if key == "state" and amount < 10**18:
        used = usage(memory, timeline(program, Costs()))
        assert used.units(int(used.peak[0])) > 10**17
        return
    with pytest.raises(PipecError) as caught:
        usage(memory, timeline(program, Costs()))
    assert caught.value.findings[0].hint == "state fewer digits"
