"""Policies run in lockstep do what the compiler's list scheduler does, one after the other."""

import pytest

from pipec.language import read
from pipec.library import only_schedule
from pipec.order.greedy import Refusal, decide
from pipec.order.lines import makespan
from pipec.order.policy import stated_policy
from pipec.order.schedule import bind
from pipec.program.costs import Costs
from pipec.tune import screen
from pipec.tune.jobs import placed
from pipec.tune.setting import Setting
from pipec.tune.start import shop_at
from pipec.tune.texts import knobs_of, policy

SETTING = Setting(3, 6, Costs.of({"F": 1, "B": "1.2", "W": "0.8", "send": "0.05"}))


@pytest.mark.parametrize(("placement", "chunks"), [("linear", 1), ("v", 2), ("interleaved", 2)])
def test_they_agree(monkeypatch: pytest.MonkeyPatch, placement: str, chunks: int) -> None:
    """The same policies get stuck, and the others end at the same time, if none is patient."""
    monkeypatch.setattr(screen, "PATIENCE", (0,))
    knobs = [one for one in knobs_of(placement, chunks, 3) if "BW" not in one.prefer][::7]
    shop = shop_at(SETTING, placed(placement, chunks, SETTING))
    sketches = {one.knobs: one for one in screen.screened(shop, knobs)}
    equal = 0
    for one in knobs:
        recipe = policy(one, 3, 6)
        assert recipe.source
        tree = only_schedule(read(recipe.source), recipe.source)
        stated = stated_policy(bind(tree, recipe.parameters, recipe.source)).policy
        made = decide(stated, shop.times, {})
        assert isinstance(made, Refusal) == (one not in sketches)
        if not isinstance(made, Refusal):
            equal += makespan(stated.lines, shop.times, made) == sketches[one].makespan * shop.ticks
    assert equal == len(sketches) > 15
