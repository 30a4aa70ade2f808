"""The shortest makespan of all orders, by going through them: slow, and written on its own.

A state is how many operations of each line are done. For each state all ways to get there are kept
that no other one is better than in every moment that still matters; so nothing is lost.
"""

from collections.abc import Iterator
from fractions import Fraction

Line = tuple[str, int]
"""A kind and a stage."""


def shortest(
    ranks: list[int], microbatches: int, times: dict[str, Fraction], send: Fraction, most: int
) -> Fraction | None:
    """The least makespan of one flow whose stages lie on `ranks`, holding at most `most` per rank,
    counted in stages from F to W; None if there is no order.
    """
    stages = len(ranks)
    lines = [(kind, stage) for stage in range(stages) for kind in "FBW"]
    start = tuple(0 for _ in lines)
    states = {start: [_empty(ranks)]}
    for _ in range(len(lines) * microbatches):
        following: dict[tuple[int, ...], list[Moments]] = {}
        for done, ways in states.items():
            for at, (kind, stage) in enumerate(lines):
                if done[at] == microbatches or not _may(lines, done, at, ranks, most):
                    continue
                after = (*done[:at], done[at] + 1, *done[at + 1 :])
                for way in ways:
                    moved = _moved(way, kind, stage, done[at], ranks, times[kind], send, stages)
                    _keep(following.setdefault(after, []), moved, after, lines)
        states = following
    ends = [max(free) for ways in states.values() for free, _ in ways]
    return min(ends, default=None)


Moments = tuple[tuple[Fraction, ...], dict[tuple[str, int, int], Fraction]]
"""When each rank is free, and when each operation ended."""


def _empty(ranks: list[int]) -> Moments:
    return tuple(Fraction(0) for _ in range(max(ranks) + 1)), {}


def _needs(kind: str, stage: int, stages: int) -> Iterator[Line]:
    """What an operation of one microbatch comes after."""
    if kind == "F" and stage > 0:
        yield "F", stage - 1
    if kind == "B":
        yield "F", stage
        if stage < stages - 1:
            yield "B", stage + 1
    if kind == "W":
        yield "B", stage


def _may(lines: list[Line], done: tuple[int, ...], at: int, ranks: list[int], most: int) -> bool:
    kind, stage = lines[at]
    count = dict(zip(lines, done, strict=True))
    if any(count[need] <= done[at] for need in _needs(kind, stage, len(ranks))):
        return False
    here = [other for other, rank in enumerate(ranks) if rank == ranks[stage]]
    held = sum(count["F", other] - count["W", other] for other in here)
    return kind != "F" or held < most


def _moved(
    way: Moments,
    kind: str,
    stage: int,
    number: int,
    ranks: list[int],
    time: Fraction,
    send: Fraction,
    stages: int,
) -> Moments:
    free, ends = way
    rank = ranks[stage]
    begin = free[rank]
    for what, other in _needs(kind, stage, stages):
        late = send if ranks[other] != rank else Fraction(0)
        begin = max(begin, ends[what, other, number] + late)
    end = begin + time
    return (*free[:rank], end, *free[rank + 1 :]), {**ends, (kind, stage, number): end}


def _keep(ways: list[Moments], new: Moments, done: tuple[int, ...], lines: list[Line]) -> None:
    """Add a way unless another is at least as good in all that can still matter."""
    mark = _mark(new, done, lines)
    marks = [_mark(way, done, lines) for way in ways]
    if any(all(a <= b for a, b in zip(one, mark, strict=True)) for one in marks):
        return
    ways[:] = [
        way
        for way, one in zip(ways, marks, strict=True)
        if not all(b <= a for a, b in zip(one, mark, strict=True))
    ]
    ways.append(new)


def _mark(way: Moments, done: tuple[int, ...], lines: list[Line]) -> list[Fraction]:
    """When ranks are free, and when what is still waited for ended."""
    free, ends = way
    count = dict(zip(lines, done, strict=True))
    last = max(stage for _, stage in lines)
    found = list(free)
    for kind, stage in lines:
        later = ("F", stage + 1) if kind == "F" and stage < last else ("B", stage - 1)
        if kind == "F" and stage == last:
            later = ("B", stage)
        if kind != "W" and later in count:
            numbers = range(count[later], count[kind, stage])
            found += [ends[kind, stage, number] for number in numbers]
    return found
