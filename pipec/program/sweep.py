"""One sweep over a graph of events: when each one ends, or which can never happen.

Every wait is a conjunction, so the time of an event is the largest time of what it waits for plus
its own duration, and an event that stands on or behind a cycle never happens.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import BLOCK, with_none

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
    while len(waits) > 1 and waits[-1].min() == count:
        waits = waits[:-1]
    by_lane = None if (lane[1:] >= lane[:-1]).all() else lane.argsort(kind="stable")
    lane = lane if by_lane is None else lane[by_lane]
    begins = np.append(0, (lane[1:] != lane[:-1]).nonzero()[0] + 1)
    few = len(begins) < _FEW_LANES or len(begins) > count // _FEW_EVENTS
    swept = _one_by_one if few else _lane_by_lane
    if by_lane is None:
        return swept(waits, duration, begins)
    place = np.empty(count + 1, np.int64)
    place[by_lane] = np.arange(count)
    place[count] = count
    waits = np.stack([place[row[by_lane]] for row in waits])
    return swept(waits, duration[..., by_lane], begins)[..., place[:-1]]


def latest(waits: Array, value: Array, events: Array | None = None) -> Array:
    """The largest value among the events that each event waits for; 0 where it waits for none."""
    known, count = with_none(value, 0), waits.shape[1] if events is None else len(events)
    largest = np.empty(count, value.dtype)
    for begin in range(0, count, BLOCK):
        block = slice(begin, begin + BLOCK)
        at = block if events is None else events[block]
        part = known.take(waits[0][at])
        for row in waits[1:]:
            np.maximum(part, known.take(row[at]), out=part)
        largest[block] = part
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
    that one; the fastest for few lanes. Further answers follow the order that the first one finds.
    """
    several = duration.reshape(-1, duration.shape[-1])
    if len(waits) <= 3 and _in_turn(waits[0], begins):
        end, order = _by_two(waits[1:], several[0], begins)
    else:
        end, order = _by_four(waits, several[0], begins)
    first = [NEVER if time < 0 else time for time in end[:-1]]
    ends = [first]
    if len(several) > 1:
        happened = np.array(order, np.intp)
        columns = [order, *_lists(waits.take(happened, axis=1), len(first), 4)]
        ends += [_following(columns, row.take(happened), len(first)) for row in several[1:]]
    return np.array(ends, np.int64).reshape(duration.shape)


def _in_turn(row: Array, begins: Array) -> bool:
    """Whether each event waits for the one before it in its lane."""
    before = np.arange(-1, len(row) - 1)
    before[begins] = len(row)
    return bool((row == before).all())


def _lists(waits: Array, none: int, count: int) -> list[list[int]]:
    """What each event waits for, as so many lists."""
    rows = [row.tolist() for row in waits]
    return rows + [[none] * waits.shape[1]] * (count - len(rows))


def _by_two(waits: Array, duration: Array, begins: Array) -> tuple[list[int], list[int]]:
    """When each event ends, -1 where it does not, and all that do, in an order in which they can.

    Each waits for the one before it in its lane, and for at most two others.
    """
    count, spans, head = len(duration), duration.tolist(), begins.tolist()
    one, two = _lists(waits, count, 2)
    stop, last = [*head[1:], count], [0] * len(head)
    end = [-1] * count + [0]
    happened: list[int] = []
    waiting: dict[int, list[int]] = {}
    able = list(range(len(head)))
    for lane in able:  # which grows meanwhile
        time = last[lane]
        for event in range(head[lane], stop[lane]):
            x, y = end[one[event]], end[two[event]]
            if x < 0 or y < 0:
                head[lane], last[lane] = event, time
                waiting.setdefault(one[event] if x < 0 else two[event], []).append(lane)
                break
            if x > time:
                time = x
            if y > time:
                time = y
            end[event] = time = time + spans[event]
            happened.append(event)
            if event in waiting:
                able += waiting.pop(event)
    return end, happened


def _by_four(waits: Array, duration: Array, begins: Array) -> tuple[list[int], list[int]]:
    """The same where each waits for at most four, whichever these are."""
    count, spans, head = len(duration), duration.tolist(), begins.tolist()
    one, two, three, four = _lists(waits, count, 4)
    stop = [*head[1:], count]
    end = [-1] * count + [0]
    happened: list[int] = []
    waiting: dict[int, list[int]] = {}
    able = list(range(len(head)))
    for lane in able:
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
            happened.append(event)
            if event in waiting:
                able += waiting.pop(event)
    return end, happened


def _following(columns: list[list[int]], duration: Array, count: int) -> list[int]:
    """When each event ends, NEVER where it does not. columns: those that happen in their order,
    and the four that each waits for.
    """
    end = [NEVER] * count + [0]
    for event, a, b, c, d, span in zip(*columns, duration.tolist(), strict=True):
        x, y, z, w = end[a], end[b], end[c], end[d]
        x = x if x > y else y
        z = z if z > w else w
        end[event] = (x if x > z else z) + span
    return end[:-1]


def _lane_by_lane(waits: Array, duration: Array, begins: Array) -> Array:
    """Arrays: each step looks at the next event of every lane; the fastest for many lanes.

    Events are sorted by lane; those of a lane begin at each of `begins`. Behind the last event of a
    lane comes one that never happens.
    """
    count = duration.shape[-1]
    none, never = count, count + 1
    end = np.full((*duration.shape[:-1], count + 2), NEVER, np.int64)
    end[..., none] = 0
    head, behind = begins.copy(), np.append(begins[1:], count)
    rows = [with_none(row, never) for row in waits]
    while True:
        time = end.take(rows[0].take(head), axis=-1)
        for row in rows[1:]:
            np.maximum(time, end.take(row.take(head), axis=-1), out=time)
        (ready,) = (time.reshape(-1, len(head))[0] < NEVER).nonzero()
        if not len(ready):
            return end[..., :count]
        moved = head.take(ready)
        end[..., moved] = time.take(ready, axis=-1) + duration.take(moved, axis=-1)
        moved += 1
        moved[moved == behind.take(ready)] = none
        head[ready] = moved
