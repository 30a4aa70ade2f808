"""Pieces of a search, each for one process: the same job gives the same result anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipec.program.placement import Flow, Placement
from pipec.tune.climb import climb
from pipec.tune.orders import order_of, sequences
from pipec.tune.recipe import Recipe, Trial, made, tried
from pipec.tune.replay import Replay
from pipec.tune.screen import Sketch, screened
from pipec.tune.setting import Setting
from pipec.tune.shop import Shop, shop_of
from pipec.tune.texts import Knobs, policy


@dataclass(frozen=True)
class Result:
    """What a job found, and how many candidates it ran."""

    trials: tuple[Trial, ...]
    count: int


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
        compiled, _ = made(self.start.recipe, setting)
        shop = shop_at(setting, compiled.program.placement)
        replay = Replay(shop)
        order = sequences(compiled.program, replay)
        held = replay.held(order)
        most = np.full(shop.ranks, (held + np.array(shop.base)).max())
        if self.to_limit and setting.limit:
            most += int((setting.limit.most - self.start.peak) * shop.scale)
        rng = np.random.default_rng([setting.seed, *self.seed])
        first = int(replay.ends(order[None])[0][0])
        reached = climb(replay, order, most - shop.base, rng, self.width, self.steps)
        if reached.makespan >= first:
            return Result((), reached.tried)
        recipe = Recipe(
            "search",
            _name(self.start),
            self.start.recipe.parameters,
            order=order_of(replay, reached.order),
        )
        trial = tried(recipe, setting)
        return Result((trial,) if trial else (), reached.tried)


Job = Compile | Screen | Climb


def _name(start: Trial) -> str:
    """`zbv, moved`: what a search began with."""
    name = start.recipe.title
    return name if start.recipe.origin == "search" else f"{name}, moved"


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
