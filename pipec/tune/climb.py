"""Orders near an order: moved about at random, all neighbours of a step at once, the best is kept.

Of equally short orders the one whose ranks are through sooner is better, which leads across the
plateaus that a makespan has.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.tune.replay import NEVER, Replay

Array = NDArray[Any]


@dataclass(frozen=True)
class Reached:
    """An order, `[rank, place]` units; its makespan in ticks; and how many were tried by then."""

    order: Array
    makespan: int
    tried: int


def climb(
    replay: Replay, order: Array, most: Array, rng: np.random.Generator, width: int, steps: int
) -> Reached:
    """Walk from an order; the shortest that was met.

    width: neighbours per step. most: per rank what it may hold.
    """
    ends, finish = replay.ends(order[None])
    value, makespan, times = _value(ends, finish)[0], int(ends[0]), finish[0]
    tried, heat = 0, 0.0
    best = Reached(order, makespan, 0)
    stale = 0
    for _ in range(steps):
        moved = neighbours(order, times, rng, width)
        moved = moved[replay.legal(moved, most)]
        tried += width
        if len(moved):
            ends, finish = replay.ends(moved)
            values = _value(ends, finish)
            at = int(values.argmin())
            if values[at] <= value * (1 + heat) and ends[at] < NEVER:
                order, times, value = moved[at], finish[at], values[at]
                makespan = int(ends[at])
        stale = 0 if makespan < best.makespan else stale + 1
        heat = 0.002 * rng.random() if stale > 20 else 0.0
        if makespan < best.makespan:
            best = Reached(order, makespan, tried)
        if stale > 200:
            ends, finish = replay.ends(best.order[None])
            order, times, value, stale = best.order, finish[0], _value(ends, finish)[0], 0
            makespan = best.makespan
    return Reached(best.order, best.makespan, tried)


def _value(ends: Array, finish: Array) -> Array:
    """What is minimised: the makespan, then when the work is done on average."""
    return ends.astype(np.float64) + 0.02 * finish.mean(axis=(1, 2))


def neighbours(order: Array, times: Array, rng: np.random.Generator, count: int) -> Array:
    """Orders with one to three units moved to another place of their rank."""
    ranks, places = order.shape
    found = np.repeat(order[None], count, axis=0)
    moves = rng.integers(1, 4, count)
    for number in range(count):
        for _ in range(moves[number]):
            own = found[number, rng.integers(ranks)]
            begin = int(rng.integers(places))
            reach = int(rng.geometric(0.25))
            target = min(max(begin + (reach if rng.random() < 0.5 else -reach), 0), places - 1)
            unit = own[begin]
            if target > begin:
                own[begin:target] = own[begin + 1 : target + 1]
            else:
                own[target + 1 : begin + 1] = own[target:begin]
            own[target] = unit
    return found
