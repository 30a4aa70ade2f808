"""Cycles can be repeated for all microbatches, and hold no more than they were made for."""

from fractions import Fraction

import numpy as np
import pytest

from pipec.program.costs import Costs
from pipec.tune.cycle import cycle_of, doubled, repeated, ticks
from pipec.tune.cycles import Search
from pipec.tune.jobs import Repeat, placed
from pipec.tune.recipe import Trial
from pipec.tune.replay import NEVER, Replay
from pipec.tune.setting import Setting
from pipec.tune.solver import available
from pipec.tune.start import shop_at

SETTING = Setting(3, 7, Costs.of({"F": 1, "B": "1.2", "W": "0.8", "send": "0.05"}))
EVEN = Setting(2, 6)

pytestmark = pytest.mark.skipif(not available(), reason="pip install 'pipec[tune]'")


@pytest.mark.parametrize(("name", "chunks"), [("linear", 1), ("v", 2), ("interleaved", 2)])
@pytest.mark.parametrize("each", [1, 2])
def test_every_order_on_the_way_is_legal(name: str, chunks: int, each: int) -> None:
    """They run to their end, no rank holds more than asked for, and none is below its own work."""
    shop = shop_at(SETTING, placed(name, chunks, SETTING))
    replay, most = Replay(shop), np.full(3, 2 * chunks)
    orders = Search(shop, most, each, 0).orders()
    assert orders or each == 2  # where one at once is as short as can be
    for makespan, order in orders:
        assert replay.legal(order[None], most)[0]
        assert max(sum(shop.times.duration[n] * 7 for n in own) for own in shop.on) <= makespan
        assert makespan == replay.ends(order[None])[0][0] < NEVER


def test_both_flows_are_repeated() -> None:
    """A period holds as many microbatches of each flow."""
    setting = EVEN
    shop = shop_at(setting, placed("bidirectional", 1, setting))
    found = cycle_of(shop, ticks(shop), [3, 3], 1, 6 * shop.ticks, 5.0)
    assert found
    order = repeated(Replay(shop), found)
    assert (
        sorted(np.bincount(order[0], minlength=len(shop.lines.lines)).tolist()) == [0] * 6 + [3] * 6
    )
    assert doubled(found).period == 2 * found.period


def test_a_repeated_cycle_is_certified_within_its_peak() -> None:
    """What the job hands back holds no more than the peak that it was asked for."""
    found = Repeat("v", 2, Fraction(2)).run(SETTING)
    assert found.trials
    assert all(isinstance(one, Trial) and one.peak <= 2 for one in found.trials)


def test_no_period_is_shorter_than_the_work_of_a_rank() -> None:
    """Then there is no cycle."""
    shop = shop_at(EVEN, placed("linear", 1, EVEN))
    assert cycle_of(shop, ticks(shop), [2, 2], 1, 3 * shop.ticks - 1, 1.0) is None


def test_what_costs_nothing_has_a_period_too() -> None:
    """Of one tick; nothing divides by it."""
    setting = Setting(2, 4, Costs.of({"F": 0, "B": 0, "W": 0}))
    found = Repeat("v", 2, Fraction(1)).run(setting)
    assert all(one.makespan == 0 for one in found.trials)
