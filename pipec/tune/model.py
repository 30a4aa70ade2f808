"""A placement as a model of CP-SAT: when each operation begins, what is joined, and what is held.

Microbatches of one line are alike, so every schedule can be relabelled until each line does them in
order; the model has that as a constraint. Messages take their time and do not queue, so a bound
holds for all channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.tune.bounds import margins
from pipec.tune.replay import Replay

Array = NDArray[Any]
Operation = tuple[int, int]
"""A line and a number of it."""


class Model:
    """Begin and end of all operations, which of them are joined, and the makespan.

    `order` is where the solver begins. Units outside of `window`, `[rank]` of places from and to,
    stay as they are in it, in sequence; without a window everything may move.
    """

    def __init__(
        self,
        model: Any,
        replay: Replay,
        most: Sequence[int],
        least: int,
        order: Array,
        window: Sequence[tuple[int, int]] | None = None,
    ):
        self.model, self.replay, self.shop, self.most = model, replay, replay.shop, most
        self.lines = self.shop.lines.lines
        self.fixed: list[list[list[Operation]]] = []
        self.free: list[list[Operation]] = []
        self._divide(order, window)
        ends, finish = replay.ends(order[None])
        self.horizon = int(ends[0])
        self.makespan = model.new_int_var(least, max(self.horizon, least), "makespan")
        model.add_hint(self.makespan, self.horizon)
        heads, self.tails = self._margins()
        self.begin = {
            (line, k): model.new_int_var(min(heads[line][k], self.horizon), self.horizon, "")
            for line, k in self._all()
        }
        self.end = {one: model.new_int_var(0, self.horizon, "") for one in self._all()}
        self.joined: dict[tuple[Operation, Operation], Any] = {}
        self._joins()
        for rank in range(self.shop.ranks):
            self._rank(rank)
            self._memory(rank)
        self._lines()
        self._hint(order, finish[0])
        model.minimize(self.makespan)

    def _margins(self) -> tuple[list[list[int]], list[list[int]]]:
        """The least time before and behind each operation: nothing where some may be joined, since
        what is in one unit begins and ends together.
        """
        if self.replay.joined:
            none = [[0] * line.total for line in self.lines]
            return none, none
        return margins(self.shop, self.most)

    def _all(self) -> list[Operation]:
        return [(n, k) for n, line in enumerate(self.lines) for k in range(line.total)]

    def _divide(self, order: Array, window: Sequence[tuple[int, int]] | None) -> None:
        """Per rank the operations of its units in sequence: fixed before, free, fixed behind."""
        self.before: list[list[tuple[int, list[Operation]]]] = []
        self.behind: list[list[tuple[int, list[Operation]]]] = []
        for rank, units in enumerate(placed(self.replay, order)):
            low, high = window[rank] if window else (0, len(units))
            self.before.append(units[:low])
            self.behind.append(units[high:])
            self.free.append([one for _, members in units[low:high] for one in members])

    def _joins(self) -> None:
        """A choice for each B that may be fused, and each F that may be a pair with a BW."""
        for rank, free in enumerate(self.free):
            here = set(free)
            for (one, back), _ in self.replay.joined.items():
                if self.lines[one].rank != rank:
                    continue
                same = self.lines[one].stage == self.lines[back].stage
                same = same and self.lines[one].flow == self.lines[back].flow
                for k in range(self.lines[one].total):
                    for j in range(self.lines[back].total):
                        fits = j == k if one == back else not same or j < k
                        needed = {(one, k), (back, j), (self.shop.weights[back], j)}
                        if fits and needed <= here:
                            self.joined[(one, k), (back, j)] = self.model.new_bool_var("")

    def _lines(self) -> None:
        """What waits for what, in each line and between lines."""
        for number, k in self._all():
            begin, end = self.begin[number, k], self.end[number, k]
            self.model.add(self.makespan >= end + self.tails[number][k])
            if self.lines[number].kind != Kind.W:
                for earlier, delay in self.shop.before[number]:
                    self.model.add(begin >= self.end[earlier, k] + delay)
            if k:
                self.model.add(begin >= self.end[number, k - 1])

    def _rank(self, rank: int) -> None:
        """One unit at a time: fixed ones in sequence, free ones in any between them."""
        for units in (self.before[rank], self.behind[rank]):
            for at, (code, members) in enumerate(units):
                self._together(members, int(self.replay.units.duration[code]))
                if at:
                    self._after(units[at - 1][1][0], members[0])
        intervals = []
        for one in self.free[rank]:
            intervals += self._intervals(one)
            if self.before[rank]:
                self._after(self.before[rank][-1][1][0], one)
            if self.behind[rank]:
                self._after(one, self.behind[rank][0][1][0])
        if self.before[rank] and self.behind[rank] and not self.free[rank]:
            self._after(self.before[rank][-1][1][0], self.behind[rank][0][1][0])
        self.model.add_no_overlap(intervals)

    def _after(self, one: Operation, other: Operation) -> None:
        self.model.add(self.begin[other] >= self.end[one])

    def _together(self, members: list[Operation], time: int, only: Any = None) -> None:
        """Operations that begin together and take so long; only if something is chosen."""
        said = [self.model.add(self.end[members[0]] == self.begin[members[0]] + time)]
        for other in members[1:]:
            said.append(self.model.add(self.begin[other] == self.begin[members[0]]))
            said.append(self.model.add(self.end[other] == self.end[members[0]]))
        for one in said if only is not None else ():
            one.only_enforce_if(only)

    def _intervals(self, one: Operation) -> list[Any]:
        """The intervals of a free operation: alone, or, for a B, with all that it is joined to."""
        model, number = self.model, one[0]
        begin, time = self.begin[one], self.shop.times.duration[number]
        chosen = {
            pair: choice for pair, choice in self.joined.items() if one in self._members(*pair)
        }
        if not chosen:
            self._together([one], time)
            self._weights_wait(one)
            return [model.new_fixed_size_interval_var(begin, time, "")]
        alone = model.new_bool_var("")
        model.add_exactly_one([alone, *chosen.values()])
        self._together([one], time, alone)
        self._weights_wait(one, alone)
        intervals = [model.new_optional_fixed_size_interval_var(begin, time, alone, "")]
        if self.lines[number].kind == Kind.B:
            for pair, choice in chosen.items():
                code = self.replay.joined[pair[0][0], pair[1][0]]
                time = int(self.replay.units.duration[code])
                self._together([one, *(self._members(*pair) - {one})], time, choice)
                intervals.append(
                    model.new_optional_fixed_size_interval_var(begin, time, choice, "")
                )
        return intervals

    def _members(self, one: Operation, back: Operation) -> set[Operation]:
        return {one, back, (self.shop.weights[back[0]], back[1])}

    def _weights_wait(self, one: Operation, only: Any = None) -> None:
        """A W comes behind its B, unless the two are one."""
        if self.lines[one[0]].kind == Kind.W:
            said = self.model.add(self.begin[one] >= self.end[one[0] - 1, one[1]])
            if only is not None:
                said.only_enforce_if(only)

    def _memory(self, rank: int) -> None:
        """What is held from F to W, within what the rank may hold."""
        shop = self.shop
        intervals, demands = [], []
        for number in (n for n in shop.on[rank] if self.lines[n].kind == Kind.F):
            size, kept = shop.keep[number], shop.keep[number] + shop.keep[number + 1]
            for k in range(self.lines[number].total):
                begin, end = self.begin[number, k], self.end[number + 2, k]
                turn = self.end[number + 1, k]
                spans = [(begin, end, size)] if kept == size else []
                spans = spans or [(begin, turn, size), (turn, end, kept)]
                if kept > size:
                    spans.append((self.begin[number + 1, k], turn, kept - size))
                for low, high, demand in spans:
                    if demand:
                        length = self.model.new_int_var(0, self.horizon, "")
                        intervals.append(self.model.new_interval_var(low, length, high, ""))
                        demands.append(demand)
        if sum(demands) > self.most[rank]:
            self.model.add_cumulative(intervals, demands, self.most[rank])
        self._plain_memory(rank)

    def _plain_memory(self, rank: int) -> None:
        """Where a rank has one stage and only W gives back, the same said as a sequence."""
        forwards = [n for n in self.shop.on[rank] if self.lines[n].kind == Kind.F]
        number = forwards[0]
        if len(forwards) > 1 or self.shop.keep[number + 1] or self.replay.paired:
            return
        fit = self.most[rank] // self.shop.keep[number] if self.shop.keep[number] else 1 << 30
        for k in range(self.lines[number].total - fit):
            self._after((number + 2, k), (number, k + fit))

    def _hint(self, order: Array, finish: Array) -> None:
        """Say where the order has its operations, and what it joins."""
        chosen = set()
        for rank, units in enumerate(placed(self.replay, order)):
            for place, (code, members) in enumerate(units):
                end = int(finish[rank, place])
                begin = end - int(self.replay.units.duration[code])
                for one in members:
                    self.model.add_hint(self.begin[one], begin)
                    self.model.add_hint(self.end[one], end)
                if len(members) > 1:
                    chosen.add((members[0], members[-2]))
        for pair, choice in self.joined.items():
            self.model.add_hint(choice, pair in chosen)

    def order(self, solver: Any) -> Array:
        """What the solver found, as units in sequence."""
        ranks, longest = [], max(sum(self.lines[n].total for n in own) for own in self.shop.on)
        code: dict[Operation, int] = {}
        for pair, choice in self.joined.items():
            if solver.value(choice):
                code |= dict.fromkeys(self._members(*pair), -1)
                code[pair[1]] = self.replay.joined[pair[0][0], pair[1][0]]
        for rank, free in enumerate(self.free):
            moment = {
                one: (solver.value(self.begin[one]), solver.value(self.end[one])) for one in free
            }
            units = [
                code.get(one, one[0]) for one in sorted(free, key=lambda one: (moment[one], one))
            ]
            own = [unit for unit, _ in self.before[rank]] + [unit for unit in units if unit >= 0]
            own += [unit for unit, _ in self.behind[rank]]
            ranks.append(own + [self.replay.units.nothing] * (longest - len(own)))
        return np.array(ranks)


def placed(replay: Replay, order: Array) -> list[list[tuple[int, list[Operation]]]]:
    """Per rank its units with their operations: an F, then a B, then its W."""
    units, count = replay.units, len(replay.shop.lines.lines)
    ranks = []
    for own in order.tolist():
        done = [0] * count
        found = []
        for code in own:
            members = []
            for line in (int(units.first[code]), int(units.second[code]), int(units.third[code])):
                if 0 <= line < count:
                    members.append((line, done[line]))
                    done[line] += 1
            if members:
                found.append((code, members))
        ranks.append(found)
    return ranks
