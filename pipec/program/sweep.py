"""One sweep over a graph of events: when each one ends, or which can never happen.

Every wait is a conjunction, so the time of an event is the largest time of what it waits for plus
its own duration, and an event that stands on or behind a cycle never happens.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NEVER = np.iinfo(np.int64).max // 2
"""The time of an event that never happens."""

_FEW_LANES = 24
_FEW_EVENTS = 8
"""Below this many lanes, or events per lane, arrays are slower than plain Python."""


def sweep(waits: Array, duration: Array, lane: Array) -> Array:
    """When each event ends, `NEVER` for those on or behind a cycle.

    waits: `[k, n]`, the events that each event waits for; `n` stands for none.
    duration: `[n]`, or `[m, n]` for m answers at once.
    lane: `[n]`, a number per event; events of one lane happen in the order of their numbers.
    """
    count = duration.shape[-1]
    if count == 0:
        return np.empty(duration.shape, np.int64)
    waits = waits[np.append(True, (waits[1:] < count).any(axis=1))]
    by_lane = None if np.all(lane[1:] >= lane[:-1]) else np.argsort(lane, kind="stable")
    lane = lane if by_lane is None else lane[by_lane]
    begins = np.flatnonzero(np.append(True, lane[1:] != lane[:-1]))
    few = len(begins) < _FEW_LANES or len(begins) > count // _FEW_EVENTS
    swept = _one_by_one if few else _lane_by_lane
    if by_lane is None:
        return swept(waits, duration, begins)
    place = np.empty(count + 1, np.int64)
    place[by_lane] = np.arange(count)
    place[count] = count
    waits = np.stack([place[row[by_lane]] for row in waits])
    return swept(waits, duration[..., by_lane], begins)[..., place[:-1]]


def latest(waits: Array, value: Array) -> Array:
    """The largest value among the events that each event waits for; 0 where it waits for none."""
    known = np.append(value, value.dtype.type(0))
    largest = known[waits[0]]
    for row in waits[1:]:
        np.maximum(largest, known[row], out=largest)
    return largest


def proven(waits: Array, duration: Array, end: Array) -> bool:
    """Whether `end` is right: this one expression, not the sweep, is what a certificate rests on.

    With durations of at least 1 it can only hold if no event waits for itself, and then it holds
    for the longest path alone.
    """
    alive = bool(np.all(duration >= 1) and np.all(end < NEVER))
    return alive and np.array_equal(end, latest(waits, end) + duration)


def _one_by_one(waits: Array, duration: Array, begins: Array) -> Array:
    """Plain Python: a lane goes on until an event of another lane is missing, and then waits for
    that one; the fastest for few lanes.
    """
    if duration.ndim > 1:
        return np.stack([_one_by_one(waits, row, begins) for row in duration])
    count = len(duration)
    rows = [row.tolist() for row in waits] + [[count] * count] * (4 - len(waits))
    one, two, three, four = rows
    spans = duration.tolist()
    end = [-1] * count + [0]
    head = begins.tolist()
    stop = [*head[1:], count]
    able = list(range(len(head)))
    waiting: dict[int, list[int]] = {}
    while able:
        lane = able.pop()
        for event in range(head[lane], stop[lane]):
            a, b, c, d = one[event], two[event], three[event], four[event]
            x, y, z, w = end[a], end[b], end[c], end[d]
            if x < 0 or y < 0 or z < 0 or w < 0:
                head[lane] = event
                missing = a if x < 0 else b if y < 0 else c if z < 0 else d
                waiting.setdefault(missing, []).append(lane)
                break
            x = x if x > y else y
            z = z if z > w else w
            end[event] = (x if x > z else z) + spans[event]
            if event in waiting:
                able += waiting.pop(event)
    times = np.array(end[:count], np.int64)
    times[times < 0] = NEVER
    return times


def _lane_by_lane(waits: Array, duration: Array, begins: Array) -> Array:
    """Arrays: each step looks at the next event of every lane; the fastest for many lanes.

    Events are sorted by lane; those of a lane begin at each of `begins`. Behind the last event of a
    lane comes one that never happens.
    """
    count = duration.shape[-1]
    none, never = count, count + 1
    end = np.full((*duration.shape[:-1], count + 2), NEVER, np.int64)
    end[..., none] = 0
    following = np.arange(1, count + 1)
    following[np.append(begins[1:], count) - 1] = none
    waits = np.append(waits, np.full((len(waits), 1), never), axis=1)
    head = begins.copy()
    while True:
        time = end.take(waits.take(head, axis=1), axis=-1).max(axis=-2)
        (ready,) = (time.reshape(-1, len(head))[0] < NEVER).nonzero()
        if not len(ready):
            return end[..., :count]
        moved = head.take(ready)
        end[..., moved] = time.take(ready, axis=-1) + duration.take(moved, axis=-1)
        head[ready] = following.take(moved)
