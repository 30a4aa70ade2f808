"""Neighbours side by side: parts of the next operations fill lanes that would idle.

A rank's order is a sequence of units: an operation, or an OVERLAP of two. As it stands, a lane that
has nothing to do waits for the unit's other lane. Here the parts of `window` units may be issued in
turn: a lane that is free takes a part that is ready, of the oldest unit first, and W parts only
where there is nothing else. All ranks are simulated at once, so what comes from another rank is
taken when it is there, and the result is again a projection of one sequence in time.

A window of 1 moves nothing but W parts. Each further unit lets one forward more begin early, so
memory rises by as many microbatches, at most.

    before   F(4).attention F(4).dispatch F(4).mlp F(4).combine B(1).combine B(1).mlp ...
    after    F(4).attention B(1).combine F(4).dispatch B(1).mlp F(4).mlp B(1).dispatch ...
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from pipec.lower.issue import eager

Unit = Sequence[int]
"""Numbers of parts, in the order in which they are issued without neighbours."""


@dataclass(frozen=True)
class Work:
    """The parts of all ranks, numbered: for each its lane, its ticks, and the parts it waits for.

    Lane 0 is compute, 1 the all-to-alls. `filler` marks what may be issued late: the W parts.
    """

    units: Sequence[Sequence[Unit]]
    lane: Sequence[int]
    ticks: Sequence[int]
    needs: Sequence[Sequence[int]]
    filler: Sequence[bool]


def side_by_side(work: Work, window: int) -> list[list[int]]:
    """For each rank all its parts in the order in which they are to be issued.

    Parts that can never run, because they wait for each other, stand behind all that can.
    """
    return _Machine(work, window).run()


class _Machine:
    """Ranks with their lanes. A part is a candidate when its unit is open and its needs are met."""

    def __init__(self, work: Work, window: int):
        self._work, self._window = work, window
        count = len(work.lane)
        self._missing = [len(needs) for needs in work.needs]
        self._serves: list[list[int]] = [[] for _ in range(count)]
        for part, needs in enumerate(work.needs):
            for need in needs:
                self._serves[need].append(part)
        self._key = [(False, 0, 0)] * count
        self._rank, self._open = [0] * count, [False] * count
        for rank, units in enumerate(work.units):
            for number, unit in enumerate(units):
                for place, part in enumerate(unit):
                    self._rank[part] = rank
                    self._key[part] = (work.filler[part], number, place)
        self._waiting = [[sum(not work.filler[p] for p in u) for u in us] for us in work.units]
        self._oldest, self._opened = [0] * len(work.units), [0] * len(work.units)
        self._ready: list[tuple[_Heap, _Heap]] = [([], []) for _ in work.units]
        self._busy = [[False, False] for _ in work.units]
        self._issued: list[list[int]] = [[] for _ in work.units]
        self._running: list[tuple[int, int]] = []

    def run(self) -> list[list[int]]:
        now, moved = 0, set(range(len(self._work.units)))
        for rank in moved:
            self._open_units(rank)
        while True:
            for rank in sorted(moved):
                for lane in (0, 1, 0):  # what begins on one lane may open a unit for the other
                    self._begin(rank, lane, now)
            if not self._running:
                break
            now, moved = self._running[0][0], set()
            while self._running and self._running[0][0] == now:
                moved |= self._end(heapq.heappop(self._running)[1])
        return [self._whole(rank) for rank in range(len(self._issued))]

    def _whole(self, rank: int) -> list[int]:
        issued, work = self._issued[rank], self._work
        known = set(issued)
        issued += [part for unit in work.units[rank] for part in unit if part not in known]
        return eager(issued, lambda part: work.lane[part] == 1, lambda part: work.needs[part])

    def _begin(self, rank: int, lane: int, now: int) -> None:
        candidates = self._ready[rank][lane]
        if self._busy[rank][lane] or not candidates:
            return
        part = heapq.heappop(candidates)[1]
        self._busy[rank][lane] = True
        self._issued[rank].append(part)
        heapq.heappush(self._running, (now + self._work.ticks[part], part))
        filler, unit, _ = self._key[part]
        if not filler:
            self._waiting[rank][unit] -= 1
            self._open_units(rank)

    def _end(self, part: int) -> set[int]:
        """The ranks that may go on."""
        self._busy[self._rank[part]][self._work.lane[part]] = False
        moved = {self._rank[part]}
        for other in self._serves[part]:
            self._missing[other] -= 1
            if not self._missing[other] and self._open[other]:
                self._add(other)
                moved.add(self._rank[other])
        return moved

    def _open_units(self, rank: int) -> None:
        """Units are open from the oldest with parts to issue on, as many as the window has."""
        waiting, units = self._waiting[rank], self._work.units[rank]
        while self._oldest[rank] < len(units) and not waiting[self._oldest[rank]]:
            self._oldest[rank] += 1
        number, left = self._oldest[rank], self._window
        while number < len(units) and left:
            left -= waiting[number] > 0
            number += 1
        for unit in units[self._opened[rank] : number]:
            for part in unit:
                self._open[part] = True
                if not self._missing[part]:
                    self._add(part)
        self._opened[rank] = max(self._opened[rank], number)

    def _add(self, part: int) -> None:
        heap = self._ready[self._rank[part]][self._work.lane[part]]
        heapq.heappush(heap, (self._key[part], part))


_Heap = list[tuple[tuple[bool, int, int], int]]
