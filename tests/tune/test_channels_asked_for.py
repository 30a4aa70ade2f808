"""Schedules are compared under the channels that were asked for, and what is refused is counted."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from click.testing import CliRunner

from pipec.cli import main
from pipec.program.costs import Costs
from pipec.program.graph import Channels
from pipec.program.memory import Limit, Memory
from pipec.program.placement import Flow, Placement
from pipec.tune.orders import order_of
from pipec.tune.recipe import Recipe, Refused, Trial, tried
from pipec.tune.replay import NEVER, Replay
from pipec.tune.search import Budget, search
from pipec.tune.setting import Setting
from pipec.tune.start import certified, shop_at

SLOW = Setting(2, 2, Costs.of({"F": 1, "B": 1, "W": 1, "send": "0.7"}), channels=Channels("rank"))
ONE = Recipe("search", "one", {})


def orders(replay: Replay) -> list[np.ndarray]:
    """All orders of two ranks with a stage each and two microbatches that come to their end."""
    words = [
        (0, 0, 1, 1, 2, 2),
        (0, 0, 1, 2, 1, 2),
        (0, 1, 0, 1, 2, 2),
        (0, 1, 0, 2, 1, 2),
        (0, 1, 2, 0, 1, 2),
    ]
    every = [np.array([one, [3 + line for line in two]]) for one, two in product(words, words)]
    return [one for one in every if replay.ends(one[None])[0][0] < NEVER]


def test_the_front_is_that_of_certified_makespans() -> None:
    """Of all orders of two ranks, the search has the shortest that there is under these channels at
    every peak.
    """
    shop = shop_at(SLOW, Placement(2, (Flow("main", 2, (0, 1)),)))
    replay = Replay(shop)
    made = [
        tried(Recipe("search", "one", {}, order=order_of(replay, one)), SLOW)
        for one in orders(replay)
    ]
    trials = [one for one in made if isinstance(one, Trial)]
    assert len(trials) == len(made)
    states = list(search(SLOW, ("linear",), Budget(4000)))
    for peak in (1, 2):
        least = min(one.makespan for one in trials if one.peak <= peak)
        known = min(one.makespan for one in states[-1].front if one.peak <= peak)
        assert known == least


def test_orders_are_tried_until_none_can_be_shorter() -> None:
    """A makespan without queues bounds the one with queues, so the rest need not be certified."""
    shop = shop_at(SLOW, Placement(2, (Flow("main", 2, (0, 1)),)))
    replay = Replay(shop)
    every = [(int(replay.ends(one[None])[0][0]), one) for one in orders(replay)]
    found = certified(ONE, SLOW, replay, every)
    spans = [one.makespan for one in found if isinstance(one, Trial)]
    assert spans == sorted(set(spans), reverse=True)
    made = [
        tried(Recipe("search", "one", {}, order=order_of(replay, one)), SLOW)
        for one in orders(replay)
    ]
    assert spans[-1] == min(one.makespan for one in made if isinstance(one, Trial))
    for (tagged, _), one in zip(every, made, strict=True):
        assert isinstance(one, Trial)
        assert one.makespan >= Fraction(tagged, shop.ticks)
    assert not certified(ONE, SLOW, replay, every, spans[-1])


def test_what_is_refused_is_counted() -> None:
    """By the code of the finding: what is over the limit, and what is not made for the size."""
    limited = Setting(2, 3, memory=Memory(limit=Limit.of(1)))
    state = list(search(limited, ("linear",), Budget(400)))[-1]
    assert state.refused["memory-limit"] > 0
    assert state.refused["require"] > 0
    assert sum(state.refused.values()) < state.tried


def test_reasons_are_told() -> None:
    """In the foot of the table, in JSON, and beside the finding that nothing was found."""
    words = ["tune", "P=2", "M=3", "--candidates", "400", "--placements", "linear"]
    shown = CliRunner().invoke(main, [*words, "--memory-limit", "1"])
    assert "of the candidates" in shown.stdout and "would hold more than the limit" in shown.stdout
    as_json = CliRunner().invoke(main, [*words, "--memory-limit", "1", "--format", "json"])
    assert json.loads(as_json.stdout)["refused"]["memory-limit"] > 0
    nothing = CliRunner().invoke(main, [*words, "--memory-limit", "0.5"])
    assert nothing.exit_code == 1
    assert "would hold more than the limit" in nothing.output


def test_a_refusal_says_why() -> None:
    """The code of the worst finding."""
    shop = shop_at(SLOW, Placement(2, (Flow("main", 2, (0, 1)),)))
    replay = Replay(shop)
    order = order_of(replay, orders(replay)[0])
    limited = Setting(2, 2, memory=Memory(limit=Limit.of(1)))
    assert tried(replace(ONE, order=order), limited) == Refused("memory-limit")


@pytest.mark.parametrize(("channels", "send", "queues"), [("tagged", 1, False), ("pair", 1, True)])
def test_messages_wait_only_where_they_take_time(channels: str, send: int, queues: bool) -> None:
    """Otherwise an order is as short as without queues."""
    assert Setting(2, 2, Costs.of({"send": send}), channels=Channels(channels)).queues == queues
    assert not Setting(2, 2, Costs.of({"send": 0}), channels=Channels(channels)).queues
