"""Cycles: what ranks do with a few microbatches, so that it can be repeated for all of them.

An operation begins at `turn * period + phase`. Those of one rank do not overlap within the period,
and no more is held at any time than a rank may hold. CP-SAT finds begins for a stated period, in
which microbatches are through as soon as possible; or, with turns as they are, the least period.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.tune.model import Operation
from pipec.tune.replay import Replay
from pipec.tune.shop import Shop

Array = NDArray[Any]


@dataclass(frozen=True)
class Timing:
    """What lines take and wait for, as in a `Shop`, in ticks or in coarser slots."""

    duration: list[int]
    before: list[list[tuple[int, int]]]

    def work(self, shop: Shop) -> int:
        """What the busiest rank does with a microbatch of every flow."""
        return max(sum(self.duration[line] for line in own) for own in shop.on)


@dataclass(frozen=True)
class Cycle:
    """When the operations of `each` microbatches of every flow begin; `period` later the next."""

    period: int
    each: int
    begin: Mapping[Operation, int]

    @property
    def turns(self) -> dict[Operation, int]:
        """In how many periods each operation begins."""
        return {one: begin // self.period for one, begin in self.begin.items()}


def ticks(shop: Shop) -> Timing:
    """The times of a shop as they are."""
    return Timing([int(time) for time in shop.times.duration], shop.before)


def slots(shop: Shop) -> Timing:
    """Times in slots as long as an operation is on average: sooner solved."""
    times = [int(time) for time in shop.times.duration if time]
    slot = max(sum(times), 1) / max(len(times), 1)
    duration = [max(round(int(time) / slot), int(time > 0)) for time in shop.times.duration]
    before = [[(line, round(late / slot)) for line, late in waits] for waits in shop.before]
    return Timing(duration, before)


def repeated(replay: Replay, cycle: Cycle) -> Array:
    """`[rank, place]`: the order in which all microbatches run by it, as units."""
    lines, each = replay.shop.lines.lines, cycle.each
    ranks = [
        sorted(
            (cycle.begin[line, number % each] + number // each * cycle.period, line)
            for line in own
            for number in range(lines[line].total)
        )
        for own in replay.shop.on
    ]
    longest = max(map(len, ranks))
    nothing = replay.units.nothing
    return np.array([[line for _, line in own] + [nothing] * (longest - len(own)) for own in ranks])


def doubled(cycle: Cycle) -> Cycle:
    """The same with twice as many microbatches in a period."""
    begin = dict(cycle.begin)
    begin |= {(line, k + cycle.each): at + cycle.period for (line, k), at in begin.items()}
    return Cycle(2 * cycle.period, 2 * cycle.each, begin)


def cycle_of(
    shop: Shop,
    timing: Timing,
    most: Sequence[int],
    each: int,
    period: int,
    effort: float,
    seed: int = 0,
    near: Cycle | None = None,
    first: bool = False,
) -> Cycle | None:
    """The cycle of a period in which microbatches are through soonest, as far as effort goes.

    near: what has turns near those that are looked for. first: the first that is found will do.
    """
    model = _Model(shop, timing, each)
    turns = {one: model.new(0, _TURNS) for one in model.all}
    if near:
        known = near.turns
        turns = {one: model.new(max(known[one] - 1, 0), known[one] + 1) for one in model.all}
    model.limit(period, turns, most)
    if near:
        for one in model.all:
            model.model.add_hint(turns[one], known[one])
            model.model.add_hint(model.phase[one], near.begin[one] % near.period)
    if not first:
        model.soonest()
    return model.solved(effort, seed)


def tightened(
    shop: Shop, timing: Timing, most: Sequence[int], known: Cycle, effort: float, seed: int = 0
) -> Cycle | None:
    """A cycle with the turns of a known one, and the least period, as far as effort goes.

    The known one may be of another timing: its turns are what counts.
    """
    model = _Model(shop, timing, known.each)
    least = max(timing.work(shop) * known.each, 1)
    longest = max(least, sum(timing.duration))
    period = model.new(least, longest)
    model.limit(period, known.turns, most, longest)
    model.model.minimize(period)
    return model.solved(effort, seed)


_TURNS = 60
"""A microbatch is through within so many periods."""


class _Model:
    """Begins of the operations of `each` microbatches of every flow."""

    def __init__(self, shop: Shop, timing: Timing, each: int):
        self.cp = import_module("ortools.sat.python.cp_model")
        self.model = self.cp.CpModel()
        self.shop, self.timing, self.each = shop, timing, each
        self.all = [(line, k) for line in range(len(shop.lines.lines)) for k in range(each)]

    def new(self, low: int, high: int) -> Any:
        """A variable."""
        return self.model.new_int_var(low, high, "")

    def limit(
        self, period: Any, turn: Mapping[Operation, Any], most: Sequence[int], longest: int = 0
    ) -> None:
        """Everything that must hold; either the period or the turns are numbers."""
        self.period, self.turn = period, turn
        self.phase = {one: self.new(0, (longest or period) - 1) for one in self.all}
        self.begin = {one: period * turn[one] + self.phase[one] for one in self.all}
        if longest:
            for one in self.all:
                self.model.add(self.phase[one] < period)
        self._lines()
        for rank in range(self.shop.ranks):
            self._memory(rank, self._rank(rank), most[rank])
        self.model.add(self.begin[self.all[0]] == 0)

    def _lines(self) -> None:
        """What waits for what, in each line and between lines."""
        time = self.timing.duration
        for line, waits in enumerate(self.timing.before):
            for k in range(self.each):
                for other, late in waits:
                    self._after((other, k), (line, k), time[other] + late)
                if self.shop.lines.lines[line].kind == Kind.W:
                    self._after((line - 1, k), (line, k), time[line - 1])
                if k:
                    self._after((line, k - 1), (line, k), time[line])
            if self.each > 1:
                last = self.begin[line, self.each - 1]
                self.model.add(self.begin[line, 0] + self.period - last >= time[line])

    def _after(self, one: Operation, other: Operation, gap: int) -> None:
        self.model.add(self.begin[other] - self.begin[one] >= gap)

    def _rank(self, rank: int) -> dict[tuple[Operation, Operation], Any]:
        """One operation at a time; says which of two has the smaller phase."""
        own = [(line, k) for line in self.shop.on[rank] for k in range(self.each)]
        time, phase = self.timing.duration, self.phase
        intervals = [
            self.model.new_fixed_size_interval_var(phase[one], time[one[0]], "")
            for one in own
            if time[one[0]]
        ]
        self.model.add_no_overlap(intervals)
        first: dict[tuple[Operation, Operation], Any] = {}
        for at, one in enumerate(own):
            for other in own[at + 1 :]:
                choice = self.model.new_bool_var("")
                for a, b, chosen in ((one, other, choice), (other, one, ~choice)):
                    before = self.model.add(phase[a] + time[a[0]] <= phase[b])
                    before.only_enforce_if(chosen)
                    self.model.add(phase[a] + time[a[0]] <= phase[b] + self.period)
                first[one, other], first[other, one] = choice, 1 - choice
        return first

    def _memory(
        self, rank: int, first: Mapping[tuple[Operation, Operation], Any], most: int
    ) -> None:
        """What is held when an operation begins that takes more."""
        keep = self.shop.keep
        own = [(line, k) for line in self.shop.on[rank] for k in range(self.each)]
        for one in own:
            if keep[one[0]] > 0:
                held = keep[one[0]] * (1 - self.turn[one]) + sum(
                    keep[other[0]] * (first[other, one] - self.turn[other])
                    for other in own
                    if other != one and keep[other[0]]
                )
                self.model.add(held <= most)

    def soonest(self) -> None:
        """Let microbatches be through as soon as possible."""
        span = self.new(0, self.period * (_TURNS + 1))
        for one in self.all:
            self.model.add(span >= self.begin[one] + self.timing.duration[one[0]])
        self.model.minimize(span)

    def solved(self, effort: float, seed: int) -> Cycle | None:
        """What the solver finds."""
        solver = self.cp.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = seed
        solver.parameters.max_deterministic_time = effort
        if solver.solve(self.model) not in (self.cp.OPTIMAL, self.cp.FEASIBLE):
            return None
        begin = {one: int(solver.value(self.begin[one])) for one in self.all}
        return Cycle(int(solver.value(self.period)), self.each, begin)
