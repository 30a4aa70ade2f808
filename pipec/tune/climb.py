"""Orders near an order: moved about at random, all neighbours of a step at once, the best is kept.

Of equally short orders the one whose ranks are through sooner is better, which leads across the
plateaus that a makespan has.
"""

from bisect import insort
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.tune.critical import critical
from pipec.tune.replay import NEVER, Replay

Array = NDArray[Any]


KEPT = 8
"""How many orders are handed back."""


@dataclass(frozen=True)
class Reached:
    """The shortest orders, `[rank, place]` units, each with its makespan in ticks, the shortest
    first; and how many were tried.
    """

    orders: list[tuple[int, Array]]
    tried: int


def climb(
    replay: Replay, order: Array, most: Array, rng: np.random.Generator, width: int, steps: int
) -> Reached:
    """Walk from an order; the shortest that were met.

    width: neighbours per step. most: per rank what it may hold.
    """
    stand = _Stand.at(replay, order)
    best, tried, stale = stand, 0, 0
    shortest = _Shortest(KEPT)
    shortest.add(stand.makespan, stand.order)
    for _ in range(steps):
        moved = neighbours(replay, stand, rng, width)
        moved = moved[replay.legal(moved, most)]
        tried += width
        heat = _HEAT * rng.random() if stale > _PATIENT else 0.0
        if len(moved):
            ends, finish = replay.ends(moved)
            values = _value(ends, finish)
            at = int(values.argmin())
            for one in ends.argsort(kind="stable")[:KEPT].tolist():
                shortest.add(int(ends[one]), moved[one])
            if ends[at] < NEVER and values[at] <= stand.value * (1 + heat):
                stand = _Stand(
                    moved[at], int(ends[at]), values[at], critical(replay, moved[at], finish[at])
                )
        stale = 0 if stand.makespan < best.makespan else stale + 1
        if stand.makespan < best.makespan:
            best = stand
        if stale > _TIRED:
            stand, stale = best, 0
    return Reached(shortest.found, tried)


_HEAT, _PATIENT, _TIRED = 0.002, 20, 200
"""After so many steps without progress a longer order is taken too, by up to this share; after many
more the walk goes on from the best.
"""


class _Shortest:
    """The shortest of what is added; of equals those that came first, each once."""

    def __init__(self, count: int):
        self.count = count
        self.found: list[tuple[int, Array]] = []

    def add(self, makespan: int, order: Array) -> None:
        """Keep an order if it is one of the shortest."""
        known = self.found
        if len(known) == self.count and makespan >= known[-1][0]:
            return
        if any(length == makespan and np.array_equal(order, other) for length, other in known):
            return
        insort(known, (makespan, order), key=lambda one: one[0])
        del known[self.count :]


@dataclass(frozen=True)
class _Stand:
    """Where a walk stands: an order, its figures, and which units are critical."""

    order: Array
    makespan: int
    value: float
    critical: Array

    @classmethod
    def at(cls, replay: Replay, order: Array) -> "_Stand":
        ends, finish = replay.ends(order[None])
        value = float(_value(ends, finish)[0])
        return cls(order, int(ends[0]), value, critical(replay, order, finish[0]))


def _value(ends: Array, finish: Array) -> Array:
    """What is minimised: the makespan, then when the work is done on average."""
    return ends.astype(np.float64) + 0.02 * finish.mean(axis=(1, 2))


def neighbours(replay: Replay, stand: _Stand, rng: np.random.Generator, count: int) -> Array:
    """Orders with one to three changes: a unit moved to another place of its rank; where pairs or
    BW save time, also units joined and taken apart. Mostly critical units are changed.
    """
    found = np.repeat(stand.order[None], count, axis=0)
    moves = rng.integers(1, 4, count)
    ranks, places = stand.order.shape
    joins = len(replay.joined) > 0
    for number in range(count):
        for _ in range(moves[number]):
            rank, place = int(rng.integers(ranks)), int(rng.integers(places))
            if rng.random() < _CRITICAL:
                rank, place = stand.critical[rng.integers(len(stand.critical))].tolist()
            own = found[number, rank]
            if joins and rng.random() < _JOINS:
                _join_or_split(replay, own, place, rng)
            else:
                _move(own, place, rng)
    return found


_CRITICAL = 0.6
"""The share of changes to critical units."""

_JOINS, _REACH = 0.4, 8
"""The share of changes that join or split, and how far apart what is joined may stand."""


def _move(own: Array, begin: int, rng: np.random.Generator) -> None:
    """Move a unit of a rank to another place, mostly near."""
    far = int(rng.geometric(0.25))
    target = min(max(begin + (far if rng.random() < 0.5 else -far), 0), len(own) - 1)
    unit = own[begin]
    if target > begin:
        own[begin:target] = own[begin + 1 : target + 1]
    else:
        own[target + 1 : begin + 1] = own[target:begin]
    own[target] = unit


def _join_or_split(replay: Replay, own: Array, at: int, rng: np.random.Generator) -> None:
    """Take a pair or a BW apart, or make one of what stands near each other."""
    units, line_count = replay.units, len(replay.shop.lines.lines)
    units_here = own.tolist()
    code = units_here[at]
    if line_count <= code < units.nothing:
        parts = [int(units.first[code]), int(units.second[code])]
        parts = [part for part in parts if part < line_count]
        rng.shuffle(parts)
        units_here[at : at + 1] = parts
        later = at + len(parts) + int(rng.integers(_REACH))
        units_here.insert(later, int(units.third[code]))
    elif code < line_count:
        _join(replay, units_here, at, rng)
    kept = [unit for unit in units_here if unit != units.nothing]
    own[:] = units.nothing
    own[: len(kept)] = kept


def _join(replay: Replay, here: list[int], at: int, rng: np.random.Generator) -> None:
    """Make a unit of what stands at a place, a B near it, and the next W of that B."""
    shop, one = replay.shop, here[at]
    low, high = max(at - _REACH, 0), at + _REACH
    backs = [
        place for place in range(low, min(high, len(here))) if (one, here[place]) in replay.joined
    ]
    if not backs:
        return
    back = backs[int(rng.integers(len(backs)))]
    weights = shop.weights[here[back]]
    if weights not in here[back:]:
        return
    place = here.index(weights, back)
    here[min(at, back)] = replay.joined[one, here[back]]
    gone = {place, max(at, back)} - {min(at, back)}
    for number in sorted(gone, reverse=True):
        del here[number]
