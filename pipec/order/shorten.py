"""Sequences -> a shorter one: each is followed from its end to its begin, and back again.

A sequence that is followed from its end runs everything as late as it can, so it says when each
operation has to begin at the latest. Following it from the begin, an operation that would make one
before it too late waits for that, and only then. Both passes keep all bounds. What was found is
tried again, the shortest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from heapq import heappop, heappush

from pipec.order.dispatch import Patience
from pipec.order.follow import NEVER_LAST, Bounds, Latest, Made, Manner, Plan, follow
from pipec.order.lines import Clock, Lines, ends, mirrored
from pipec.program.effects import Kind

SLACKS = (Fraction(0), Fraction(1, 10), Fraction(3, 10))
"""How much later than at the latest something may begin, as shares of the longest operation."""

PATIENCE: tuple[Patience, ...] = tuple(
    {Kind.W: weights, **dict.fromkeys((Kind.F, Kind.B, Kind.BW), Fraction(3, 10))}
    for weights in (Fraction(1, 2), Fraction(1))
)


@dataclass(frozen=True)
class _Side:
    """One direction of time."""

    lines: Lines
    times: Clock
    bounds: Bounds


def shortened(
    lines: Lines, times: Clock, bounds: Bounds, found: Sequence[Sequence[int]], afford: int
) -> Sequence[int]:
    """The shortest sequence that is found from others, or the first of the shortest of those.

    afford: how many operations are run in all.
    """
    back = mirrored(lines, times)
    sides = (_Side(lines, times, bounds), _Side(*back, bounds.mirrored(lines)))
    walk = _Walk(lines.placement.ranks, [line.rank for line in lines.lines])
    for sequence in found:
        walk.add(Made(list(sequence), ends(lines, times, sequence)), 0)
    walk.given = sorted(walk.waiting)
    least = shortest_possible(lines, times)
    while afford >= lines.size and walk.best[0] > least and (node := walk.next()):
        _, _, at, order, made = node
        side = sides[1 - at]
        plan = Plan(side.lines, [own[::-1] for own in order], side.bounds)
        for manner in _manners(made, times)[: afford // lines.size]:
            other = follow(plan, side.times, manner)
            afford -= lines.size
            if len(other.sequence) == lines.size:
                walk.add(other, 1 - at)
    return walk.best[1]


_Found = tuple[int, int, int, list[list[int]], Made]
"""A makespan, a number that differs, the side, per rank the lines in order, and all of it."""


class _Walk:
    """What was found and not yet tried, and the shortest of all."""

    def __init__(self, ranks: int, rank: list[int]):
        self._ranks, self._rank = ranks, rank
        self._seen: set[tuple[object, ...]] = set()
        self._tried: set[int] = set()
        self._turn = 0
        self.waiting: list[_Found] = []
        self.given: list[_Found] = []
        self.best: tuple[int, Sequence[int]] = (-1, ())

    def next(self) -> _Found | None:
        """What is tried next: the shortest, and every third time the next of what was given."""
        self._turn += 1
        for queue in (self.given, self.waiting) if self._turn % 3 == 0 else (self.waiting,):
            while queue:
                found = queue.pop(0) if queue is self.given else heappop(queue)
                if found[1] not in self._tried:
                    self._tried.add(found[1])
                    return found
        return None

    def add(self, made: Made, at: int) -> None:
        """Take note of a sequence that runs from the begin (`at` 0) or from the end (1)."""
        order: list[list[int]] = [[] for _ in range(self._ranks)]
        for number in made.sequence:
            order[self._rank[number]].append(number)
        key = (at, *map(tuple, order))
        if key in self._seen:
            return
        self._seen.add(key)
        heappush(self.waiting, (made.makespan, len(self._seen), at, order, made))
        if self.best[0] < 0 or made.makespan < self.best[0]:
            self.best = (made.makespan, made.sequence[::-1] if at else made.sequence)


def _manners(made: Made, times: Clock) -> list[Manner]:
    """How a sequence is followed in the other direction."""
    end, longest = made.makespan, max(times.duration)
    latest = Latest([[end - time for time in reversed(own)] for own in made.ended])
    found = [
        Manner(NEVER_LAST, latest=replace(latest, slack=int(longest * slack))) for slack in SLACKS
    ]
    return found + [Manner(NEVER_LAST, patience) for patience in PATIENCE]


def shortest_possible(lines: Lines, times: Clock) -> int:
    """No makespan is less: each rank's work, after its first operation can begin."""
    begin = [0] * len(lines.lines)
    reached = list(lines.first)
    for number in reached:
        for later, delay in zip(lines.after[number], times.delay[number], strict=True):
            begin[later] = begin[number] + times.duration[number] + delay
            reached.append(later)
    work, head = [0] * lines.placement.ranks, [max(begin, default=0)] * lines.placement.ranks
    for line, first, duration in zip(lines.lines, begin, times.duration, strict=True):
        work[line.rank] += line.total * duration
        head[line.rank] = min(head[line.rank], first)
    return max((a + b for a, b in zip(head, work, strict=True)), default=0)
