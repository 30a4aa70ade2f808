"""CP-SAT of OR-Tools (optional: `pip install "pipec[tune]"`): the shortest order, and a proof of it.

Microbatches of one line are alike, so every schedule can be relabelled until each line does them in
order; the model has that as a constraint. Messages take their time and do not queue, so a bound
holds for all channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.tune.replay import Replay
from pipec.tune.shop import Shop

Array = NDArray[Any]

MOST_OPERATIONS = 2500
"""Beyond this the solver is not asked."""


@dataclass(frozen=True)
class Solved:
    """`order`, `[rank, place]` units, or None where the solver had none; what it takes, in ticks;
    and what no order can beat.
    """

    order: Array | None
    makespan: int
    bound: int


def available() -> bool:
    """Whether OR-Tools is installed."""
    return find_spec("ortools") is not None


def solve(
    replay: Replay, most: Sequence[int], hint: Array | None, least: int, effort: float, seed: int
) -> Solved:
    """The shortest order within `most[rank]`, as far as `effort` (deterministic seconds) goes.

    hint: an order to begin with. least: a bound that is known.
    """
    shop = replay.shop
    cp_model = import_module("ortools.sat.python.cp_model")
    model = _Model(cp_model.CpModel(), replay, most, least)
    if hint is not None:
        model.hint(hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = effort
    solver.parameters.max_time_in_seconds = 20 * effort
    status = solver.solve(model.model)
    bound = max(least, round(solver.best_objective_bound))
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solved(None, 0, bound if status == cp_model.UNKNOWN else least)
    order = model.order(solver)
    return Solved(order, int(replay.ends(order[None])[0][0]), bound)


class _Model:
    """Start times of all operations, intervals on the ranks that they run on, and what is held."""

    def __init__(self, model: Any, replay: Replay, most: Sequence[int], least: int):
        self.model, self.replay, self.shop, self.most = model, replay, replay.shop, most
        lines = self.shop.lines.lines
        duration = self.shop.times.duration
        delays = sum(delay for before in self.shop.before for _, delay in before)
        longest = max(line.total for line in lines)
        self.horizon = sum(duration[n] * line.total for n, line in enumerate(lines))
        self.horizon += delays * longest
        self.begin: dict[tuple[int, int], Any] = {}
        self.end: dict[tuple[int, int], Any] = {}
        self.alone: dict[tuple[int, int], Any] = {}
        self.joined: dict[tuple[int, int, int, int], Any] = {}
        self.fused: dict[tuple[int, int], Any] = {}
        self.makespan = model.new_int_var(least, max(self.horizon, least), "makespan")
        for number, line in enumerate(lines):
            for k in range(line.total):
                self.begin[number, k] = model.new_int_var(0, self.horizon, "")
                self.end[number, k] = model.new_int_var(0, self.horizon, "")
        self._choices()
        self._lines()
        for rank in range(self.shop.ranks):
            self._rank(rank)
            self._memory(rank)
        model.minimize(self.makespan)

    def _choices(self) -> None:
        """Which B are fused with their W, and which F and BW are pairs."""
        lines, shop, model = self.shop.lines.lines, self.shop, self.model
        units = self.replay.units
        for first, second, third in zip(units.first, units.second, units.third, strict=True):
            one, two = int(first), int(second)
            if third < 0:
                continue
            if two == len(lines):
                for k in range(lines[one].total):
                    self.fused[one, k] = model.new_bool_var("")
                continue
            for k in range(lines[one].total):
                for j in range(lines[two].total):
                    if not _same(shop, one, two) or j < k:
                        self.joined[one, k, two, j] = model.new_bool_var("")

    def _lines(self) -> None:
        """What waits for what, in each line and between lines."""
        model = self.model
        for number, line in enumerate(self.shop.lines.lines):
            for k in range(line.total):
                begin = self.begin[number, k]
                for earlier, delay in self.shop.before[number]:
                    if line.kind != Kind.W:
                        model.add(begin >= self.end[earlier, k] + delay)
                if k:
                    model.add(begin >= self.end[number, k - 1])
                model.add(self.makespan >= self.end[number, k])

    def _rank(self, rank: int) -> None:
        """One operation, or pair, at a time."""
        model, duration = self.model, self.shop.times.duration
        intervals = []
        for number in self.shop.on[rank]:
            line = self.shop.lines.lines[number]
            for k in range(line.total):
                begin, end = self.begin[number, k], self.end[number, k]
                with_it = self._with(number, k)
                if not with_it:
                    model.add(end == begin + duration[number])
                    intervals.append(model.new_fixed_size_interval_var(begin, duration[number], ""))
                    continue
                alone = model.new_bool_var("")
                self.alone[number, k] = alone
                model.add_exactly_one([alone, *(chosen for chosen, _ in with_it)])
                intervals.append(
                    model.new_optional_fixed_size_interval_var(begin, duration[number], alone, "")
                )
                model.add(end == begin + duration[number]).only_enforce_if(alone)
                if line.kind == Kind.B:
                    intervals += self._together(number, k, with_it)
        model.add_no_overlap(intervals)

    def _with(self, number: int, k: int) -> list[tuple[Any, int]]:
        """The choices in which an operation is not alone, with the time of each."""
        shop = self.shop
        kind = shop.lines.lines[number].kind
        back = number - 1 if kind == Kind.W else number
        found = [
            (chosen, shop.pair[one])
            for (one, i, two, j), chosen in self.joined.items()
            if ((one, i) == (number, k) and kind == Kind.F) or ((two, j) == (back, k))
        ]
        if kind != Kind.F and (back, k) in self.fused:
            found.append((self.fused[back, k], shop.fused[back]))
        return found

    def _together(self, back: int, k: int, with_it: list[tuple[Any, int]]) -> list[Any]:
        """The intervals of a BW or a pair; all that is in it begins and ends with it."""
        model = self.model
        weights = self.shop.weights[back]
        begin, end = self.begin[back, k], self.end[back, k]
        members = {chosen.index: [(weights, k)] for chosen, _ in with_it}
        for (one, i, two, j), chosen in self.joined.items():
            if (two, j) == (back, k):
                members[chosen.index].append((one, i))
        intervals = []
        for chosen, time in with_it:
            intervals.append(model.new_optional_fixed_size_interval_var(begin, time, chosen, ""))
            model.add(end == begin + time).only_enforce_if(chosen)
            for member in members[chosen.index]:
                model.add(self.begin[member] == begin).only_enforce_if(chosen)
                model.add(self.end[member] == end).only_enforce_if(chosen)
        return intervals

    def _memory(self, rank: int) -> None:
        """What is held from F to W, within what the rank may hold."""
        shop, model = self.shop, self.model
        lines = shop.lines.lines
        intervals, demands = [], []
        for number in shop.on[rank]:
            if lines[number].kind != Kind.F:
                continue
            back, weights = number + 1, number + 2
            for k in range(lines[number].total):
                size, kept = shop.keep[number], shop.keep[number] + shop.keep[back]
                begin, turn, end = self.begin[number, k], self.end[back, k], self.end[weights, k]
                later = model.add(self.begin[weights, k] >= turn)
                if (weights, k) in self.alone:
                    later.only_enforce_if(self.alone[weights, k])
                spans = [(begin, end, size)] if kept == size else []
                spans = spans or [(begin, turn, size), (turn, end, kept)]
                if kept > size:
                    spans.append((self.begin[back, k], turn, kept - size))
                for low, high, demand in spans:
                    if demand:
                        length = model.new_int_var(0, self.horizon, "")
                        intervals.append(model.new_interval_var(low, length, high, ""))
                        demands.append(demand)
        if intervals and sum(demands) > self.most[rank]:
            model.add_cumulative(intervals, demands, self.most[rank])
        sizes = {shop.keep[n] for n in shop.on[rank] if lines[n].kind == Kind.F}
        forwards = [n for n in shop.on[rank] if lines[n].kind == Kind.F]
        if len(forwards) == 1 and shop.keep[forwards[0] + 1] == 0 and sizes != {0}:
            fit = self.most[rank] // max(sizes)
            for k in range(lines[forwards[0]].total - fit):
                after = self.end[forwards[0] + 2, k]
                if not self.joined:
                    model.add(self.begin[forwards[0], k + fit] >= after)

    def hint(self, order: Array) -> None:
        """Say where an order has its operations."""
        ends, finish = self.replay.ends(order[None])
        units, count = self.replay.units, len(self.shop.lines.lines)
        for rank, own in enumerate(order.tolist()):
            done = [0] * count
            for place, code in enumerate(own):
                end = int(finish[0, rank, place])
                begin = end - int(units.duration[code])
                for line in (units.first[code], units.second[code], units.third[code]):
                    if 0 <= line < count:
                        self.model.add_hint(self.begin[int(line), done[line]], begin)
                        self.model.add_hint(self.end[int(line), done[line]], end)
                        done[line] += 1
        self.model.add_hint(self.makespan, int(ends[0]))

    def order(self, solver: Any) -> Array:
        """What the solver found, as units in sequence."""
        units, count = self.replay.units, len(self.shop.lines.lines)
        code = {
            (int(one), int(two)): at
            for at, (one, two, three) in enumerate(
                zip(units.first, units.second, units.third, strict=True)
            )
            if three >= 0
        }
        taken: dict[tuple[int, int], int] = {}
        for (one, k, two, j), chosen in self.joined.items():
            if solver.value(chosen):
                taken |= {(one, k): code[one, two], (two, j): -1, (self.shop.weights[two], j): -1}
        for (back, k), chosen in self.fused.items():
            if solver.value(chosen):
                taken |= {(back, k): code[back, count], (self.shop.weights[back], k): -1}
        ranks = []
        for own in self.shop.on:
            events = sorted(
                (solver.value(self.begin[line, k]), solver.value(self.end[line, k]), line, k)
                for line in own
                for k in range(self.shop.lines.lines[line].total)
            )
            chosen_units = [taken.get((line, k), line) for _, _, line, k in events]
            ranks.append([unit for unit in chosen_units if unit >= 0])
        longest = max(
            sum(self.shop.lines.lines[line].total for line in own) for own in self.shop.on
        )
        return np.array([own + [units.nothing] * (longest - len(own)) for own in ranks])


def _same(shop: Shop, one: int, two: int) -> bool:
    """Whether two lines are of one stage of one flow."""
    first, second = shop.lines.lines[one], shop.lines.lines[two]
    return (first.flow, first.stage) == (second.flow, second.stage)
