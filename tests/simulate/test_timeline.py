"""When things happen, against a plain event loop; and what costs mean."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipec.compiler import Settings, build, certify
from pipec.findings import PipecError
from pipec.program.costs import PAIR, Costs, durations
from pipec.program.effects import COMPUTE, Kind
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.simulate.report import report
from pipec.simulate.timeline import Timeline, simulate
from pipec.simulate.usage import usage

CASES = [
    ("1f1b", 3, 4),
    ("zb1p", 3, 5),
    ("interleaved", 2, 4),
    ("zbv", 2, 4),
    ("dualpipe", 4, 8),
    ("dualpipev", 2, 5),
    ("forward", 3, 4),
]
TIMES = st.fractions(0, 5, max_denominator=6)


def timeline(program: Program, costs: Costs, channels: Channels) -> Timeline:
    graph = event_graph(program, Links(program), channels, whole_pairs=not costs.serial)
    return simulate(graph, durations(program, costs)).timeline


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    """Any times, in part per stage, with the pair stated, left out or serial; messages as they
    like, also between some pairs of ranks.
    """
    per_stage = st.lists(TIMES, min_size=1, max_size=4).map(tuple)
    times: dict[str, Any] = {
        key: draw(TIMES | per_stage) for key in ("F", "B", "W") if draw(st.booleans())
    }
    times |= {key: draw(TIMES) for key in ("BW", "sum") if draw(st.booleans())}
    times |= {"send": draw(TIMES | per_stage)} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        times[PAIR] = draw(TIMES)
    serial = PAIR not in times and draw(st.booleans())
    between = st.tuples(st.integers(0, 4), st.integers(0, 4))
    return Costs(times, serial, draw(st.dictionaries(between, TIMES, max_size=6)))


def slowly(program: Program, costs: Costs, channels: Channels) -> dict[int, Fraction]:
    """The end of each compute row: rows end one by one as soon as all they wait for has ended."""
    ends: dict[int, Fraction] = {}
    links = Links(program)
    partner = dict(zip(links.messages.first.tolist(), links.messages.second.tolist(), strict=True))
    partner |= dict(zip(links.sums.first.tolist(), links.sums.second.tolist(), strict=True))
    partner |= {other: one for one, other in partner.items()}
    while len(ends) < len(program):
        before = len(ends)
        for row in range(len(program)):
            if row not in ends:
                _try(program, costs, channels, partner, row, ends)
        assert len(ends) > before, "stuck"
    return ends


def _try(
    program: Program,
    costs: Costs,
    channels: Channels,
    partner: dict[int, int],
    row: int,
    ends: dict[int, Fraction],
) -> None:
    """Let a row end if it can: compute (or a pair of it), or both ends of a message or sum."""
    if not COMPUTE[program.kind[row]]:
        both = (row, partner[row])
        waits = [one for end in both for one in _posted(program, channels, end)]
        if all(one in ends for one in waits):
            time = _on_the_wire(program, costs, row)
            ends[both[0]] = ends[both[1]] = max((ends[one] for one in waits), default=0) + time
        return
    if program.tie[row]:
        first = _before(program, row)
        assert first is not None
        if not costs.serial:
            if first in ends:
                ends[row] = ends[first]
            return
    waits = [one for one in (_before(program, row), _arrival(program, row)) if one is not None]
    second = _tied(program, row)
    if second is not None and not costs.serial:
        waits += [one for one in (_arrival(program, second),) if one is not None]
    if all(one in ends for one in waits):
        latest = max((ends[one] for one in waits), default=Fraction(0))
        ends[row] = latest + _time(program, costs, row, second)


def _on_the_wire(program: Program, costs: Costs, row: int) -> Fraction:
    """The time of a sum, or of a message: that of its two ranks goes before that of its stage."""
    one, rank = program.instruction(row), program.place(row)[0]
    if one.kind is Kind.SUM:
        return costs.time("sum", one.stage)
    assert one.peer is not None
    pair = (rank, one.peer) if one.kind is Kind.SEND else (one.peer, rank)
    return costs.pairs.get(pair, costs.time("send", one.stage))


def _time(program: Program, costs: Costs, row: int, second: int | None) -> Fraction:
    one = program.instruction(row)
    time = costs.time(one.kind.name, one.stage)
    if second is None or costs.serial:
        return time
    other = program.instruction(second)
    if PAIR in costs.times:
        return costs.time(PAIR, one.stage if one.kind is Kind.F else other.stage)
    return time + costs.time(other.kind.name, other.stage)


def _before(program: Program, row: int) -> int | None:
    """The last compute row before a row on its rank."""
    begin = int(program.start[program.rank[row]])
    rows = [one for one in range(begin, row) if COMPUTE[program.kind[one]]]
    return rows[-1] if rows else None


def _tied(program: Program, row: int) -> int | None:
    """The second half of the pair that begins with this row."""
    end = int(program.start[int(program.rank[row]) + 1])
    rows = [one for one in range(row + 1, end) if COMPUTE[program.kind[one]]]
    return rows[0] if rows and program.tie[rows[0]] else None


def _arrival(program: Program, row: int) -> int | None:
    if program.kind[row] == Kind.W:
        return None
    begin = int(program.start[program.rank[row]])
    for one in range(begin, row):
        if program.kind[one] == Kind.RECV and program.operation[one] == program.operation[row]:
            return one
    return None


def _posted(program: Program, channels: Channels, row: int) -> list[int]:
    """What must have ended before one end of a message or sum is at the head of its queue."""
    begin = int(program.start[program.rank[row]])
    unit = _before(program, row)
    same = [
        one
        for one in range(begin, row)
        if not COMPUTE[program.kind[one]]
        and _queue(program, channels, one) == _queue(program, channels, row)
    ]
    return [one for one in (unit, same[-1] if same else None) if one is not None]


def _queue(program: Program, channels: Channels, row: int) -> tuple[int, ...]:
    kind, peer = Kind(program.kind[row]), int(program.peer[row])
    if kind is Kind.SUM:
        return (-1,)
    return {"rank": (0,), "pair": (1, peer), "directed": (2, peer, int(kind))}[channels.topology]


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    case=st.sampled_from(CASES),
    costs=costs(),
    topology=st.sampled_from(("rank", "pair", "directed")),
)
def test_ends_equal_a_plain_event_loop(
    case: tuple[str, int, int], costs: Costs, topology: Any
) -> None:
    """Every instruction ends exactly when a loop over dictionaries of fractions says."""
    name, ranks, microbatches = case
    program = build(name, {"P": ranks, "M": microbatches}).program
    channels = Channels(topology)
    time = timeline(program, costs, channels)
    expected = slowly(program, costs, channels)
    for row in range(len(program)):
        assert Fraction(int(time.end[row]), time.scale) == expected[row], row


@settings(deadline=None, max_examples=40)
@given(case=st.sampled_from(CASES), costs=costs())
def test_reports_add_up(case: tuple[str, int, int], costs: Costs) -> None:
    """Busy and bubble make the makespan, and the span bubble is no larger than the bubble."""
    name, ranks, microbatches = case
    program = build(name, {"P": ranks, "M": microbatches}).program
    time = timeline(program, costs, Channels())
    summed = report(time, usage(Memory(), time))
    assert summed.makespan == time.units(int(time.end[program.compute].max()))
    for rank in summed.ranks:
        assert rank.busy + rank.bubble == pytest.approx(summed.makespan)
        assert -1e-9 <= rank.span_bubble <= rank.bubble + 1e-9
    assert 0 <= summed.span_bubble_rate <= summed.bubble_rate <= 1


def test_more_queues_and_credits_are_never_later() -> None:
    """rank, pair, directed: what waits in fewer queues ends no later; nor does more credit."""
    for name, ranks, microbatches in CASES:
        program = build(name, {"P": ranks, "M": microbatches}).program
        costs = Costs.of({"B": "1.3", "send": "0.4"})
        models = [Channels("rank"), Channels("pair"), Channels("directed")]
        models += [Channels("directed", 1), Channels("directed", 5)]
        rows = program.compute
        ends = [timeline(program, costs, model).end[rows] for model in models]
        for later, sooner in pairwise(ends):
            assert (sooner <= later).all()


def test_measured_times_keep_six_digits() -> None:
    """Seconds, milliseconds or nanoseconds: the unit does not matter to the bubble."""
    rates = set()
    for unit in (1, 10**-3, 10**-6, 10**6):
        times = {key: repr(time * unit) for key, time in (("F", 1.23456789), ("B", 2.3456789))}
        compiled = build("1f1b", {"P": 4, "M": 8}, Settings(Costs.of({**times, "W": 0})))
        certificate = certify(compiled, Settings())
        assert certificate.report is not None
        rates.add(round(certificate.report.bubble_rate, 5))
        makespan = float(certificate.report.makespan) / unit
        assert makespan == pytest.approx(11 * (1.23456789 + 2.3456789), rel=1e-5)
    assert len(rates) == 1


def test_costs_that_no_clock_can_count() -> None:
    """Times too far apart for 63 bits are an error with a hint, and no overflow."""
    program = build("1f1b", {"P": 8, "M": 500}).program
    for forward in (10**12, 10**18, 10**29):
        costs = Costs({"F": Fraction(forward), "B": Fraction(1, 999983)})
        with pytest.raises(PipecError) as caught:
            timeline(program, costs, Channels())
        assert caught.value.findings[0].hint == "state fewer digits"


@pytest.mark.parametrize(
    "value", ["-1", "1.", "one", "1e400", "1/0", "", "True", "0x1", "1 2", "٣"]
)
def test_values_that_are_no_times(value: str) -> None:
    """Refused with what would be one."""
    with pytest.raises(PipecError) as caught:
        Costs.of({"F": value})
    assert "a number of 0 or more" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("0", Fraction(0)),
        ("1.50", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("1/3", Fraction(1, 3)),
        ("2e-3", Fraction(1, 500)),
        (0.1, Fraction(1, 10)),
        (1e-05, Fraction(1, 10**5)),
        ("1" + "0" * 12, Fraction(10**12)),
        (1 / 3, Fraction(3333333333333333, 10**16)),
    ],
)
def test_values_that_are_times(value: Any, time: Fraction) -> None:
    """Read exactly as they are written."""
    assert Costs.of({"F": value}).times["F"] == time


def test_one_cost_over_another() -> None:
    """What is stated later wins; `serial` and a time for the pair exclude each other."""
    base = Costs.of({"F": 1, "F&B": 3})
    serial = base.override(Costs.of({"B": 2, "F&B": "serial"}))
    assert serial.serial and PAIR not in serial.times and serial.times["B"] == 2
    again = serial.override(Costs.of({"F&BW": 4}))
    assert not again.serial and again.times[PAIR] == 4 and again.times["F"] == 1
    assert base.override(Costs()) == base
