"""Memory over time, recounted slowly: one rank at a time, thing by thing."""

from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipec.compiler import Settings, build, layers_of
from pipec.findings import PipecError
from pipec.lower.lower import lower
from pipec.program.costs import Costs, durations
from pipec.program.effects import COMPUTE, STEP, Kind, Step
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.program.memory import Limit, Memory
from pipec.program.placement import Flow, Placement
from pipec.program.program import Order, Program
from pipec.program.sizes import CONSTANT, PARTS, SIZES
from pipec.simulate.timeline import Timeline, simulate
from pipec.simulate.usage import Part, usage
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
    """Any sizes, some of them one per stage."""
    per_stage = st.lists(AMOUNTS, min_size=1, max_size=9).map(tuple)
    keys = draw(st.sets(st.sampled_from([key for key in SIZES if key not in CONSTANT])))
    keys |= draw(st.sets(st.sampled_from(PARTS)) | st.just({"state"}))
    return Memory({key: draw(AMOUNTS | per_stage) for key in sorted(keys)})


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    times = {key: draw(st.integers(0, 4)) for key in ("F", "B", "W", "send")}
    if draw(st.booleans()):
        times["F&B"] = draw(st.integers(0, 9))
    return Costs.of({**times, **({"F&B": "serial"} if draw(st.booleans()) else {})})


@st.composite
def randoms(draw: st.DrawFn) -> Program:
    """Any order that can run, with any placement; then messages and operations change places."""
    ranks, stages = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    holders = st.lists(st.integers(0, ranks - 1), min_size=stages, max_size=stages).map(tuple)
    flows = [Flow("a", draw(st.integers(1, 3)), draw(holders), draw(st.booleans()))]
    if draw(st.booleans()):
        flows.append(Flow("b", 2, draw(holders), flows[0].backward))
    placement = Placement(ranks, tuple(flows))
    program = lower(draw(orders(placement)), Costs())
    for row in draw(st.lists(st.integers(0, max(len(program) - 2, 0)), max_size=6)):
        if row + 1 < len(program) and program.rank[row] == program.rank[row + 1]:
            program = swapped(program, row)
    certified = verify(program, Costs(), Memory(), Channels("tagged"))
    assume(certified.ok)
    return program


@st.composite
def orders(draw: st.DrawFn, placement: Placement) -> Order:
    """One random global sequence of everything that is ready, seen from each rank."""
    ready: list[tuple[Kind, int, int, int]] = [
        (Kind.F, number, 0, microbatch)
        for number, flow in enumerate(placement.flows)
        for microbatch in range(flow.microbatches)
    ]
    rows: list[list[tuple[int, int]]] = [[] for _ in range(placement.ranks)]
    while ready:
        kind, number, stage, microbatch = ready.pop(draw(st.integers(0, len(ready) - 1)))
        flow, step = placement.flows[number], STEP[kind]
        operation = int(placement.operation(number, step, stage, microbatch))
        rows[flow.ranks[stage]].append((kind, operation))
        backward = draw(st.sampled_from((Kind.B, Kind.BW))) if flow.backward else None
        if kind is Kind.F and stage + 1 < flow.stages:
            ready.append((Kind.F, number, stage + 1, microbatch))
        elif kind is Kind.F and backward:
            ready.append((backward, number, stage, microbatch))
        if kind is Kind.B:
            ready.append((Kind.W, number, stage, microbatch))
        if kind in (Kind.B, Kind.BW) and stage and backward:
            ready.append((backward, number, stage - 1, microbatch))
    flat = np.array([row for rank in rows for row in rank], np.int64).reshape(-1, 2)
    start = np.cumsum([0, *map(len, rows)])
    none = np.full(len(flat), -1, np.int32)
    tie = np.zeros(len(flat), bool)
    for row in range(1, len(flat)):
        kinds = {int(flat[row - 1, 0]), int(flat[row, 0])}
        two = row not in start and kinds in ({Kind.F, Kind.B}, {Kind.F, Kind.BW})
        tie[row] = two and not tie[row - 1] and draw(st.booleans())
    kind, operation = flat[:, 0].astype(np.int8), flat[:, 1].astype(np.int32)
    waits, part = np.zeros(len(flat), bool), np.zeros(len(flat), np.int16)
    return Order(placement, start, kind, operation, none, tie, waits, part, none)


def swapped(program: Program, row: int) -> Program:
    """A program with two neighbours exchanged, unless one of them is in an OVERLAP."""
    if program.tie[row : row + 3].any():
        return program
    at = np.arange(len(program))
    at[[row, row + 1]] = row + 1, row
    columns = ("kind", "operation", "peer", "tie", "nowait", "part", "origin")
    return replace(program, **{name: getattr(program, name)[at] for name in columns})


def timeline(program: Program, costs: Costs) -> Timeline:
    channels = Channels("tagged")
    graph = event_graph(program, Links(program), channels, whole_pairs=not costs.serial)
    swept = simulate(graph, durations(program, costs))
    assert not len(swept.stuck)
    return swept.timeline


class Thing(NamedTuple):
    """Something that a rank holds from when row `first` begins until row `last` has ended."""

    part: str
    first: int
    last: int
    amount: Fraction


def things(program: Program, memory: Memory, time: Timeline, rank: int) -> list[Thing]:
    """Everything that a rank ever holds, told one by one."""
    begin, end = int(program.start[rank]), int(program.start[rank + 1])
    rows = {row: program.instruction(row) for row in range(begin, end)}
    found: list[Thing] = []

    def named(kinds: str, flow: str | None, stage: int, microbatch: int | None) -> list[int]:
        return [
            row
            for row, one in rows.items()
            if one.kind.name in kinds.split()
            and (one.flow, one.stage, one.microbatch) == (flow, stage, microbatch)
        ]

    for row, (kind, flow, stage, microbatch, _, _, step, *_) in rows.items():
        first, last = _unit(program, row, begin, end) if COMPUTE[kind] else (row, row)
        kept, stash = memory.size("activation", stage), memory.size("stash", stage)
        if kind is Kind.F:
            backward = named("B BW", flow, stage, microbatch)
            until = _unit(program, backward[0], begin, end)[1] if backward else last
            found.append(Thing("activations", first, until, kept))
        if kind is Kind.B:
            found.append(Thing("room", first, last, max(stash - kept, Fraction(0))))
            (weights,) = named("W", flow, stage, microbatch)
            found.append(Thing("stash", last + 1, weights, stash))
        if kind is Kind.RECV:
            (user,) = named("F" if step is Step.FORWARD else "B BW", flow, stage, microbatch)
            size = memory.size("message", stage + (step is Step.BACKWARD))
            found.append(Thing("received", row, _unit(program, user, begin, end)[1], size))
        if kind in (Kind.F, Kind.B, Kind.BW):
            ahead = 1 if kind is Kind.F else -1
            size = memory.size("message", stage + (kind is Kind.F))
            users = named("F" if kind is Kind.F else "B BW", flow, stage + ahead, microbatch)
            users = [user for user in users if user != row]
            if users:
                found.append(Thing("passed", first, _unit(program, users[0], begin, end)[1], size))
            for sent in named("SEND", flow, stage + ahead, microbatch):
                if rows[sent].step is (Step.FORWARD if kind is Kind.F else Step.BACKWARD):
                    after = [
                        unit
                        for unit in range(begin, end)
                        if COMPUTE[program.kind[unit]] and time.begin[unit] >= time.end[sent]
                    ]
                    gone = max(after[0] - 1, sent) if after else end - 1
                    found.append(Thing("sent", first, gone, size))
    return found


def recount(program: Program, memory: Memory, time: Timeline, rank: int) -> list[dict[str, Any]]:
    """For each row of a rank the amount of each part: what began and has not ended."""
    state = {
        key: sum((memory.size(key, stage) for stage in program.placement.held(rank)), Fraction(0))
        for key in CONSTANT
    }
    told = things(program, memory, time, rank)
    held = []
    for row in range(int(program.start[rank]), int(program.start[rank + 1])):
        parts = dict(state)
        for thing in told:
            if thing.first <= row <= thing.last:
                name = "activations" if thing.part == "room" else thing.part
                parts[name] = parts.get(name, Fraction(0)) + thing.amount
        held.append({name: amount for name, amount in parts.items() if amount})
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
    """At every instruction of every rank; and each peak, where it is reached, part by part."""
    name, ranks, microbatches = case
    check(build(name, {"P": ranks, "M": microbatches}).program, memory, costs)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(random=randoms(), memory=memories(), costs=costs())
def test_random_programs_equal_a_slow_recount(
    random: Program, memory: Memory, costs: Costs
) -> None:
    """The same for programs that nobody would write, with messages that are sent late."""
    check(random, memory, costs)


def check(program: Program, memory: Memory, costs: Costs) -> None:
    time = timeline(program, costs)
    used = usage(memory, time)

    def exact(amount: Any) -> Fraction:
        return Fraction(int(amount), used.scale)

    for rank in range(program.ranks):
        begin, end = int(program.start[rank]), int(program.start[rank + 1])
        slow = recount(program, memory, time, rank)
        sums = [sum(parts.values(), Fraction(0)) for parts in slow]
        assert [exact(amount) for amount in used.held[begin:end]] == sums
        assert sum(part.amount for part in used.parts[rank]) == used.peak[rank]
        if not sums:
            continue
        assert exact(used.peak[rank]) == max(sums)
        row = int(used.peak_row[rank]) - begin
        assert row == sums.index(max(sums))
        assert {part.name: exact(part.amount) for part in used.parts[rank]} == slow[row]


@settings(deadline=None, max_examples=60)
@given(case=st.sampled_from(CASES), memory=memories())
def test_everything_is_given_back(case: tuple[str, int, int], memory: Memory) -> None:
    """When the last instruction of a rank has ended, it holds its state and nothing else."""
    name, ranks, microbatches = case
    program = build(name, {"P": ranks, "M": microbatches}).program
    holds = usage(memory, timeline(program, Costs())).holdings
    for changes in holds.changes:
        taken, given = holds.rows(changes.taken, changes.given)
        for rank in range(ranks):
            rows = slice(int(program.start[rank]), int(program.start[rank + 1]))
            assert taken[rows].sum() + given[rows].sum() == 0


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
    state = tuple(map(Fraction, (1, 10, 100, 1000)))
    memory = Memory({"activation": Fraction(0), "optimizer": state})
    used = usage(memory, timeline(program, Costs()))
    assert used.peak.tolist() == [1001, 110, 110, 1001]
    assert used.parts[0] == (Part("optimizer", 1001, 2),)
    assert used.peak_row.tolist() == program.start[:-1].tolist()


@pytest.mark.parametrize(("neighbours", "most"), [(1, 1), (2, 2)])
def test_an_opened_forward_holds_until_its_last_part(neighbours: int, most: int) -> None:
    """Without a backward, too: forwards whose parts are issued in turn are held side by side."""
    layers = layers_of("attention dispatch mlp combine")
    costs = Costs.of({"dispatch": 1, "combine": 1})
    settings = Settings(costs, layers=layers, neighbours=neighbours)
    program = build("forward", {"P": 2, "M": 4}, settings).program
    assert usage(Memory(), timeline(program, costs)).peak.tolist() == [most, most]


def test_the_limit_is_exact() -> None:
    """A limit that equals the peak holds; a hair below it does not, at the instruction shown."""
    program = build("1f1b", {"P": 2, "M": 4}).program
    sizes = {"activation": Fraction(1, 3)}
    peak = Fraction(2, 3)
    assert verify(program, Costs(), Memory(sizes, limit=Limit(peak))).ok
    below = Memory(sizes, limit=Limit(peak - Fraction(1, 10**9)))
    (finding,) = verify(program, Costs(), below).findings
    assert finding.code == "memory-limit" and finding.places[0].instruction == "F main 0 1"
    used = usage(Memory(sizes), timeline(program, Costs()))
    assert np.flatnonzero(used.held == used.peak[0])[0] == finding.places[0].index


@pytest.mark.parametrize("digits", [7, 12, 15, 20])
def test_no_digit_makes_a_peak_fit(digits: int) -> None:
    """Amounts with more digits than are counted never add up to less than they are."""
    program = build("gpipe", {"P": 2, "M": 3}).program
    third, tiny = Fraction(10**digits // 3 + 1, 10**digits), Fraction(4, 10**digits)
    for size, limit in ((third, Fraction(1)), (tiny, 2 * tiny)):
        memory = Memory({"activation": size, "stash": size / 7}, limit=Limit(limit))
        (one, other) = verify(program, Costs(), memory).findings
        assert one.code == other.code == "memory-limit"
        used = usage(memory, timeline(program, Costs()))
        assert 3 * size <= Fraction(int(used.peak[0]), used.scale) < 3 * size + Fraction(1, 10**11)


@pytest.mark.parametrize("amount", [10**17, 10**18, 10**30])
@pytest.mark.parametrize("key", ["activation", "state", "message"])
def test_amounts_that_add_up_to_too_much(amount: int, key: str) -> None:
    """More than 63 bits is an error with a hint, and never a peak that is wrong."""
    program = build("gpipe", {"P": 2, "M": 200}).program
    memory = Memory({"stash": Fraction(1, 7), key: Fraction(amount)})
    if key == "state" and amount <= 10**18:
        used = usage(memory, timeline(program, Costs()))
        assert used.units(int(used.peak[0])) > 10**17
        return
    with pytest.raises(PipecError) as caught:
        usage(memory, timeline(program, Costs()))
    assert caught.value.findings[0].hint == "state fewer digits"
