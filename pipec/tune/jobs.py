"""Pieces of a search, each for one process: the same job gives the same result anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.placement import Flow, Placement
from pipec.tune.bounds import bounds
from pipec.tune.climb import climb
from pipec.tune.cycles import Search
from pipec.tune.recipe import STUCK, TOO_LARGE, Proof, Recipe, Refused, Trial, tried
from pipec.tune.replay import Replay
from pipec.tune.screen import ALIKE, Sketch, screened, shortest
from pipec.tune.setting import Setting
from pipec.tune.solver import improve, solve
from pipec.tune.start import Start, certified, shop_at
from pipec.tune.texts import Knobs

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """What a job found, how many candidates it ran, and what it proved."""

    trials: tuple[Trial, ...]
    count: int
    proofs: tuple[Proof, ...] = ()
    refused: tuple[str, ...] = ()
    """Codes of findings, one for each candidate that came to nothing."""
    sketches: tuple[Sketch, ...] = ()


def result_of(
    found: Sequence[Trial | Refused], count: int, proofs: tuple[Proof, ...] = ()
) -> Result:
    """What came of so many candidates."""
    trials = tuple(one for one in found if isinstance(one, Trial))
    refused = tuple(one.code for one in found if isinstance(one, Refused))
    return Result(trials, count, proofs, refused)


@dataclass(frozen=True)
class Compile:
    """Compile and verify a recipe."""

    recipe: Recipe

    def run(self, setting: Setting) -> Result:
        """One trial, or none if it cannot be made."""
        return result_of([tried(self.recipe, setting)], 1)


@dataclass(frozen=True)
class Screen:
    """Run many policies roughly."""

    knobs: tuple[Knobs, ...]

    def run(self, setting: Setting) -> Result:
        """The best sketches for each amount that a rank may hold."""
        first = self.knobs[0]
        shop = shop_at(setting, placed(first.placement, first.chunks, setting))
        limit = setting.limit.most * shop.scale if setting.limit else float("inf")
        sketches = screened(shop, self.knobs)
        fitting = [sketch for sketch in sketches if sketch.peak <= limit]
        stuck, large = len(self.knobs) - len(sketches), len(sketches) - len(fitting)
        refused = (STUCK,) * stuck + (TOO_LARGE,) * large
        best = shortest(fitting, ALIKE if setting.queues else 1)
        return Result((), len(self.knobs), refused=refused, sketches=tuple(best))


@dataclass(frozen=True)
class Repeat:
    """Ask the solver what can be repeated in the shortest period, holding so much."""

    placement: str
    chunks: int
    peak: Fraction
    each: int = 1

    def run(self, setting: Setting) -> Result:
        """The orders that follow, the shortest last."""
        placement = placed(self.placement, self.chunks, setting)
        shop = shop_at(setting, placement)
        most = int(self.peak * shop.scale) - np.array(shop.base)
        orders = Search(shop, most, self.each, setting.seed).orders()
        sizes = {"P": setting.ranks, "M": setting.microbatches}
        recipe = Recipe("solver", f"cycle {self.placement}", sizes)
        found = certified(recipe, setting, Replay(shop), orders)
        return result_of(found, max(len(orders), 1))


@dataclass(frozen=True)
class Climb:
    """Move the operations of a schedule about, within its own peak or within the limit."""

    start: Trial
    seed: tuple[int, ...]
    steps: int
    width: int = 64
    to_limit: bool = False

    def run(self, setting: Setting) -> Result:
        """The best order met, if it is shorter than the start."""
        begin = Start.of(self.start, setting, self.to_limit)
        rng = np.random.default_rng([setting.seed, *self.seed])
        width = begin.replay.shop.fitting(self.width)
        reached = climb(begin.replay, begin.order, begin.most, rng, width, self.steps)
        return result_of(begin.certified("search", reached.orders), reached.tried)


@dataclass(frozen=True)
class Solve:
    """Ask the solver for the shortest order, and for a proof that none is shorter."""

    start: Trial
    effort: float
    to_limit: bool = False

    def run(self, setting: Setting) -> Result:
        """What the solver found, if it is shorter, and its bound."""
        begin = Start.of(self.start, setting, self.to_limit)
        shop, most = begin.replay.shop, begin.most.tolist()
        least = bounds(shop, most).best
        if least >= begin.makespan:
            return Result((), 0)
        solved = solve(begin.replay, most, begin.order, least, self.effort, setting.seed)
        peak = Fraction(int((begin.most + np.array(shop.base)).max()), shop.scale)
        proof = Proof(self.start.layout, peak, Fraction(solved.bound, shop.ticks))
        return result_of(begin.certified("solver", solved.orders), 1, (proof,))


@dataclass(frozen=True)
class Improve:
    """Ask the solver for the best order of a span of time, all else staying as it is."""

    start: Trial
    seed: tuple[int, ...]
    effort: float
    to_limit: bool = False

    def run(self, setting: Setting) -> Result:
        """What the solver found, if it is shorter."""
        begin = Start.of(self.start, setting, self.to_limit)
        rng = np.random.default_rng([setting.seed, *self.seed])
        share = min(1.0, float(rng.choice(_SPANS)) / begin.order.size)
        low = min(max(float(rng.uniform(-share, 1)), 0.0), 1 - share)
        span = (low, low + share)
        solved = improve(begin.replay, begin.most.tolist(), begin.order, 0, span, self.effort)
        return result_of(begin.certified("solver", solved.orders), 1)


_SPANS = (80, 160, 320)
"""About so many operations are free at a time, often those at the begin or at the end."""

Job = Compile | Screen | Repeat | Climb | Solve | Improve


def placed(name: str, chunks: int, setting: Setting) -> Placement:
    """A placement by its name, with so many chunks on each rank."""
    ranks, count = setting.ranks, setting.microbatches
    if name == "bidirectional":
        down = Flow("down", count // 2, tuple(range(ranks)))
        up = Flow("up", count // 2, tuple(reversed(range(ranks))))
        return Placement(ranks, (down, up))
    stages = ranks * chunks
    held = [
        min(stage, 2 * ranks - 1 - stage) if name == "v" else stage % ranks
        for stage in range(stages)
    ]
    return Placement(ranks, (Flow("main", count, tuple(held)),))


def parts(knobs: Sequence[Knobs], size: int) -> list[tuple[Knobs, ...]]:
    """Knobs in pieces of one size."""
    return [tuple(knobs[at : at + size]) for at in range(0, len(knobs), size)]
