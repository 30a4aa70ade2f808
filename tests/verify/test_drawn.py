"""Schedules that Hypothesis writes as texts: what must hold for any of them.

`pytest tests/verify/test_drawn.py --hypothesis-profile many` tries fifty times as many.
"""

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from drawn import Drawing, compiled, drawings, write
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from machine import run, shuffled

from pipec.language import read
from pipec.language.format import format_text
from pipec.lower.forward_only import forward_only
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.graph import TOPOLOGIES, Channels, event_graph
from pipec.program.links import Links
from pipec.program.listing import listing
from pipec.program.memory import Memory
from pipec.program.placement import Placement
from pipec.program.plan import Plan, load_plan
from pipec.program.program import Program
from pipec.program.reading import parse_listing
from pipec.source import Source
from pipec.verify.certificate import Certificate, verify
from pipec.verify.deadlock import stuck_events
from pipec.verify.json import certificate_json
from pipec.verify.matching import in_order

ANY = settings(
    max_examples=settings.default.max_examples // 2,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
STYLES = st.integers(0, 2**16)
CREDITS = st.sampled_from((0, 0, 1, 2))
CHANNELS = st.builds(Channels, st.sampled_from(TOPOLOGIES), CREDITS)
COUNTED = settings(ANY, derandomize=True)
"""The same examples every time, for tests that also say what kinds of examples they have seen."""
seen: Counter[str] = Counter()


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """The program of a drawn text; in most of them the messages have strayed from their places."""
    drawing = draw(drawings())
    text = write(drawing, random.Random(draw(STYLES)))
    program = compiled(text, len(drawing.streams))
    spread = draw(st.sampled_from((0.0, 0.6, 1.5, 3.0)))
    return shuffled(program, draw(STYLES), spread) if spread else program


def judged(program: Program, channels: Channels | None = None) -> Certificate:
    return verify(program, Costs(), Memory(), channels)


def codes(certificate: Certificate) -> list[str]:
    return sorted(finding.code for finding in certificate.findings)


def safe(program: Program, topology: str, credits: int) -> bool:
    """Whether everything happens, asked of one topology alone."""
    graph = event_graph(program, Links(program), Channels(topology, credits))
    return not len(stuck_events(graph))


# --- texts ----------------------------------------------------------------------------------------


@ANY
@given(drawings(), STYLES)
def test_a_text_means_what_was_drawn(drawing: Drawing, style: int) -> None:
    """Counters, queues of W, loops and branches give exactly the sequence that was meant."""
    program = compiled(write(drawing, random.Random(style)), len(drawing.streams))
    names = [flow.name for flow in drawing.flows]
    for rank, stream in enumerate(drawing.streams):
        meant = [
            (one.kind, names[one.flow], one.stage, one.microbatch, one is not unit[0])
            for unit in stream
            for one in unit
        ]
        assert meant == [
            (row.kind.name, row.flow, row.stage, row.microbatch, row.tied)
            for row in program[rank]
            if row.peer is None
        ]


@ANY
@given(drawings(), STYLES)
def test_text_listing_and_plan_round_trip(tmp_path: Path, drawing: Drawing, style: int) -> None:
    """Formatted, listed or saved as a plan, a schedule is the same program, and twice is once."""
    ranks, text = len(drawing.streams), write(drawing, random.Random(style))
    formatted = format_text(Source("x.pipe", text))
    assert format_text(Source("x.pipe", formatted)) == formatted
    assert read(Source("x.pipe", formatted)) == read(Source("x.pipe", text))
    program = compiled(formatted, ranks)
    assert program.same(compiled(text, ranks))
    assert parse_listing(Source("x.listing", listing(program))).same(program)
    certificate = judged(program)
    if certificate.ok:
        saved = certificate_json(certificate, program.origins.source)
        plan = Plan("drawn", {"P": ranks}, program, Costs(), Memory(), saved)
        plan.save(tmp_path / "x.plan")
        again = load_plan(tmp_path / "x.plan")
        assert again.program.same(program) and again.digest == plan.digest


@ANY
@given(drawings(), STYLES)
def test_a_text_has_no_mistakes_of_the_compiler(drawing: Drawing, style: int) -> None:
    """What is lowered is safe everywhere by rendezvous, or its order itself is a circle."""
    certificate = judged(compiled(write(drawing, random.Random(style)), len(drawing.streams)))
    assert codes(certificate) in ([], ["deadlock"])
    assert {verdict.safe for verdict in certificate.safety.values()} == {certificate.ok}
    if not certificate.ok:
        assert "the order itself is a circle" in certificate.findings[0].message


# --- names ----------------------------------------------------------------------------------------


@ANY
@given(drawings(), STYLES, st.randoms(use_true_random=False))
def test_names_in_a_text_do_not_matter(drawing: Drawing, style: int, names: random.Random) -> None:
    """The same schedule with other numbers for ranks and other names for flows: one verdict."""
    ranks = list(range(len(drawing.streams)))
    one = judged(compiled(write(drawing, random.Random(style)), len(ranks)))
    names.shuffle(ranks)
    other_names = ["right", "left"][: len(drawing.flows)]
    other = drawing.renamed(ranks, other_names)
    two = judged(compiled(write(other, random.Random(style + 1)), len(ranks)))
    assert codes(one) == codes(two) and one.safety == two.safety


@ANY
@given(programs(), CHANNELS, st.randoms(use_true_random=False))
def test_names_in_a_program_do_not_matter(
    program: Program, channels: Channels, names: random.Random
) -> None:
    """Message by message the same program: the same findings, credits, times and peaks."""
    ranks = list(range(program.ranks))
    names.shuffle(ranks)
    one, two = judged(program, channels), judged(renamed(program, ranks), channels)
    assert codes(one) == codes(two) and one.safety == two.safety
    assert (one.report is None) == (two.report is None)
    if one.report and two.report:
        assert one.report.makespan == two.report.makespan
        for rank, row in enumerate(one.report.ranks):
            assert row == two.report.ranks[ranks[rank]]


def renamed(program: Program, ranks: list[int]) -> Program:
    """The program with rank `r` called `ranks[r]`, its flows by other names."""
    flows = tuple(
        replace(flow, name=f"{flow.name}2", ranks=tuple(ranks[rank] for rank in flow.ranks))
        for flow in program.placement.flows
    )
    old = np.argsort(ranks)
    parts = [np.arange(program.start[rank], program.start[rank + 1]) for rank in old]
    rows = np.concatenate(parts)
    peer = program.peer[rows]
    return replace(
        program,
        placement=Placement(program.ranks, flows),
        start=np.concatenate([[0], np.cumsum([len(part) for part in parts])]),
        peer=np.where(peer < 0, peer, np.array(ranks)[peer]).astype(np.int32),
        **{
            name: getattr(program, name)[rows]
            for name in ("kind", "operation", "tie", "nowait", "part", "origin")
        },
    )


# --- verdicts -------------------------------------------------------------------------------------


@COUNTED
@given(programs(), CHANNELS)
def test_what_is_certified_runs_to_the_end(program: Program, channels: Channels) -> None:
    """A machine that knows no graph ends a certified program, and is stuck in a deadlocked one."""
    certificate = judged(program, channels)
    done = len(run(program, channels)) == len(program)
    seen[f"runs: {', '.join(codes(certificate)) or 'certified'}"] += 1
    if certificate.ok:
        assert done
    if "deadlock" in codes(certificate):
        assert not done


@COUNTED
@given(programs(), CREDITS)
def test_fewer_queues_are_never_worse(program: Program, credits: int) -> None:
    """rank, pair, directed, tagged: each asked alone, what is safe stays safe further on."""
    verdicts = [safe(program, topology, credits) for topology in TOPOLOGIES[:3]]
    if "corruption" not in codes(judged(program)):  # else tags meet otherwise
        verdicts.append(safe(program, "tagged", credits))
    assert verdicts == sorted(verdicts)
    seen[f"queues: {verdicts}"] += 1


@ANY
@given(programs(), st.sampled_from(TOPOLOGIES[:3]), st.integers(0, 3))
def test_more_credits_are_never_worse(program: Program, topology: str, credits: int) -> None:
    """What is safe with some credits is safe with one more."""
    assert safe(program, topology, credits) <= safe(program, topology, credits + 1)


@ANY
@given(programs(), CHANNELS)
def test_an_overlap_less_is_never_worse(program: Program, channels: Channels) -> None:
    """A pair waits for both its inputs, its halves apart only for their own."""
    for row in np.flatnonzero(program.tie).tolist():
        tie = program.tie.copy()
        tie[row] = False
        apart = replace(program, tie=tie)
        assert safe(program, channels.topology, channels.credits) <= safe(
            apart, channels.topology, channels.credits
        )


@ANY
@given(programs(), CHANNELS, st.data())
def test_a_microbatch_less_is_never_worse(
    program: Program, channels: Channels, data: st.DataObject
) -> None:
    """Without one microbatch, its operations and its messages, a safe program stays safe.

    By position this holds where every message meets its own: a mix-up may hide a wait.
    """
    assume(channels.topology == "tagged" or in_order(program, Links(program)))
    flows = program.placement.flows
    able = [number for number, flow in enumerate(flows) if flow.microbatches > 1]
    assume(able)
    flow = data.draw(st.sampled_from(able))
    microbatch = data.draw(st.integers(0, flows[flow].microbatches - 1))
    less = without(program, flow, microbatch)
    assert "missing" not in codes(judged(less))
    assert safe(program, channels.topology, channels.credits) <= safe(
        less, channels.topology, channels.credits
    )


@ANY
@given(programs(), CHANNELS)
def test_no_backward_is_never_worse(program: Program, channels: Channels) -> None:
    """The forwards of a safe program alone are safe, where every message meets its own."""
    assume(channels.topology == "tagged" or in_order(program, Links(program)))
    assert safe(program, channels.topology, channels.credits) <= safe(
        forward_only(program), channels.topology, channels.credits
    )


def without(program: Program, flow: int, microbatch: int) -> Program:
    """A program with one microbatch of a flow less; a half of a pair that stays is alone, and so
    is what is left of a sequence.
    """
    flows = list(program.placement.flows)
    flows[flow] = replace(flows[flow], microbatches=flows[flow].microbatches - 1, slices=1)
    placement, summed = Placement(program.ranks, tuple(flows)), program.kind == Kind.SUM
    where = program.placement.split(np.where(summed, 0, program.operation))
    gone = (where.flow == flow) & (where.microbatch == microbatch) & ~summed
    moved = where.microbatch - ((where.flow == flow) & (where.microbatch > microbatch))
    operation = placement.operation(where.flow, where.step, where.stage, moved)
    operation = np.where(summed, program.operation, operation).astype(np.int32)
    tie = program.tie.copy()
    first, second = program.pairs
    tie[second[gone[first]]] = False
    kept = np.flatnonzero(~gone)
    counts = np.bincount(program.rank[kept], minlength=program.ranks)
    return replace(
        program,
        placement=placement,
        start=np.concatenate([[0], np.cumsum(counts)]),
        operation=operation[kept],
        tie=tie[kept],
        **{
            name: getattr(program, name)[kept]
            for name in ("kind", "peer", "nowait", "part", "origin")
        },
    )


# --- memory ---------------------------------------------------------------------------------------

AMOUNTS = st.fractions(0, 4, max_denominator=4)


@ANY
@given(drawings(), STYLES, AMOUNTS, AMOUNTS, AMOUNTS)
def test_the_peak_is_that_of_a_slow_recount(
    drawing: Drawing, style: int, activation: Fraction, stash: Fraction, state: Fraction
) -> None:
    """Unit by unit from the drawing: F keeps an activation, B a stash instead, W or BW nothing."""
    program = compiled(write(drawing, random.Random(style)), len(drawing.streams))
    sizes = {"activation": activation, "stash": stash, "state": state}
    certificate = verify(program, Costs(), Memory(sizes))
    assume(certificate.report)
    assert certificate.report
    change = {"F": activation, "B": stash - activation, "W": -stash, "BW": -activation}
    for rank, row in enumerate(certificate.report.ranks):
        stages = {s for flow in drawing.flows for s in range(flow.stages) if flow.ranks[s] == rank}
        held = peak = state * len(stages)
        for unit in drawing.streams[rank]:
            changes = [change[one.kind] for one in unit]
            held += sum(amount for amount in changes if amount > 0)
            peak = max(peak, held)
            held += sum(amount for amount in changes if amount < 0)
            if not drawing.flows[unit[0].flow].backward:
                held -= activation
        assert row.peak_memory == float(peak)


def test_the_programs_were_of_all_sorts() -> None:
    """The tests above saw programs certified, stuck and corrupt, and topologies that differ."""
    assert {"runs: certified", "runs: deadlock"} <= set(seen)
    assert any("corruption" in what for what in seen)
    assert len([what for what in seen if what.startswith("queues")]) >= 3
