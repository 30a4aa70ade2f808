"""What lowering promises: one global sequence, messages as soon as they exist, sums where due."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from pipec.compiler import Settings, build
from pipec.language import read
from pipec.library import find, names, only_schedule
from pipec.lower.forward_only import forward_only
from pipec.lower.lower import lower
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.program.costs import Costs
from pipec.program.effects import COMPUTE, Kind, Step
from pipec.program.graph import TOPOLOGIES, Channels
from pipec.program.links import Links
from pipec.program.listing import text
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.source import Source
from pipec.verify.certificate import verify

SIZES = [(1, 2), (2, 4), (3, 6), (4, 8), (4, 12), (5, 15), (8, 16)]
COSTS = [{}, {"F": "1", "B": "1.7", "W": "0.4", "F&B": "2"}, {"F": "3", "B": "0", "W": "0"}]
"""Which costs lowering is done with changes only where communication stands."""


ROUNDS = ("interleaved", "interleaved-overlap", "interleavedzb")


def legal(name: str, ranks: int, microbatches: int) -> bool:
    if name == "chimera":
        return ranks % 2 == 0 and microbatches % 2 == 0
    if name == "dualpipe":
        return ranks % 2 == 0 and microbatches % 2 == 0 and microbatches >= 2 * ranks
    if name in ("dualpipev", "zbv"):
        return microbatches >= 2 * ranks
    return name not in ROUNDS or microbatches % ranks == 0


CASES = [
    (name, *sizes, number % len(COSTS))
    for name in names()
    for number, sizes in enumerate(SIZES)
    if legal(name, *sizes)
]


@cache
def lowered(name: str, ranks: int, microbatches: int, costs: int) -> Program:
    settings = Settings(Costs.of(COSTS[costs]))
    return build(name, {"P": ranks, "M": microbatches}, settings).program


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def program(request: pytest.FixtureRequest) -> Program:
    return lowered(*request.param)


def test_compute_is_the_order(program: Program, request: pytest.FixtureRequest) -> None:
    """Lowering adds communication and changes nothing else: the compute rows are the order."""
    name, ranks, microbatches, costs = request.node.callspec.params["program"]
    source = find(name)
    sizes = {"P": ranks, "M": microbatches}
    schedule = bind(only_schedule(read(source), source), sizes, source)
    order = arrange(replace(schedule, costs=Costs.of(COSTS[costs])), 10**6)
    rows = program.compute
    for column in ("kind", "operation", "tie", "origin"):
        assert np.array_equal(getattr(program, column)[rows], getattr(order, column))
    assert np.array_equal(program.rank[rows], order.rank)


def test_what_crosses_ranks_is_sent_once_and_nothing_else(program: Program) -> None:
    """One SEND and one RECV for each value that another rank needs; none within a rank."""
    placement = program.placement
    wanted = set()
    for number, flow in enumerate(placement.flows):
        for stage, rank in enumerate(flow.ranks):
            for step, source in ((Step.FORWARD, stage - 1), (Step.BACKWARD, stage + 1)):
                if not 0 <= source < flow.stages or flow.ranks[source] == rank:
                    continue
                if step is Step.BACKWARD and not flow.backward:
                    continue
                wanted |= {
                    (int(placement.operation(number, step, stage, one)), flow.ranks[source], rank)
                    for one in range(flow.microbatches)
                }
    for kind in (Kind.SEND, Kind.RECV):
        rows = np.flatnonzero(program.kind == kind)
        here, there = program.rank[rows].tolist(), program.peer[rows].tolist()
        ends = (here, there) if kind is Kind.SEND else (there, here)
        found = list(zip(program.operation[rows].tolist(), *ends, strict=True))
        assert len(found) == len(set(found)) and set(found) == wanted


def test_every_stream_is_a_projection_of_one_sequence(program: Program) -> None:
    """Joining both ends of each message and sum into one event leaves no circle of places.

    That is what a projection of one global sequence means: there is an order of all events that
    every stream keeps.
    """
    links = Links(program)
    event = np.arange(len(program))
    for ends in (links.by_operation, links.sums):
        assert not len(ends.unmatched)
        event[ends.second] = ends.first
    sequence: nx.DiGraph[int] = nx.DiGraph()
    for rank in range(program.ranks):
        stream = event[program.start[rank] : program.start[rank + 1]].tolist()
        sequence.add_edges_from(pairwise(stream))
    assert nx.is_directed_acyclic_graph(sequence)


def test_receives_stand_in_the_order_of_sends(program: Program) -> None:
    """Per directed pair the i-th RECV is for the i-th SEND."""
    links = Links(program)
    ends = links.messages
    assert np.array_equal(program.operation[ends.first], program.operation[ends.second])


def test_it_is_certified_under_every_topology_by_rendezvous(program: Program) -> None:
    """Safe with 0 credits everywhere, whichever one the certificate is asked for."""
    for topology in TOPOLOGIES:
        certificate = verify(program, Costs(), Memory(), Channels(topology))
        assert certificate.ok
        assert all(verdict.safe for verdict in certificate.safety.values())


def test_a_message_leaves_as_soon_as_it_exists(program: Program) -> None:
    """Between a SEND and its producer there is no compute; also within an OVERLAP there is none.

    The forward's output of an OVERLAP is sent between the two halves of the pair, or behind the
    pair only if the forward is its second half.
    """
    made = np.full(program.placement.size, -1)
    made[program.operation[program.compute]] = program.compute
    for row in np.flatnonzero(program.kind == Kind.SEND).tolist():
        flow, step, stage, one = program.placement.split(program.operation[row])
        source = stage - 1 if step == Step.FORWARD else stage + 1
        producer = int(made[program.placement.operation(flow, step, source, one)])
        assert program.rank[producer] == program.rank[row]
        between = program.kind[producer + 1 : row]
        assert not COMPUTE[between].any(), text(program.instruction(row))


def test_sums_stand_where_a_stage_is_held_twice(program: Program) -> None:
    """One SUM on each of two holders, behind the last backward there; else no SUM at all."""
    copies = program.placement.copies
    rows = np.flatnonzero(program.kind == Kind.SUM).tolist()
    found = [(int(program.rank[row]), int(program.operation[row])) for row in rows]
    wanted = {
        (rank, stage) for stage, ranks in enumerate(copies) if len(ranks) == 2 for rank in ranks
    }
    assert len(found) == len(wanted) and set(found) == wanted
    for row, (rank, stage) in zip(rows, found, strict=True):
        (other,) = set(copies[stage]) - {rank}
        assert program.peer[row] == other
        later = range(row, int(program.start[rank + 1]))
        later_stages = {program.instruction(one).stage for one in later if program.peer[one] < 0}
        assert stage not in later_stages


def test_the_forward_part_is_certified_too(program: Program) -> None:
    """What is left for evaluation is a program by itself, safe wherever the whole one is."""
    part = forward_only(program)
    assert set(np.unique(part.kind).tolist()) <= {Kind.F, Kind.SEND, Kind.RECV}
    certificate = verify(part, Costs(), Memory())
    assert certificate.ok and all(verdict.safe for verdict in certificate.safety.values())


def test_overlapped_forwards_are_sent_between_the_halves() -> None:
    """In DualPipeV a forward's output leaves before the backward that it overlaps is issued."""
    program = lowered("dualpipev", 4, 12, 0)
    first, second = program.pairs
    between = [
        int(program.kind[one + 1 : other].tolist().count(Kind.SEND))
        for one, other in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert sum(between) > len(between) / 2


CIRCLE = """
schedule circle(P, M):
    require P == 2
    flow main(stages=P, microbatches=M): rank = stage
    on rank r:
        if r == 0:
            repeat M:  F  BW
        else:
            repeat M:  F
            repeat M:  BW
"""


def test_an_impossible_order_is_lowered_so_that_it_can_be_explained() -> None:
    """A circle in the order itself becomes a program whose only mistake is the deadlock."""
    source = Source("circle.pipe", CIRCLE)
    order = arrange(bind(only_schedule(read(source), source), {"P": 2, "M": 3}, source), 10**6)
    program = lower(order, Costs())
    certificate = verify(program, Costs(), Memory())
    assert [finding.code for finding in certificate.findings] == ["deadlock"]
    assert not any(verdict.safe for verdict in certificate.safety.values())
