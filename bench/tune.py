"""Candidates that a search makes and simulates, per second of CPU time on one core, at P=8, M=24.

python bench/tune.py
"""

import time
from collections.abc import Callable

import numpy as np

from pipec.program.costs import Costs
from pipec.tune.climb import climb
from pipec.tune.jobs import parts, placed
from pipec.tune.orders import sequences
from pipec.tune.recipe import made
from pipec.tune.replay import Replay
from pipec.tune.screen import PATIENCE, screened
from pipec.tune.setting import Setting
from pipec.tune.start import shop_at
from pipec.tune.texts import knobs_of, library

SETTING = Setting(8, 24, Costs.of({"F": 1, "B": "1.2", "W": "0.8", "send": "0.05"}))
COUNT = 256
STARTS = {"linear": "zb1p", "v": "vhalf"}


def main() -> None:
    print(f"P=8 M=24, costs {SETTING.costs}; a second and core:")
    for placement, chunks in (("linear", 1), ("v", 2)):
        knobs = list(knobs_of(placement, chunks, 8))
        shop = shop_at(SETTING, placed(placement, chunks, SETTING))
        pieces = parts(knobs, COUNT)[::2]
        policies = rate(
            lambda shop=shop, pieces=pieces: [screened(shop, one) for one in pieces],
            len(PATIENCE) * sum(map(len, pieces)),
        )
        recipe = next(one for one in library(8, 24) if one.name == STARTS[placement])
        replay = Replay(shop)
        order = sequences(made(recipe, SETTING)[0].program, replay)
        most = replay.held(order)
        rng = np.random.default_rng(0)
        orders = np.repeat(order[None], COUNT, axis=0)
        moved = rate(
            lambda replay=replay, order=order, most=most, rng=rng: climb(
                replay, order, most, rng, 64, 10
            ),
            640,
        )
        simulated = rate(lambda replay=replay, orders=orders: replay.ends(orders), COUNT)
        operations = sum(line.total for line in shop.lines.lines)
        print(
            f"{placement:<8}{operations:>6} operations: {policies:>7,.0f} policies run, "
            f"{moved:>7,.0f} orders moved and simulated, {simulated:>7,.0f} orders simulated again"
        )


def rate(run: Callable[[], object], count: int, seconds: float = 1.0) -> float:
    """Candidates in a second of this process's CPU time, if a call is `count` of them."""
    begin, runs = time.process_time(), 0
    while time.process_time() - begin < seconds:
        run()
        runs += 1
    return runs * count / (time.process_time() - begin)


if __name__ == "__main__":
    main()
