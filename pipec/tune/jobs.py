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
from pipec.tune.orders import order_of, sequences
from pipec.tune.recipe import Origin, Proof, Recipe, Trial, made, tried
from pipec.tune.replay import Replay
from pipec.tune.screen import Sketch, screened
from pipec.tune.setting import Setting
from pipec.tune.shop import Shop, shop_of
from pipec.tune.solver import improve, solve
from pipec.tune.texts import Knobs, policy

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """What a job found, how many candidates it ran, and what it proved."""

    trials: tuple[Trial, ...]
    count: int
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True)
class Compile:
    """Compile and verify a recipe."""

    recipe: Recipe

    def run(self, setting: Setting) -> Result:
        """One trial, or none if it cannot be made."""
        trial = tried(self.recipe, setting)
        return Result((trial,) if trial else (), 1)


@dataclass(frozen=True)
class Screen:
    """Run many policies roughly, and compile the best for each amount that a rank may hold."""

    knobs: tuple[Knobs, ...]
    most: int = 12

    def run(self, setting: Setting) -> Result:
        """The trials of the best knobs."""
        shop = shop_at(setting, placement_of(self.knobs[0], setting))
        limit = _limit(setting, shop)
        best: list[Sketch] = []
        for sketch in sorted(screened(shop, self.knobs), key=lambda one: (one.makespan, one.peak)):
            if sketch.peak <= limit and all(sketch.peak < other.peak for other in best):
                best.append(sketch)
        kept = [sketch.knobs for sketch in best]
        recipes = [
            policy(knobs, setting.ranks, setting.microbatches) for knobs in kept[: self.most]
        ]
        trials = [tried(recipe, setting) for recipe in recipes]
        return Result(tuple(trial for trial in trials if trial), len(self.knobs) + len(recipes))


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
        begin = _Start.of(self.start, setting, self.to_limit)
        rng = np.random.default_rng([setting.seed, *self.seed])
        width = begin.replay.shop.fitting(self.width)
        reached = climb(begin.replay, begin.order, begin.most, rng, width, self.steps)
        trials = begin.trials("search", reached.order, reached.makespan)
        return Result(trials, reached.tried)


@dataclass(frozen=True)
class Solve:
    """Ask the solver for the shortest order, and for a proof that none is shorter."""

    start: Trial
    effort: float
    to_limit: bool = False

    def run(self, setting: Setting) -> Result:
        """What the solver found, if it is shorter, and its bound."""
        begin = _Start.of(self.start, setting, self.to_limit)
        shop, most = begin.replay.shop, begin.most.tolist()
        least = bounds(shop, most).best
        if least >= begin.makespan:
            return Result((), 0)
        solved = solve(begin.replay, most, begin.order, least, self.effort, setting.seed)
        peak = Fraction(int((begin.most + np.array(shop.base)).max()), shop.scale)
        proof = Proof(self.start.layout, peak, Fraction(solved.bound, shop.ticks))
        return Result(begin.trials("solver", solved.order, solved.makespan), 1, (proof,))


@dataclass(frozen=True)
class Improve:
    """Ask the solver for the best order of a span of time, all else staying as it is."""

    start: Trial
    seed: tuple[int, ...]
    effort: float
    to_limit: bool = False

    def run(self, setting: Setting) -> Result:
        """What the solver found, if it is shorter."""
        begin = _Start.of(self.start, setting, self.to_limit)
        rng = np.random.default_rng([setting.seed, *self.seed])
        share = min(1.0, float(rng.choice(_SPANS)) / begin.order.size)
        low = min(max(float(rng.uniform(-share, 1)), 0.0), 1 - share)
        span = (low, low + share)
        solved = improve(begin.replay, begin.most.tolist(), begin.order, 0, span, self.effort)
        return Result(begin.trials("solver", solved.order, solved.makespan), 1)


_SPANS = (60, 120, 200)
"""About so many operations are free at a time, often those at the begin or at the end."""

Job = Compile | Screen | Climb | Solve | Improve


@dataclass(frozen=True)
class _Start:
    """Where a job begins: an order, its makespan, and what ranks may hold."""

    trial: Trial
    setting: Setting
    replay: Replay
    order: Array
    makespan: int
    most: Array

    @classmethod
    def of(cls, trial: Trial, setting: Setting, to_limit: bool) -> "_Start":
        compiled, _ = made(trial.recipe, setting)
        shop = shop_at(setting, compiled.program.placement)
        replay = Replay(shop)
        order = sequences(compiled.program, replay)
        most = int((replay.held(order) + np.array(shop.base)).max())
        if to_limit and setting.limit:
            most += int((setting.limit.most - trial.peak) * shop.scale)
        makespan = int(replay.ends(order[None])[0][0])
        return cls(trial, setting, replay, order, makespan, most - np.array(shop.base))

    def trials(self, origin: Origin, order: Array, makespan: int) -> tuple[Trial, ...]:
        """The certified trial of an order that is shorter than what was known."""
        known = self.trial.makespan * self.replay.shop.ticks
        if makespan >= known:
            return ()
        recipe = self.trial.recipe
        name = recipe.title if recipe.order is None else recipe.name
        made_of = Recipe(origin, name, recipe.sizes, order=order_of(self.replay, order))
        trial = tried(made_of, self.setting)
        return (trial,) if trial else ()


def shop_at(setting: Setting, placement: Placement) -> Shop:
    """The tables of a placement in a setting."""
    stages = placement.flows[0].stages
    return shop_of(placement, setting.costs_of(stages), setting.memory_of(stages))


def placement_of(knobs: Knobs, setting: Setting) -> Placement:
    """The placement that a policy is about."""
    ranks, count = setting.ranks, setting.microbatches
    if knobs.placement == "bidirectional":
        down = Flow("down", count // 2, tuple(range(ranks)))
        up = Flow("up", count // 2, tuple(reversed(range(ranks))))
        return Placement(ranks, (down, up))
    stages = ranks * knobs.chunks
    held = [
        min(stage, 2 * ranks - 1 - stage) if knobs.placement == "v" else stage % ranks
        for stage in range(stages)
    ]
    return Placement(ranks, (Flow("main", count, tuple(held)),))


def _limit(setting: Setting, shop: Shop) -> float:
    return float(setting.limit.most * shop.scale) if setting.limit else float("inf")


def parts(knobs: Sequence[Knobs], size: int) -> list[tuple[Knobs, ...]]:
    """Knobs in pieces of one size."""
    return [tuple(knobs[at : at + size]) for at in range(0, len(knobs), size)]
