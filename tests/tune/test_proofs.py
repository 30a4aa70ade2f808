"""Bounds are bounds and proofs are right: judged by going through all orders of small schedules."""

from fractions import Fraction

import numpy as np
import pytest
from brute import shortest

from pipec.program.costs import Costs
from pipec.program.memory import Memory
from pipec.program.placement import Flow, Placement
from pipec.tune import model
from pipec.tune.bounds import bounds, margins
from pipec.tune.orders import order_of
from pipec.tune.recipe import Recipe, Trial, tried
from pipec.tune.replay import Replay
from pipec.tune.setting import Setting
from pipec.tune.shop import Shop, shop_of
from pipec.tune.solver import available, solve

COSTS = ({"F": 1, "B": 1, "W": 1, "send": 0}, {"F": 1, "B": "1.2", "W": "0.8", "send": "0.05"})
LINEAR = {(ranks, count): list(range(ranks)) for ranks in (2, 3) for count in (2, 3, 4)}
FOLDED = {(2, count): [0, 1, 1, 0] for count in (2, 3)}
CASES = [
    (placed, count, most, costs)
    for (ranks, count), placed in [*LINEAR.items(), *FOLDED.items()]
    for most in ((1, 2, ranks, 2 * ranks) if len(placed) == ranks else (2, 3, 4))
    for costs in COSTS
    if costs is COSTS[1] or count == 3
]
CASES = [case for at, case in enumerate(CASES) if case not in CASES[:at]]


def shop(placed: list[int], count: int, costs: dict[str, object]) -> Shop:
    placement = Placement(max(placed) + 1, (Flow("main", count, tuple(placed)),))
    return shop_of(placement, Costs.of(costs), Memory())


def simple(one: Shop, replay: Replay) -> np.ndarray:
    """Each microbatch alone, one after the other: legal within any limit that is possible."""
    lines = one.lines.lines
    rows = []
    for own in one.on:
        forwards = [line for line in own if lines[line].kind == 0]
        turn = [*forwards, *(step for line in reversed(forwards) for step in (line + 1, line + 2))]
        rows.append(turn * lines[own[0]].total)
    return np.array(rows)


@pytest.mark.parametrize(("placed", "count", "most", "costs"), CASES)
def test_the_solver_is_right(
    placed: list[int], count: int, most: int, costs: dict[str, object]
) -> None:
    """What is proved optimal is what going through all orders finds; bounds are not above it."""
    times = {kind: Fraction(str(costs[kind])) for kind in "FBW"}
    least = shortest(placed, count, times, Fraction(str(costs["send"])), most)
    assert least is not None
    one = shop(placed, count, costs)
    bound = bounds(one, [most] * one.ranks)
    assert bound.busiest <= bound.best and bound.chain <= bound.best
    assert Fraction(bound.best, one.ticks) <= least
    if not available():
        pytest.skip("OR-Tools is not installed: pip install 'pipec[tune]'")
    replay = Replay(one)
    solved = solve(replay, [most] * one.ranks, simple(one, replay), bound.best, 20.0)
    assert Fraction(solved.makespan, one.ticks) == least
    assert Fraction(solved.bound, one.ticks) == least
    assert replay.legal(solved.order[None], np.full(one.ranks, most)).all()


def test_what_is_solved_can_be_certified() -> None:
    """An order of the solver passes the compiler and the verifier, and ends when it was said to."""
    if not available():
        pytest.skip("OR-Tools is not installed: pip install 'pipec[tune]'")
    placement = Placement(2, (Flow("main", 3, (0, 1)),))
    one = shop_of(placement, Costs.of(COSTS[0]), Memory())
    replay = Replay(one)
    solved = solve(replay, [2, 2], simple(one, replay), 0, 5.0)
    recipe = Recipe("solver", "small", {"P": 2, "M": 3}, order=order_of(replay, solved.order))
    trial = tried(recipe, Setting(2, 3, Costs.of(COSTS[0])))
    assert isinstance(trial, Trial)
    assert trial.makespan * one.ticks == solved.makespan
    assert trial.peak <= 2


def test_margins_are_kept_by_every_order() -> None:
    """In the shortest order, too, no operation begins before its head or ends behind its tail."""
    if not available():
        pytest.skip("OR-Tools is not installed: pip install 'pipec[tune]'")
    for placed, most in (([0, 1, 2], 2), ([0, 1, 1, 0], 3)):
        one = shop(placed, 4, COSTS[1])
        replay = Replay(one)
        heads, tails = margins(one, [most] * one.ranks)
        solved = solve(replay, [most] * one.ranks, simple(one, replay), 0, 5.0)
        for makespan, order in solved.orders:
            _, finish = replay.ends(order[None])
            for rank, units in enumerate(model.placed(replay, order)):
                for place, (code, [(line, number)]) in enumerate(units):
                    end = int(finish[0, rank, place])
                    assert end - replay.units.duration[code] >= heads[line][number]
                    assert end + tails[line][number] <= makespan


def test_a_schedule_of_some_hundred_operations_is_proved() -> None:
    """V on 4 ranks with 8 microbatches within 3 activations: what is found is the shortest."""
    if not available():
        pytest.skip("OR-Tools is not installed: pip install 'pipec[tune]'")
    one = shop([0, 1, 2, 3, 3, 2, 1, 0], 8, COSTS[0])
    replay = Replay(one)
    solved = solve(replay, [6] * 4, simple(one, replay), bounds(one, [6] * 4).best, 4.0)
    assert one.size == 192
    assert solved.makespan == solved.bound == 53 * one.ticks


def test_pairs_are_solved() -> None:
    """DualPipe's setting at its smallest: pairs cost less, and none of its orders is shorter."""
    if not available():
        pytest.skip("OR-Tools is not installed: pip install 'pipec[tune]'")
    flows = (Flow("down", 2, (0, 1)), Flow("up", 2, (1, 0)))
    costs = Costs.of({"F": 1, "B": 1, "W": 1, "F&B": "2.4"})
    one = shop_of(Placement(2, flows), costs, Memory())
    replay = Replay(one)
    assert replay.paired
    solved = solve(replay, [3, 3], simple(one, replay), 0, 20.0)
    assert solved.makespan == solved.bound
    recipe = Recipe("solver", "pairs", {"P": 2, "M": 4}, order=order_of(replay, solved.order))
    trial = tried(recipe, Setting(2, 4, costs))
    assert isinstance(trial, Trial)
    assert trial.makespan == Fraction(54, 5)
