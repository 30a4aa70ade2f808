"""Many policies at once: list scheduling in simulated time, all candidates in lockstep in numpy.

In each step every rank whose next operation begins before anything that is not yet decided could
reach it takes that operation: the one with the smallest key of what is ready and admitted. So one
step decides for many ranks of every candidate, and a candidate costs tens of microseconds.

The rules are those of `pipec.order.greedy`: limits in flight and in memory, *room* and *patience*.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.tune.shop import UNLIMITED, Shop

Array = NDArray[Any]

NEVER = 1 << 60


@dataclass(frozen=True)
class Choices:
    """What `count` candidates prefer and how far they may go; arrays begin with the candidate.

    key: `[count, line, number]`, of what is ready the smallest goes first.
    caps: `[count, line]`, for each F the most of its line that may be in flight.
    most: `[count, rank]`, the most that a rank may hold.
    wait: `[count, line]`, the ticks that an operation waits for one with a smaller key.
    """

    key: Array
    caps: Array
    most: Array
    wait: Array

    @property
    def count(self) -> int:
        """How many candidates there are."""
        return len(self.key)


@dataclass(frozen=True)
class Outcome:
    """Per candidate: `ends`, `[count]`, the makespan, `NEVER` where it is stuck; `turn`, `[count,
    line, number]`, the step in which an operation was taken, which sorts those of a rank; `peak`,
    `[count, rank]`, the most that is held at once.
    """

    ends: Array
    turn: Array
    peak: Array


class Bench:
    """The tables of a shop as arrays, ranks by places; a rank with fewer lines has idle places."""

    def __init__(self, shop: Shop):
        self.shop = shop
        lines = shop.lines.lines
        self.numbers = max(line.total for line in lines)
        self.ranks, self.places = shop.ranks, max(map(len, shop.on))
        count = len(lines)
        self.always, self.idle = count, count + 1  # rows of what is there at once, and never
        self.line = np.full((self.ranks, self.places), self.idle)
        for rank, own in enumerate(shop.on):
            self.line[rank, : len(own)] = own
        self.source = np.full(count + 2, self.always)
        self.delay = np.zeros(count + 2, np.int64)
        for number, before in enumerate(shop.before):
            for earlier, delay in before:
                self.source[number], self.delay[number] = earlier, delay
        self.source[self.idle] = self.idle
        self.duration = np.append(shop.times.duration, [0, 0]).astype(np.int64)
        self.keep = np.append(shop.keep, [0, 0]).astype(np.int64)
        self.total = np.array([line.total for line in lines] + [0, 0])
        self.look = self._look()

    @cached_property
    def forward(self) -> Array:
        """`[rank, flow, chunk]`: the places of the F lines, -1 where there is none."""
        lines, flows = self.shop.lines.lines, len(self.shop.placement.flows)
        found: list[list[list[int]]] = [[[] for _ in range(flows)] for _ in range(self.ranks)]
        for rank, own in enumerate(self.shop.on):
            for place, number in enumerate(own):
                if lines[number].kind == Kind.F:
                    found[rank][lines[number].flow].append(place)
        widest = max(len(chunks) for rank in found for chunks in rank)
        table = np.full((self.ranks, flows, widest), -1)
        for rank, by_flow in enumerate(found):
            for flow, places in enumerate(by_flow):
                table[rank, flow, : len(places)] = places
        return table

    def _look(self) -> int:
        """The least time from the begin of an operation to what it makes possible elsewhere."""
        lines = self.shop.lines.lines
        spans = [
            int(self.duration[earlier]) + delay
            for number, before in enumerate(self.shop.before)
            for earlier, delay in before
            if lines[number].rank != lines[earlier].rank
        ]
        return max(min(spans, default=NEVER), 1)

    def run(self, choices: Choices) -> Outcome:
        """Schedule all candidates."""
        return _Run(self, choices).outcome()


class _Run:
    """The state of all candidates while they run."""

    def __init__(self, bench: Bench, choices: Choices):
        self.bench, self.choices = bench, choices
        count, ranks, rows = choices.count, bench.ranks, len(bench.source)
        self.width = bench.numbers + 1
        self.end = np.full((count, rows, self.width), NEVER)
        for row, total in enumerate(bench.total[: bench.always]):
            if bench.source[row] == bench.always:
                self.end[:, bench.always, :total] = 0
        self.flat = self.end.reshape(-1)
        self.turn = np.full((count, bench.always, bench.numbers), -1, np.int32)
        self.done = np.zeros((count, ranks, bench.places), np.int64)
        self.free = np.zeros((count, ranks), np.int64)
        self.held = np.zeros((count, ranks), np.int64)
        self.peak = np.zeros((count, ranks), np.int64)
        candidates = np.arange(count)[:, None, None]
        self.at = candidates * rows * self.width + bench.source[bench.line] * self.width
        self.own = candidates * rows * self.width + bench.line * self.width
        self.delay = bench.delay[bench.line]
        keys = np.full((count, rows, self.width), NEVER)
        keys[:, : bench.always, : bench.numbers] = choices.key
        self.keys = keys.reshape(-1)
        self.waits = bool(choices.wait.any())
        padded = np.concatenate([choices.wait, np.zeros((count, 2), np.int64)], axis=1)
        self.wait = padded[:, bench.line]
        caps = np.concatenate([choices.caps, np.full((count, 2), UNLIMITED)], axis=1)
        self.caps = caps[:, bench.line]
        self.grow = np.maximum(bench.keep, 0)[bench.line]
        self.limited = self.grow > 0

    def outcome(self) -> Outcome:
        """Take step after step until nothing moves."""
        step = 0
        while self._step(step):
            step += 1
        bench = self.bench
        whole = self.done.sum(axis=(1, 2)) == bench.total.sum()
        return Outcome(np.where(whole, self.free.max(axis=1), NEVER), self.turn, self.peak)

    def _step(self, step: int) -> bool:
        bench = self.bench
        ready = self.flat.take(self.at + self.done) + self.delay
        ready = np.where(self._admitted(), ready, NEVER)
        np.maximum(ready, self.free[:, :, None], out=ready)
        soonest = ready.min(axis=2)
        key = self.keys.take(self.own + self.done)
        pick = self._pick(key, ready, soonest)
        if self.waits:
            patient = soonest + np.take_along_axis(self.wait, pick[:, :, None], 2)[:, :, 0]
            pick = self._pick(key, ready, patient)
        first = soonest.min(axis=1)
        active = (soonest < first[:, None] + bench.look) & (soonest < NEVER)
        which, rank = np.nonzero(active)
        if not len(which):
            return False
        place = pick[which, rank]
        line, number = bench.line[rank, place], self.done[which, rank, place]
        end = ready[which, rank, place] + bench.duration[line]
        self.end[which, line, number] = end
        self.free[which, rank] = end
        self.turn[which, line, number] = step
        self.done[which, rank, place] = number + 1
        held = self.held[which, rank] + bench.keep[line]
        self.held[which, rank] = held
        self.peak[which, rank] = np.maximum(self.peak[which, rank], held)
        return True

    @staticmethod
    def _pick(key: Array, ready: Array, until: Array) -> Array:
        """The place with the smallest key of what is ready by then."""
        return np.where(ready <= until[:, :, None], key, NEVER + 1).argmin(axis=2)

    def _admitted(self) -> Array:
        """What no limit forbids."""
        room = (self.choices.most - self.held)[:, :, None] >= self.grow
        forward = self.bench.forward
        for flow in range(forward.shape[1]):
            places = forward[:, flow]
            whole = np.broadcast_to(places, (len(self.done), *places.shape))
            own = np.take_along_axis(self.done, whole, 2)
            back = np.take_along_axis(self.done, whole + 1, 2)
            self._bound(room, own, back, places)
        return room

    def _bound(self, room: Array, own: Array, back: Array, places: Array) -> None:
        """Limits in flight; and *room* for what is owed to the oldest microbatch."""
        ranks = np.arange(self.bench.ranks)[:, None]
        caps = self.caps[:, ranks, places]
        fine = own - back < caps
        if places.shape[1] > 1:
            oldest = own.min(axis=2, keepdims=True)
            size = self.grow[ranks, places]
            owed = np.where(own == oldest, size, 0).sum(axis=2, keepdims=True)
            owed = np.where(own == oldest, 0, owed)
            fine &= (self.choices.most - self.held)[:, :, None] >= size + owed
        room[:, ranks, places] &= fine
