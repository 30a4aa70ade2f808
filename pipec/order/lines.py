"""Lines of work: one per flow, stage and kind. Each does its microbatches in order, once each; of
slices, a backward line does the last ones of their sequence first.

A list scheduler decides only which line goes next on a rank; the microbatch follows by counting.
An order is then a sequence of line numbers, in any order in which each can run.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.costs import Costs, between, per_stage
from pipec.program.effects import NEEDS, STEP, Kind, Step
from pipec.program.placement import Placement
from pipec.program.program import Order, Origins

Array = NDArray[Any]


@dataclass(frozen=True)
class Line:
    """The operations of one kind in one stage of one flow, microbatch after microbatch."""

    kind: Kind
    flow: int
    stage: int
    rank: int
    total: int
    origin: int


@dataclass(frozen=True)
class Lines:
    """All lines of a schedule, in the order of (flow, stage, kind)."""

    placement: Placement
    lines: tuple[Line, ...]

    @cached_property
    def number(self) -> dict[tuple[int, int, int], int]:
        """(flow, step, stage) -> the number of the line that does it."""
        return {
            (line.flow, int(STEP[line.kind]), line.stage): number
            for number, line in enumerate(self.lines)
        }

    @cached_property
    def after(self) -> list[list[int]]:
        """For each line the lines that wait for it, microbatch by microbatch.

        What is implied is left out: a B waits for the gradient, which its own F made possible, and
        a slice for the one that its line does before it.
        """
        after: list[list[int]] = [[] for _ in self.lines]
        for number, line in enumerate(self.lines):
            needs = [
                self.number[line.flow, need.step, line.stage + need.stage]
                for need in NEEDS[Step(int(STEP[line.kind]))]
                if not need.slice and (line.flow, need.step, line.stage + need.stage) in self.number
            ]
            far = [need for need in needs if self.lines[need].stage != line.stage]
            for need in far or needs:
                after[need].append(number)
        return after

    def feeds(self, arrival: list[list[int]]) -> list[list[Callable[[int], None]]]:
        """For each line what adds the time of an arrival to `arrival` of each line `after` it."""
        sources = Counter(later for after in self.after for later in after)
        joined = {later: _joined(arrival[later]) for later, count in sources.items() if count > 1}

        def feed(number: int, later: int) -> Callable[[int], None]:
            if later in joined:
                return next(joined[later])
            return self._feed(self.lines[number], self.lines[later], arrival[later])

        return [[feed(number, later) for later in own] for number, own in enumerate(self.after)]

    def _feed(self, line: Line, later: Line, arrival: list[int]) -> Callable[[int], None]:
        slices = self.placement.flows[line.flow].slices
        turns = {STEP[line.kind], STEP[later.kind]} == {Step.FORWARD, Step.BACKWARD}
        return _in_sequences(arrival, slices) if turns and slices > 1 else arrival.append

    @cached_property
    def first(self) -> list[int]:
        """The lines that wait for nothing."""
        waiting = {number for after in self.after for number in after}
        return [number for number in range(len(self.lines)) if number not in waiting]

    @cached_property
    def size(self) -> int:
        """How many operations there are."""
        return sum(line.total for line in self.lines)

    def on(self, rank: int) -> list[int]:
        """The lines of one rank."""
        return [number for number, line in enumerate(self.lines) if line.rank == rank]


def _in_sequences(arrival: list[int], slices: int) -> Callable[[int], None]:
    """All slices of a sequence arrive with its last one: the first that the backward takes."""
    waiting = 0

    def add(time: int) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == slices:
            arrival.extend([time] * slices)
            waiting = 0

    return add


def _joined(arrival: list[int]) -> Iterator[Callable[[int], None]]:
    """What adds the times of two lines: an operation arrives with the later of both."""
    one: list[int] = []
    two: list[int] = []

    def adding(own: list[int], other: list[int]) -> Callable[[int], None]:
        def add(time: int) -> None:
            own.append(time)
            at = len(own)
            if len(other) >= at:
                arrival.append(max(time, other[at - 1]))

        return add

    yield adding(one, two)
    yield adding(two, one)


class Mirrored(Lines):
    """The same lines from the end to the begin: what waited is waited for."""

    @cached_property
    def after(self) -> list[list[int]]:
        """For each line the lines that it waits for otherwise."""
        return [[other for other, _ in own] for own in _before(self)]


def _before(lines: Lines) -> list[list[tuple[int, int]]]:
    """For each line what it waits for, and the place of it among all that waits for that."""
    before: list[list[tuple[int, int]]] = [[] for _ in lines.lines]
    for number, after in enumerate(Lines(lines.placement, lines.lines).after):
        for place, later in enumerate(after):
            before[later].append((number, place))
    return before


@dataclass(frozen=True)
class Clock:
    """What lines cost, in whole ticks: `duration` of an operation; `delay` to each in `after`."""

    duration: list[int]
    delay: list[list[int]]


def clock(lines: Lines, costs: Costs) -> Clock:
    """The times of lines under costs; a message takes `send` if it changes ranks."""
    stages = int(lines.placement.stages.max())
    times, scale = per_stage(costs, stages)
    apart = dict(zip(*between(costs, scale), strict=True))
    known = lines.lines
    duration = [int(times[line.kind, line.stage]) for line in known]

    def delay(line: Line, later: Line) -> int:
        if line.rank == later.rank:
            return 0
        return apart.get((line.rank, later.rank), int(times[Kind.SEND, later.stage]))

    delays = [
        [delay(line, known[later]) for later in after]
        for line, after in zip(known, lines.after, strict=True)
    ]
    return Clock(duration, delays)


def mirrored(lines: Lines, times: Clock) -> tuple[Lines, Clock]:
    """Lines and their times from the end to the begin."""
    delay = [[times.delay[other][place] for other, place in own] for own in _before(lines)]
    return Mirrored(lines.placement, lines.lines), Clock(times.duration, delay)


def ends(lines: Lines, times: Clock, sequence: Sequence[int]) -> list[list[int]]:
    """`[line][number]`: when each operation ends, if each rank runs its part of a sequence in this
    order, every operation as soon as it can.
    """
    arrival: list[list[int]] = [[] for _ in lines.lines]
    for number in lines.first:
        arrival[number] = [0] * lines.lines[number].total
    ready = [iter(times) for times in arrival]
    ended: list[list[int]] = [[] for _ in lines.lines]
    free = [0] * lines.placement.ranks
    rank = [line.rank for line in lines.lines]
    duration = times.duration
    feeds = lines.feeds(arrival)
    later = [
        list(zip(one, delays, strict=True)) for one, delays in zip(feeds, times.delay, strict=True)
    ]
    for number in sequence:
        begin, here = next(ready[number]), rank[number]
        if free[here] > begin:
            begin = free[here]
        free[here] = end = begin + duration[number]
        ended[number].append(end)
        for append, delay in later[number]:
            append(end + delay)
    return ended


def makespan(lines: Lines, times: Clock, sequence: Sequence[int]) -> int:
    """When a sequence ends, run as in `ends`."""
    return max((own[-1] for own in ends(lines, times, sequence) if own), default=0)


def order_of(lines: Lines, sequence: Sequence[int], origins: Origins) -> Order:
    """The order in which every rank runs its part of a sequence of lines."""
    chosen = np.array(sequence, np.int64)
    columns = [(line.kind, line.flow, line.stage, line.rank, line.origin) for line in lines.lines]
    kind, flow, stage, rank, origin = np.array(columns, np.int64).T
    microbatch = np.empty(len(chosen), np.int64)
    by_line = np.argsort(chosen, kind="stable")
    counts = np.bincount(chosen, minlength=len(columns))
    ends = np.cumsum(counts)
    for begin, end in pairwise([0, *ends.tolist()]):
        microbatch[by_line[begin:end]] = np.arange(end - begin)
    by_rank = np.argsort(rank[chosen], kind="stable")
    chosen, microbatch = chosen[by_rank], microbatch[by_rank]
    step = STEP[kind[chosen]].astype(np.int64)
    microbatch = lines.placement.turned(flow[chosen], step, microbatch)
    operation = lines.placement.operation(flow[chosen], step, stage[chosen], microbatch)
    per_rank = np.bincount(rank[chosen], minlength=lines.placement.ranks)
    return Order(
        lines.placement,
        np.concatenate([[0], np.cumsum(per_rank)]),
        kind[chosen].astype(np.int8),
        operation.astype(np.int32),
        np.full(len(chosen), -1, np.int32),
        np.zeros(len(chosen), bool),
        np.zeros(len(chosen), bool),
        np.zeros(len(chosen), np.int16),
        origin[chosen].astype(np.int32),
        origins,
    )
