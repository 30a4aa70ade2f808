"""The way to the shortest cycle of a placement within a peak, and what its orders amount to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.tune.cycle import Cycle, Timing, cycle_of, doubled, repeated, slots, ticks, tightened
from pipec.tune.replay import Replay
from pipec.tune.shop import Shop

Array = NDArray[Any]


@dataclass(frozen=True)
class Search:
    """Cycles of a shop in which no rank holds more than `most` beside its base, with `each`
    microbatches of every flow.
    """

    shop: Shop
    most: Array
    each: int
    seed: int

    def orders(self) -> list[tuple[int, Array]]:
        """Every order that is met on the way to the least period, with its makespan."""
        replay = Replay(self.shop)
        found = [repeated(replay, cycle) for cycle in self._met()]
        legal = [order for order in found if replay.legal(order[None], self.most)[0]]
        return [(int(replay.ends(order[None])[0][0]), order) for order in legal]

    def _met(self) -> Iterator[Cycle]:
        """From coarse slots to times as they are, to shorter and shorter periods."""
        for rough in self._rough():
            yield rough
            known = tightened(self.shop, ticks(self.shop), self._limit, rough, _EFFORT, self.seed)
            if known is None:
                continue
            yield known
            yield from self._shorter(known)

    def _rough(self) -> Iterator[Cycle]:
        """In slots: the least period of one microbatch, or shorter ones of two."""
        timing = slots(self.shop)
        least = period = max(timing.work(self.shop), self._lives(timing), 1)
        one = None
        for _ in range(_TRIES):
            one = self._cycle(timing, 1, period, None)
            if one:
                break
            period += max(1, least // 12)
        if one is None or self.each == 1:
            yield from [one] if one else []
            return
        two: Cycle | None = doubled(one)
        while two and two.period > 2 * least:
            two = self._cycle(timing, 2, two.period - 1, two)
            yield from [two] if two else []

    def _shorter(self, known: Cycle) -> Iterator[Cycle]:
        """Periods less and less, each from the one before, until two in a row are not found."""
        timing = ticks(self.shop)
        least = known.each * max(timing.work(self.shop), self._lives(timing))
        step, failed = max(1, known.period // 40), 0
        period, begin = known.period - step, known
        while failed < 2 and period >= least:
            found = self._cycle(timing, known.each, period, known, first=True)
            failed = 0 if found else failed + 1
            known = found or known
            period -= step
        if known is not begin:
            yield known
            soonest = self._cycle(timing, known.each, known.period, known)
            yield from [soonest] if soonest else []

    def _cycle(
        self, timing: Timing, each: int, period: int, near: Cycle | None, first: bool = False
    ) -> Cycle | None:
        effort = _EFFORT * each
        return cycle_of(
            self.shop, timing, self._limit, each, period, effort, self.seed, near, first
        )

    @property
    def _limit(self) -> list[int]:
        return [int(most) for most in self.most]

    def _lives(self, timing: Timing) -> int:
        """No period is shorter: what a rank holds, and how long, over what it may hold."""
        heads, keep = _heads(self.shop, timing), self.shop.keep
        ends = [head + time for head, time in zip(heads, timing.duration, strict=True)]
        least = 0
        for own, most in zip(self.shop.on, self._limit, strict=True):
            held = sum(
                keep[line] * (ends[line + 1] - heads[line])
                + (keep[line] + keep[line + 1]) * (ends[line + 2] - ends[line + 1])
                for line in own
                if self.shop.lines.lines[line].kind == Kind.F
            )
            least = max(least, -(-held // max(most, 1)))
        return least


_TRIES, _EFFORT = 8, 0.5


def _heads(shop: Shop, timing: Timing) -> list[int]:
    """When the operations of a microbatch begin that is alone."""
    heads = [0] * len(shop.lines.lines)
    for _ in heads:
        for line, waits in enumerate(timing.before):
            known = [heads[other] + timing.duration[other] + late for other, late in waits]
            heads[line] = max([heads[line], *known])
    return heads
