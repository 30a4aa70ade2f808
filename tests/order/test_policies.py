"""Orders that the compiler makes itself: policies and building blocks."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.compiler import Settings, build, certify
from pipec.language import read
from pipec.library import only_schedule
from pipec.lower.lower import lower
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.graph import Channels
from pipec.program.listing import listing
from pipec.program.memory import Limit, Memory
from pipec.program.program import Order
from pipec.simulate.report import Report
from pipec.source import Source
from pipec.verify.certificate import verify

LINE = "flow main(stages=P, microbatches=M): rank = stage"
V = "flow main(stages=2 * P, microbatches=M): rank = min(stage, 2 * P - 1 - stage)"
TWO = (
    "flow down(stages=P, microbatches=M): rank = stage\n"
    "    flow up(stages=P, microbatches=M): rank = P - 1 - stage"
)
UNEQUAL = Costs.of({"F": 1, "B": "1.2", "W": "0.8", "send": "0.05"})


def text(flow: str, head: str, *lines: str) -> str:
    """A schedule with one block."""
    inner = "".join(f"\n        {line}" for line in lines)
    return f"schedule s(P, M):\n    {flow}\n    {head} on rank r:{inner}\n"


def order(source: str, costs: Costs | None = None, **sizes: int) -> Order:
    """The order of a text."""
    held = Source("s.pipe", source)
    schedule = bind(only_schedule(read(held), held), sizes, held)
    if costs:
        schedule = type(schedule)(**{**schedule.__dict__, "costs": costs})
    return arrange(schedule)


def report(source: str, tmp_path, costs: Costs | None = None, **sizes: int) -> Report:
    """The figures of a text under tagged channels, which the candidates are compared by."""
    path = tmp_path / "s.pipe"
    path.write_text(source)
    settings = Settings(costs, channels=Channels("tagged"))
    certificate = certify(build(str(path), sizes, settings), settings)
    assert certificate.ok and certificate.report
    return certificate.report


def written(made: Order, rank: int) -> str:
    """`F0 F1 B0 W0`: the operations of a rank."""
    return " ".join(f"{op.kind.name}{op.microbatch}" for op in made[rank])


def test_1f1b_as_a_policy() -> None:
    """Backward first under a limit of what is in flight is 1F1B, operation by operation."""
    policy = text(LINE, "greedy", "prefer BW > F", "limit F - BW <= P - r")
    made = order(policy, P=4, M=8)
    assert all(written(made, rank) == _computed("1f1b", rank) for rank in range(4))


def test_a_policy_over_slices() -> None:
    """The backward of a sequence is ready when all of it is, and begins with the last slice."""
    flow = LINE.replace("=M", "=3 * M, slices=3")
    made = order(text(flow, "greedy", "prefer BW > F"), P=1, M=2)
    assert written(made, 0) == "F0 F1 F2 BW2 BW1 BW0 F3 F4 F5 BW5 BW4 BW3"
    made = order(text(flow, "greedy", "prefer F > B > W", "limit F - B <= 4"), P=1, M=2)
    assert written(made, 0) == "F0 F1 F2 F3 B2 F4 B1 F5 B0 B5 B4 B3 W2 W1 W0 W5 W4 W3"


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 4), st.booleans())
def test_policies_over_slices(
    ranks: int, sequences: int, slices: int, room: int, fused: bool
) -> None:
    """Whatever is preferred within a limit: sequences are whole, in chunks too, and certified."""
    flow = V.replace("=M", f"={slices} * M, slices={slices}")
    back = "BW" if fused else "B > W"
    limit = f"limit F - {'BW' if fused else 'W'} <= 2 * (P + {slices + room})"
    made = order(text(flow, "greedy", f"prefer {back} > F", limit), P=ranks, M=sequences)
    assert verify(lower(made, UNEQUAL), UNEQUAL, Memory()).ok


def _computed(name: str, rank: int) -> str:
    rows = build(name, {"P": 4, "M": 8}).program[rank]
    return " ".join(f"{op.kind.name}{op.microbatch}" for op in rows if op.peer is None)


def test_the_first_preference_wins() -> None:
    """A chunk that is named first goes first, wherever both are ready."""
    first = order(text(V, "greedy", "prefer F[1] > F[0] > BW"), P=1, M=3)
    second = order(text(V, "greedy", "prefer F[0] > F[1] > BW"), P=1, M=3)
    assert [op.stage for op in first[0][:4]] == [0, 1, 0, 1]
    assert [op.stage for op in second[0][:4]] == [0, 0, 0, 1]


def test_each_stage_is_split_or_fused() -> None:
    """One chunk may run B and W while the other runs BW."""
    made = order(text(V, "greedy", "prefer BW[1] > B[0] > F > W"), P=2, M=4)
    kinds = {(op.kind, op.stage >= 2) for stream in made for op in stream}
    assert kinds == {
        (Kind.F, False),
        (Kind.F, True),
        (Kind.B, False),
        (Kind.W, False),
        (Kind.BW, True),
    }


def test_limits_hold_on_every_prefix() -> None:
    """However a limit is written, what it counts never exceeds its value."""
    policy = text(V, "greedy", "prefer F > B > W", "limit 2 * F[0] + F[1] - 3 * W + 1 <= 9 + r")
    for stream in order(policy, UNEQUAL, P=3, M=7):
        rank, value = stream[0].stage, 1
        for op in stream:
            chunk = int(op.stage >= 3)
            value += {Kind.F: 2 - chunk, Kind.W: -3}.get(op.kind, 0)
            assert value <= 9 + rank


def test_limits_name_flows() -> None:
    """A limit of one flow leaves the other alone."""
    policy = text(TWO, "greedy", "prefer F > BW", "limit F[down] - BW[down] <= 1")
    held: dict[str, int] = {}
    most: dict[str, int] = {}
    for op in order(policy, P=2, M=6)[0]:
        held[op.flow] = held.get(op.flow, 0) + (1 if op.kind is Kind.F else -1)
        most[op.flow] = max(most.get(op.flow, 0), held[op.flow])
    assert most["down"] == 1 < most["up"]


def test_memory_is_a_limit(tmp_path) -> None:
    """`limit memory` in a policy counts what `memory` says, and the state of a stage."""
    amounts = f"{LINE}\n    memory F = 1, B = -0.5, state = 2"
    policy = text(amounts, "greedy", "prefer F > B > W", "limit memory <= 4 + 1/2")
    found = report(policy, tmp_path, P=4, M=8)
    assert found.peak_memory == 4.5


def test_the_limit_of_the_command_line_is_a_limit(tmp_path) -> None:
    """`--memory-limit` makes a policy slower, where it would make a program fail."""
    path = tmp_path / "s.pipe"
    path.write_text(text(LINE, "greedy", "prefer F > B > W"))
    for limit in (2, 5):
        settings = Settings(memory=Memory(limit=Limit(Fraction(limit))))
        certificate = certify(build(str(path), {"P": 4, "M": 8}, settings), settings)
        assert certificate.ok and certificate.report.peak_memory <= limit


@pytest.mark.parametrize("ranks", range(1, 7))
@pytest.mark.parametrize("most", ["2", "P", "2 * P"])
def test_room_keeps_chunks_from_getting_stuck(ranks: int, most: str) -> None:
    """A limit over several chunks gets stuck at no size, as long as one microbatch fits."""
    policy = text(V, "greedy", "prefer B > F > W", f"limit F - W <= max(2, {most})")
    for count in (1, 2, 5, 2 * ranks):
        order(policy, UNEQUAL, P=ranks, M=count)


def test_costs_can_be_anything() -> None:
    """Times of 0, and times that differ per stage, make whole orders."""
    policy = text(LINE, "greedy", "prefer F > B > W", "limit F - W <= P")
    for costs in ({"F": 0, "B": 0, "W": 0}, {"F": [3, 1, 2], "send": 1}, {"W": 0}):
        order(policy, Costs.of(costs), P=3, M=5)


def test_inference_as_a_policy() -> None:
    """Without a backward, a policy has only forwards to order."""
    inference = LINE.replace("=M)", "=M, backward=false)")
    made = order(text(inference, "greedy", "prefer F"), P=3, M=4)
    assert written(made, 2) == "F0 F1 F2 F3"


GREEDY = (LINE, "greedy", "prefer F > B > W", "limit F - B <= P - r", "limit F - W <= P")
HALF = (
    V,
    "every 6",
    "let turn = 3 * P + (2 if P % 2 == 0 else -1)",
    "F[0] at 2 * r",
    "F[1] at 3 * P - 2 - r",
    "B[1] at turn + 2 * r",
    "B[0] at turn + 3 * P - 1 - r",
)


def test_orders_are_the_same_every_time() -> None:
    """Two compilations give one order."""
    for block in (GREEDY, HALF):
        first, second = (order(text(*block), UNEQUAL, P=5, M=9) for _ in range(2))
        assert first.same(second)


def test_the_shortest_candidate_is_kept(tmp_path) -> None:
    """At the costs that it was made for an order is never longer than the one for unit costs."""
    for block in (GREEDY, HALF):
        path = tmp_path / "unit.listing"
        for ranks, count in ((2, 5), (4, 8), (5, 12)):
            own = report(text(*block), tmp_path, UNEQUAL, P=ranks, M=count).makespan
            path.write_text(_listing(text(*block), ranks, count))
            settings = Settings(UNEQUAL, channels=Channels("tagged"))
            unit = certify(build(str(path), {}, settings), settings).report
            assert unit and own <= unit.makespan


def _listing(source: str, ranks: int, count: int) -> str:
    return listing(lower(order(source, P=ranks, M=count), Costs()))


def test_blocks_repeat_in_their_slots() -> None:
    """In the steady state a rank does what the slots say, and W takes what they leave."""
    made = order(text(LINE, "every 3", "F at r", "B at r + 1"), P=1, M=4)
    assert written(made, 0) == "F0 B0 W0 F1 B1 W1 F2 B2 W2 F3 B3 W3"


def test_w_may_have_a_slot() -> None:
    """A W that is mentioned keeps its slot, and BW needs none."""
    late = order(text(LINE, "every 3", "F at 0", "B at 1", "W at 5"), P=1, M=3)
    assert written(late, 0).split().index("W0") >= 2
    fused = order(text(LINE, "every 2", "F at 2 * r", "BW at 4 * P - 2 * r - 1"), P=2, M=3)
    assert {op.kind for op in fused[0]} == {Kind.F, Kind.BW}


@pytest.mark.parametrize("ranks", range(1, 9))
def test_nothing_exceeds_the_peak_of_the_repetition(ranks: int, tmp_path) -> None:
    """V-Half holds about half of what 1F1B does, whatever the costs, at every size."""
    for count in (1, 3, 2 * ranks, 3 * ranks + 1):
        for costs in (None, UNEQUAL):
            found = report(text(*HALF), tmp_path, costs, P=ranks, M=count)
            assert found.peak_memory <= 2 * (ranks // 2 + 1)
