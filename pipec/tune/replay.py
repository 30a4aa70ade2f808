"""Many orders at once: when each one ends, or that it cannot run, in lockstep in numpy.

An order is, per rank, a sequence of units: a line, a BW, or an OVERLAP of an F and a BW. In each
step every rank of every candidate runs its next unit if what that needs is there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.tune.shop import Shop

Array = NDArray[Any]

NEVER = 1 << 60


@dataclass(frozen=True)
class Units:
    """What a rank may run at once, as rows: lines first, then BW, then pairs; at the end `nothing`,
    which fills places, and `stop`.

    `first` and `second` are lines, or `idle`; `third` is the W that is in it, or -1.
    """

    first: Array
    second: Array
    third: Array
    duration: Array
    grow: Array
    keep: Array

    @property
    def nothing(self) -> int:
        """The code of a place without work."""
        return len(self.first) - 2

    @property
    def stop(self) -> int:
        """The code behind the end of a rank."""
        return len(self.first) - 1


def units_of(shop: Shop) -> Units:
    """All units of a shop: BW where it is cheaper than B and W, pairs where they are cheaper."""
    lines, idle = shop.lines.lines, len(shop.lines.lines)
    duration, keep = shop.times.duration, shop.keep
    rows = [(n, idle, -1, duration[n], max(keep[n], 0), keep[n]) for n in range(len(lines))]
    backs = [n for n, line in enumerate(lines) if line.kind == Kind.B]
    for back in backs:
        weights = shop.weights[back]
        if shop.fused[back] < duration[back] + duration[weights]:
            kept = keep[back] + keep[weights]
            rows.append((back, idle, weights, shop.fused[back], 0, kept))
    for number, line in enumerate(lines):
        for back in backs if line.kind == Kind.F and shop.pair[number] else ():
            weights = shop.weights[back]
            saves = shop.pair[number] < duration[number] + shop.fused[back]
            if saves and lines[back].rank == line.rank:
                kept = keep[number] + keep[back] + keep[weights]
                rows.append((number, back, weights, shop.pair[number], max(keep[number], 0), kept))
    rows += [(idle, idle, -1, 0, 0, 0)] * 2
    return Units(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))


class Replay:
    """Runs orders of one shop."""

    def __init__(self, shop: Shop):
        self.shop, self.units = shop, units_of(shop)
        lines = shop.lines.lines
        count = len(lines)
        self.numbers = max(line.total for line in lines)
        self.source = np.full(count + 1, count)
        self.delay = np.zeros(count + 1, np.int64)
        for number, before in enumerate(shop.before):
            for earlier, delay in before:
                self.source[number], self.delay[number] = earlier, delay
        self.paired = bool((self.units.second < count).any())
        self.joined = self._joined()

    def _joined(self) -> dict[tuple[int, int], int]:
        """The code of an F with a B, as a pair, and of a B with itself, as a BW."""
        units, count = self.units, len(self.shop.lines.lines)
        return {
            (int(one), int(two) if two < count else int(one)): code
            for code, (one, two, three) in enumerate(
                zip(units.first, units.second, units.third, strict=True)
            )
            if three >= 0
        }

    def legal(self, orders: Array, most: Array) -> Array:
        """`[candidate]`: whether no rank holds more than `most[rank]`, nor runs a W too early."""
        units = self.units
        after = np.cumsum(units.keep[orders], axis=2)
        before = after - units.keep[orders]
        fine = (before + units.grow[orders] <= most[None, :, None]).all(axis=(1, 2))
        for back, weights in enumerate(self.shop.weights):
            if weights >= 0:
                here = orders[:, self.shop.lines.lines[back].rank]
                pending = ((units.first == back) | (units.second == back)).astype(np.int64)
                pending -= (units.first == weights) | (units.third == weights)
                fine &= (np.cumsum(pending[here], axis=1) >= 0).all(axis=1)
        return np.asarray(fine)

    def held(self, order: Array) -> Array:
        """`[rank]`: the most that each rank holds in an order, beside its base."""
        after = np.cumsum(self.units.keep[order], axis=1)
        return np.asarray((after - self.units.keep[order] + self.units.grow[order]).max(axis=1))

    def ends(self, orders: Array) -> tuple[Array, Array]:
        """`[candidate]`: the makespan, `NEVER` where an order stops; `[candidate, rank, place]`:
        when each unit ends.
        """
        count, ranks, places = orders.shape
        rows, width = len(self.source), self.numbers + 1
        end = np.full((count, rows, width), NEVER)
        end[:, -1] = 0
        flat = end.reshape(-1)
        stop = np.full((count, ranks, 1), self.units.stop)
        codes = np.concatenate([orders, stop], axis=2).reshape(-1)
        done = np.zeros((count, rows), np.int64)
        free = np.zeros((count, ranks), np.int64)
        at = np.arange(count * ranks).reshape(count, ranks) * (places + 1)
        base = np.arange(count)[:, None]
        finish = np.zeros(count * ranks * (places + 1), np.int64)
        while True:
            code = codes.take(at)
            ready = self._ready(self.units.first.take(code), flat, done, base)
            if self.paired:
                other = self._ready(self.units.second.take(code), flat, done, base)
                np.maximum(ready, other, out=ready)
            which, rank = np.nonzero((ready < NEVER) & (code < self.units.stop))
            if not len(which):
                break
            moved = code[which, rank]
            ended = np.maximum(ready[which, rank], free[which, rank]) + self.units.duration[moved]
            free[which, rank] = ended
            finish[at[which, rank]] = ended
            at[which, rank] += 1
            for lines in (self.units.first, self.units.second)[: 1 + self.paired]:
                line = lines[moved]
                end[which, line, done[which, line]] = np.where(line < rows - 1, ended, 0)
                done[which, line] += line < rows - 1
        whole = (codes.take(at) == self.units.stop).all(axis=1)
        finish = finish.reshape(count, ranks, places + 1)[:, :, :-1]
        return np.where(whole, free.max(axis=1), NEVER), finish

    def _ready(self, line: Array, flat: Array, done: Array, base: Array) -> Array:
        rows, width = len(self.source), self.numbers + 1
        source = self.source[line]
        number = done[base, line]
        return flat.take((base * rows + source) * width + number) + self.delay[line]
