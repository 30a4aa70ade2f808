"""CP-SAT of OR-Tools (optional: `pip install "pipec[tune]"`): shorter orders, and proofs."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.tune.model import Model, placed
from pipec.tune.replay import Replay

Array = NDArray[Any]


@dataclass(frozen=True)
class Solved:
    """An order, `[rank, place]` units, what it takes, and what no order can beat, in ticks."""

    order: Array
    makespan: int
    bound: int


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
    return Solved(found, int(replay.ends(found[None])[0][0]), max(least, bound))


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
    return Solved(found, int(replay.ends(found[None])[0][0]), least)


def _run(
    model: Any, made: Model, replay: Replay, order: Array, effort: float, seed: int
) -> tuple[Array, int]:
    """The better of what is known and what the solver finds; and its bound."""
    solver = model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = effort
    status = solver.solve(made.model)
    bound = round(solver.best_objective_bound) if status != model.MODEL_INVALID else 0
    if status not in (model.OPTIMAL, model.FEASIBLE):
        return order, bound if status == model.UNKNOWN else 0
    found = made.order(solver)
    ends, _ = replay.ends(np.stack([order, found]))
    return (found if ends[1] < ends[0] else order), bound
