"""Where messages take time, RECVs stand ahead: never longer, still one sequence, figures."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipec.compiler import Settings, build, certify, layers_of
from pipec.findings import PipecError
from pipec.language import read
from pipec.library import find, names, only_schedule
from pipec.lower.ahead import ahead
from pipec.lower.lower import lower
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.graph import TOPOLOGIES, Channels
from pipec.program.listing import listing
from pipec.program.memory import Limit, Memory
from pipec.program.program import Order
from pipec.source import Source
from pipec.verify.certificate import Certificate, verify

TIMES = st.sampled_from(("0", "0.6", "1", "1.3", "2.1"))
SENDS = st.sampled_from(("0", "0.01", "0.3", "1.5"))
CHANNELS = [Channels(topology) for topology in TOPOLOGIES] + [Channels("pair", 1)]


def ordered(name: str, ranks: int, microbatches: int, costs: Costs) -> Order:
    source = find(name)
    sizes = {"P": ranks, "M": microbatches}
    schedule = bind(only_schedule(read(source), source), sizes, source)
    return arrange(replace(schedule, costs=costs), 10**6)


def nodes(ranks: int, size: int, near: str, far: str) -> list[list[str]]:
    """The costs of messages within nodes of so many ranks, and between them."""
    return [
        [near if one // size == other // size else far for other in range(ranks)]
        for one in range(ranks)
    ]


@st.composite
def stated(draw: Any, ranks: int) -> Costs:
    costs = {key: draw(TIMES) for key in ("F", "B", "W")}
    pair = draw(st.sampled_from((None, None, "serial", "2.5")))
    costs |= {"F&B": pair} if pair else {}
    near, far, size = draw(SENDS), draw(SENDS), draw(st.integers(1, ranks))
    return Costs.of({**costs, "send": nodes(ranks, size, near, far), "sum": draw(SENDS)})


def makespan(certificate: Certificate) -> float:
    assert certificate.ok and certificate.report
    return certificate.report.makespan


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(names()), st.integers(2, 5), st.integers(1, 3))
def test_it_takes_no_longer_and_is_safe(
    data: st.DataObject, name: str, ranks: int, rounds: int
) -> None:
    """Any schedule, costs and channels: no longer than before, safe under all channels with 0
    credits, the same compute in the same sequence; and the witness decides nothing.
    """
    costs = data.draw(stated(ranks))
    try:
        order = ordered(name, ranks, rounds * ranks, costs)
    except PipecError:
        assume(False)
    channels = data.draw(st.sampled_from(CHANNELS))
    plain = lower(order, costs)
    program = ahead(order, plain, costs, Memory(), channels)
    before = verify(plain, costs, Memory(), channels)
    after = verify(program, costs, Memory(), channels)
    assert makespan(after) <= makespan(before)
    assert all(verdict.safe for verdict in after.safety.values())
    rows, others = program.compute, plain.compute
    for column in ("kind", "operation", "tie", "origin", "rank"):
        assert np.array_equal(getattr(program, column)[rows], getattr(plain, column)[others])
    alone = verify(replace(program, witness=None), costs, Memory(), channels)
    assert replace(alone, used=None) == replace(after, used=None)


@pytest.mark.parametrize("name", ["1f1b", "dualpipe", "zbv"])
@pytest.mark.parametrize("costs", [{}, {"B": "1.7", "sum": "0.5"}, {"send": 0}], ids=str)
def test_nothing_changes_where_messages_take_no_time(name: str, costs: dict[str, Any]) -> None:
    """It is the same table, not an equal one."""
    order, known = ordered(name, 4, 8, Costs.of(costs)), Costs.of(costs)
    plain = lower(order, known)
    assert ahead(order, plain, known, Memory(), Channels()) is plain


def test_a_listing_before_and_after() -> None:
    """A RECV stands before the compute that runs while its message is made."""
    costs = Costs.of({"send": "0.5"})
    order = ordered("forward", 2, 3, costs)
    plain = lower(order, costs)
    program = ahead(order, plain, costs, Memory(), Channels())
    assert rank_of(listing(plain), 1) == ["RECV", "F", "RECV", "F", "RECV", "F"]
    assert rank_of(listing(program), 1) == ["RECV", "RECV", "F", "RECV", "F", "F"]
    assert rank_of(listing(program), 0) == rank_of(listing(plain), 0)


def rank_of(text: str, rank: int) -> list[str]:
    """What the instructions of a rank are."""
    (lines,) = (part for part in text.split("\n\n") if part.startswith(f"rank {rank}:"))
    return [line.split()[0] for line in lines.splitlines()[1:]]


def test_a_memory_limit_is_kept() -> None:
    """Buffers of messages that come early count: what was within its limit still is."""
    costs = Costs.of({"send": "0.3"})
    sizes = Memory.of({"activation": 1, "message": 1})
    order = ordered("zbv", 4, 8, costs)
    plain = lower(order, costs)
    peaks, ends = [], []
    for program in (plain, ahead(order, plain, costs, sizes, Channels())):
        certificate = verify(program, costs, sizes)
        assert certificate.report
        peaks.append(certificate.report.peak_memory)
        ends.append(makespan(certificate))
    assert ends[1] < ends[0] and peaks[1] > peaks[0]
    tight = replace(sizes, limit=Limit.of(Fraction(peaks[0])))
    program = ahead(order, plain, costs, tight, Channels())
    assert makespan(verify(program, costs, tight)) <= ends[0]


LAYER = "2 x attention dispatch mlp combine"


@pytest.mark.parametrize("topology", ["pair", "rank"])
def test_opened_chunks_are_no_exception(topology: Any) -> None:
    """Parts and all-to-alls keep their sequence, and the program is shorter, and safe."""
    stated = {"send": "0.3", "dispatch": "0.2", "combine": "0.2"}
    wanted = Settings(Costs.of(stated), channels=Channels(topology), layers=layers_of(LAYER))
    program = build("zbv", {"P": 4, "M": 8}, wanted).program
    # under tagged channels a program is left as `lower` made it
    plain = build("zbv", {"P": 4, "M": 8}, replace(wanted, channels=Channels("tagged"))).program
    after, before = (
        verify(one, wanted.costs, Memory(), wanted.channels) for one in (program, plain)
    )
    assert makespan(after) < makespan(before)
    assert all(verdict.safe for verdict in after.safety.values())
    own, others = (~np.isin(one.kind, (Kind.SEND, Kind.RECV)) for one in (program, plain))
    for column in ("kind", "operation", "part", "rank"):
        assert np.array_equal(getattr(program, column)[own], getattr(plain, column)[others])


FIGURES = [
    ("zb1p", "pair", 90.95, 82.5),
    ("zb1p", "rank", 92.3, 82.5),
    ("interleaved", "pair", 192.9, 168.6),
    ("1f1b", "pair", 110.8, 103.6),
]


@pytest.mark.parametrize(("name", "topology", "before", "after"), FIGURES)
def test_figures(name: str, topology: Any, before: float, after: float) -> None:
    """P = 8, M = 24 on nodes of 4: a message takes 0.05 within a node and 0.4 between two."""
    costs = Costs.of({"send": nodes(8, 4, "0.05", "0.4")})
    wanted = Settings(costs, channels=Channels(topology))
    plain = lower(ordered(name, 8, 24, costs), costs)
    assert makespan(verify(plain, costs, Memory(), Channels(topology))) == before
    found = certify(build(name, {"P": 8, "M": 24}, wanted), wanted)
    assert makespan(found) == after


CIRCLE = """
schedule circle(P, M):
    flow main(stages=P, microbatches=M): rank = stage
    on rank r:
        if r == 0:
            repeat M:  F  BW
        else:
            repeat M:  F
            repeat M:  BW
"""


def test_an_impossible_order_is_left_alone() -> None:
    """Of a circle in the order nothing ends: it is shown as `lower` made it."""
    source, costs = Source("circle.pipe", CIRCLE), Costs.of({"send": 1})
    schedule = bind(only_schedule(read(source), source), {"P": 2, "M": 3}, source)
    order = arrange(replace(schedule, costs=costs), 10**6)
    plain = lower(order, costs)
    assert ahead(order, plain, costs, Memory(), Channels()) is plain
