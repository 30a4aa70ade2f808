"""Where a search around a schedule begins, and which of the orders that it met are shorter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.placement import Placement
from pipec.tune.orders import order_of, sequences
from pipec.tune.recipe import Origin, Recipe, Refused, Trial, made, tried
from pipec.tune.replay import Replay
from pipec.tune.setting import Setting
from pipec.tune.shop import Shop, shop_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Start:
    """An order, its makespan if messages never wait for each other, and what ranks may hold."""

    trial: Trial
    setting: Setting
    replay: Replay
    order: Array
    makespan: int
    most: Array

    @classmethod
    def of(cls, trial: Trial, setting: Setting, to_limit: bool) -> "Start":
        """The order of a schedule; within its own peak, or within the limit."""
        compiled, _ = made(trial.recipe, setting)
        shop = shop_at(setting, compiled.program.placement)
        replay = Replay(shop)
        order = sequences(compiled.program, replay)
        most = int((replay.held(order) + np.array(shop.base)).max())
        if to_limit and setting.limit:
            most += int((setting.limit.most - trial.peak) * shop.scale)
        makespan = int(replay.ends(order[None])[0][0])
        return cls(trial, setting, replay, order, makespan, most - np.array(shop.base))

    def certified(
        self, origin: Origin, orders: Sequence[tuple[int, Array]]
    ) -> list[Trial | Refused]:
        """What orders amount to that are shorter than the start."""
        recipe = self.trial.recipe
        name = recipe.title if recipe.order is None else recipe.name
        made_of = Recipe(origin, name, recipe.sizes)
        others = [one for one in orders if not np.array_equal(one[1], self.order)]
        return certified(made_of, self.setting, self.replay, others, self.trial.makespan)


def certified(
    recipe: Recipe,
    setting: Setting,
    replay: Replay,
    orders: Sequence[tuple[int, Array]],
    known: Fraction | None = None,
) -> list[Trial | Refused]:
    """What orders amount to under the channels asked for, if they are shorter than what is known;
    the last trial is the shortest.

    orders: each with its makespan if messages never wait for each other. Under any channels it
    takes at least that, so it is enough to go on while that is shorter than the best.
    """
    best, found = known, list[Trial | Refused]()
    for makespan, order in sorted(orders, key=lambda one: one[0]):
        if best is not None and makespan >= best * replay.shop.ticks:
            break
        one = tried(replace(recipe, order=order_of(replay, order)), setting)
        if isinstance(one, Refused):
            found.append(one)
        elif best is None or one.makespan < best:
            best = one.makespan
            found.append(one)
    return found


def shop_at(setting: Setting, placement: Placement) -> Shop:
    """The tables of a placement in a setting."""
    stages = placement.flows[0].stages
    return shop_of(placement, setting.costs_of(stages), setting.memory_of(stages))
