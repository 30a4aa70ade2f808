"""Policies and blocks beside the zero-bubble authors' own schedulers, as recorded in bench/."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
SIZE = (4, 8)


def script(name: str) -> Any:
    """A script of bench/ as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


policies = script("policies")
RECORDED = policies.recorded(BENCH / "peer.csv")


@pytest.mark.parametrize(
    "name", ["zb1p-greedy", "zb2p-greedy", "zbv-greedy", "vzb", "vhalf", "vmin"]
)
def test_never_longer_at_the_same_peak(name: str) -> None:
    """At every recorded costs ours is at most as long as theirs, and holds no more."""
    by_costs = RECORDED[policies.PEERS[name], *SIZE]
    assert len(by_costs) >= 8
    for costs, theirs in by_costs.items():
        for cell in policies.compared(name, *SIZE, costs, theirs):
            assert cell.ours.peak <= cell.theirs.peak, (costs, str(cell))
            assert cell.ours.makespan <= cell.theirs.makespan, (costs, str(cell))


@pytest.mark.parametrize("ranks", [5, 7])
def test_never_longer_with_slow_messages(ranks: int) -> None:
    """W wait where a rank has time at the end, which only an order made from there does."""
    costs, size = "0.92/1.63/1.12/0.36", (ranks, 2 * ranks)
    for cell in policies.compared("zb2p-greedy", *size, costs, RECORDED["ZB-2P", *size][costs]):
        assert cell.ours.peak <= cell.theirs.peak, str(cell)
        assert cell.ours.makespan <= cell.theirs.makespan, str(cell)


def test_limits_hold_in_shorter_orders() -> None:
    """An order that is made from others keeps every limit of the text, at every prefix."""
    for most in (2, 3, 5):
        sizes = {"P": 3, "M": 6, "most": most}
        figures = policies.made("zb2p-greedy", sizes, "1/1.5/0.7/0.1")
        assert figures and figures.peak <= most
