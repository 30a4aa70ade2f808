"""CP-SAT of OR-Tools (optional: `pip install "pipec[tune]"`): shorter orders, and proofs."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.tune.model import Model, placed
from pipec.tune.replay import NEVER, Replay

Array = NDArray[Any]


@dataclass(frozen=True)
class Solved:
    """Orders, `[rank, place]` units, each with what it takes, the shortest first, and what no order
    can beat, in ticks. One of them is what the solver began with.
    """

    orders: list[tuple[int, Array]]
    bound: int

    @property
    def order(self) -> Array:
        """The shortest."""
        return self.orders[0][1]

    @property
    def makespan(self) -> int:
        """What it takes."""
        return self.orders[0][0]


def available() -> bool:
    """Whether OR-Tools is installed."""
    return find_spec("ortools") is not None


def solve(
    replay: Replay, most: Sequence[int], order: Array, least: int, effort: float, seed: int = 0
) -> Solved:
    """The shortest order within `most[rank]`, as far as `effort` (deterministic seconds) goes.

    order: what to begin with. least: a bound that is known.
    """
    model = import_module("ortools.sat.python.cp_model")
    whole = Model(model.CpModel(), replay, most, least, order)
    found, bound = _run(model, whole, replay, order, effort, seed)
    return Solved(found, max(least, bound))


def improve(
    replay: Replay,
    most: Sequence[int],
    order: Array,
    least: int,
    span: tuple[float, float],
    effort: float,
    seed: int = 0,
) -> Solved:
    """The shortest order that differs from one only in a span of time, given as shares of it."""
    model = import_module("ortools.sat.python.cp_model")
    ends, finish = replay.ends(order[None])
    low, high = (share * float(ends[0]) for share in span)
    counts = [len(own) for own in placed(replay, order)]
    window = [
        (int((own[:count] <= low).sum()), int((own[:count] <= high).sum()))
        for own, count in zip(finish[0], counts, strict=True)
    ]
    part = Model(model.CpModel(), replay, most, least, order, window)
    found, _ = _run(model, part, replay, order, effort, seed)
    return Solved(found, least)


def _run(
    model: Any, made: Model, replay: Replay, order: Array, effort: float, seed: int
) -> tuple[list[tuple[int, Array]], int]:
    """What is known and what the solver finds, the shortest first; and its bound."""
    solver = model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = effort
    found = [order]
    status = solver.solve(made.model, _met(model, made, found))
    bound = round(solver.best_objective_bound) if status != model.MODEL_INVALID else 0
    if status not in (model.OPTIMAL, model.FEASIBLE):
        bound = bound if status == model.UNKNOWN else 0
    ends, _ = replay.ends(np.stack(found))
    orders = [(int(end), one) for end, one in zip(ends, found, strict=True) if end < NEVER]
    return sorted(orders, key=lambda one: one[0]), bound


def _met(model: Any, made: Model, found: list[Array]) -> Any:
    """What notes each solution on the way to the best."""

    class Met(model.CpSolverSolutionCallback):  # type: ignore[misc]
        def on_solution_callback(self) -> None:
            found.append(made.order(self))

    return Met()
