"""The critical units of an order: those on a longest path. Moving others cannot shorten it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.tune.replay import Replay

Array = NDArray[Any]


def critical(replay: Replay, order: Array, finish: Array) -> Array:
    """`[n, 2]`: rank and place of all units that some longest path leads through.

    finish: `[rank, place]`, when each unit ends.
    """
    units = replay.units
    begin = finish - units.duration[order]
    at, sources = _places(replay, order)
    last = finish.max()
    stack = [(rank, place) for rank, place in np.argwhere(finish == last).tolist()]
    seen = set(stack)
    while stack:
        rank, place = stack.pop()
        before = [(rank, place - 1)] if place else []
        for operation, delay in sources.get((rank, place), ()):
            other = at[operation]
            if finish[other] + delay == begin[rank, place]:
                before.append(other)
        for other in before:
            if other not in seen and (other[0] != rank or finish[other] == begin[rank, place]):
                seen.add(other)
                stack.append(other)
    return np.array(sorted(seen))


Operation = tuple[int, int]
"""A line and a number of it."""


def _places(
    replay: Replay, order: Array
) -> tuple[dict[Operation, tuple[int, int]], dict[tuple[int, int], list[tuple[Operation, int]]]]:
    """Where each operation stands, and what each place waits for, with the delay."""
    units, before = replay.units, replay.shop.before
    count = len(before)
    done = [0] * count
    at: dict[Operation, tuple[int, int]] = {}
    sources: dict[tuple[int, int], list[tuple[Operation, int]]] = {}
    first, second = units.first.tolist(), units.second.tolist()
    for rank, own in enumerate(order.tolist()):
        for place, code in enumerate(own):
            for line in (first[code], second[code]):
                if line < count:
                    at[line, done[line]] = rank, place
                    waits = [((other, done[line]), delay) for other, delay in before[line]]
                    sources.setdefault((rank, place), []).extend(waits)
                    done[line] += 1
    return at, sources
