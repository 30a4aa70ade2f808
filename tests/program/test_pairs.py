"""What messages cost between two ranks: a matrix, a table, a text, and everywhere the same."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipec
from pipec.compiler import Settings, build
from pipec.findings import PipecError
from pipec.language import read
from pipec.library import only_schedule
from pipec.lower.lower import lower
from pipec.order.greedy import Refusal, decide
from pipec.order.lines import clock, makespan, order_of
from pipec.order.policy import stated_policy
from pipec.order.schedule import bind
from pipec.program.costs import Costs, durations
from pipec.program.effects import Kind
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.program.plan import load_plan
from pipec.program.program import Origins
from pipec.simulate.timeline import simulate
from pipec.source import Source

TEXT = """schedule nodes(P, M, N=2):
    flow main(stages=2 * P, microbatches=M): rank = stage % P
    cost send = 0.05 if rank // N == peer // N else 0.4
    greedy on rank r:
        prefer B > F > W
        limit F - B <= 3 * P
"""
TIMES = st.fractions(0, 3, max_denominator=20)


def matrix(ranks: int, node: int) -> list[list[str]]:
    """What the text says, as a matrix."""
    return [
        ["0.05" if one // node == other // node else "0.4" for other in range(ranks)]
        for one in range(ranks)
    ]


def test_a_text_a_matrix_and_a_table_say_the_same(tmp_path: Path) -> None:
    """Whatever form costs have, the program and its times are the same."""
    (tmp_path / "nodes.pipe").write_text(TEXT)
    plain = TEXT.replace("    cost send = 0.05 if rank // N == peer // N else 0.4\n", "")
    (tmp_path / "plain.pipe").write_text(plain)
    table = {"0<->1": 0.05, "2 <-> 3": "0.05", "rest": 0.4}
    said = pipec.compile(tmp_path / "nodes.pipe", P=4, M=6)
    for stated in (matrix(4, 2), table):
        given = pipec.compile(tmp_path / "plain.pipe", P=4, M=6, costs=Costs.of({"send": stated}))
        assert given.program.same(said.program)
        assert given.certificate["makespan"] == said.certificate["makespan"]
    assert "send=0.05 to 0.4 by pair" in said.certificate["costs"]


def test_one_node_is_one_number(tmp_path: Path) -> None:
    """Where all pairs cost the same, it is an ordinary cost."""
    (tmp_path / "nodes.pipe").write_text(TEXT)
    assert build(str(tmp_path / "nodes.pipe"), {"P": 2, "M": 3}).costs == Costs.of({"send": "0.05"})


def test_costs_of_the_caller_go_over_those_of_the_text(tmp_path: Path) -> None:
    """One number takes the place of all pairs, and pairs that of a number."""
    (tmp_path / "nodes.pipe").write_text(TEXT)
    settings = Settings(Costs.of({"send": 1}))
    assert build(str(tmp_path / "nodes.pipe"), {"P": 4, "M": 2}, settings).costs.pairs == {}
    paired = Costs.of({"send": [[0, 2], [3, 0]]})
    over = Costs.of({"send": 1, "F": 2}).override(paired)
    assert over == Costs({"F": Fraction(2)}, pairs={(0, 1): Fraction(2), (1, 0): Fraction(3)})
    assert paired.override(Costs.of({"B": 1})).pairs == paired.pairs


@pytest.mark.parametrize("name", ["1f1b", "zbv", "dualpipe"])
def test_every_message_has_the_time_of_its_two_ranks(name: str) -> None:
    """Row by row, on both sides; what is not named costs `send`."""
    costs = Costs.of({"send": {"0->1": 1, "1->0": "1/7", "2->3": 3, "9->1": 4, "rest": "0.5"}})
    program = build(name, {"P": 4, "M": 8}).program
    time = durations(program, costs)
    for row in range(len(program)):
        one, rank = program.instruction(row), program.place(row)[0]
        if one.kind in (Kind.SEND, Kind.RECV):
            assert one.peer is not None
            pair = (rank, one.peer) if one.kind is Kind.SEND else (one.peer, rank)
            assert Fraction(int(time.ticks[row]), time.scale) == costs.message(*pair)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.tuples(*[st.integers(0, 3)] * 2), TIMES, max_size=9), TIMES)
def test_policies_see_the_times_that_the_certificate_sees(pairs: Any, send: Fraction) -> None:
    """The makespan of lines is that of the lowered program, where messages do not queue."""
    source = Source("nodes.pipe", TEXT)
    schedule = bind(only_schedule(read(source), source), {"P": 4, "M": 3}, source)
    costs = Costs({"send": send}, pairs=pairs)
    policy = stated_policy(schedule).policy
    times = clock(policy.lines, costs)
    sequence = decide(policy, times, {})
    assert not isinstance(sequence, Refusal)
    program = lower(order_of(policy.lines, sequence, Origins()), costs)
    graph = event_graph(program, Links(program), Channels("tagged"))
    end = simulate(graph, durations(program, costs)).timeline.end
    assert int(end.max()) == makespan(policy.lines, times, sequence)


def test_plans_keep_them(tmp_path: Path) -> None:
    """A plan that was saved has the costs of every pair, and the unit."""
    (tmp_path / "nodes.pipe").write_text(TEXT)
    stated = replace(Costs.of({"send": matrix(4, 2)}), unit="ms")
    plan = pipec.compile(tmp_path / "nodes.pipe", P=4, M=2, costs=stated)
    plan.save(tmp_path / "x.plan")
    again = load_plan(tmp_path / "x.plan")
    assert again.costs == stated and again.digest == plan.digest


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ([[0, 1], [1]], "no square matrix"),
        ([[0, 1], 1], "no square matrix"),
        ([[0, -1], [1, 0]], "not a number"),
        ({"0": 1}, "no pair of ranks"),
        ({"1->1": 1}, "no pair of ranks"),
        ({"0->1": 1, "0<->1": 2}, "given twice"),
        ({"0->1": "x"}, "not a number"),
    ],
)
def test_what_is_no_cost_of_pairs(stated: Any, message: str) -> None:
    """Each mistake is named, with what was expected and found."""
    with pytest.raises(PipecError) as raised:
        Costs.of({"send": stated})
    (finding,) = raised.value.findings
    assert message in finding.message and finding.expected and finding.found


def test_a_pair_without_a_cost_is_refused() -> None:
    """A matrix for fewer ranks, or a table without `rest`: nothing is guessed."""
    for stated, hint in (([[0, 1], [1, 0]], "know 2 ranks"), ({"0<->3": 1}, "rest")):
        with pytest.raises(PipecError) as raised:
            pipec.compile("1f1b", P=4, M=4, costs=Costs.of({"send": stated}))
        (finding,) = raised.value.findings
        assert "from rank" in finding.message and hint in str(finding.hint)
