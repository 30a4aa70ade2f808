"""Exchanges: what travels, how they are chosen by name, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.distributed as dist
from moe import BYTES, LENGTH, make_stage
from ranks import Ranks
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pipec.runtime import PipelineError
from pipec.runtime.experts import (
    Arrived,
    EmulatedExchange,
    Exchange,
    Experts,
    ExpertStage,
    Layer,
    Router,
    exchange_times,
    make_exchange,
)
from pipec.runtime.experts.packing import pack, unpack

slow = pytest.mark.slow


def test_packing() -> None:
    """Columns of any types and widths come out of their bytes as they went in."""
    parts = [
        torch.randn(5, 3, dtype=torch.bfloat16),
        torch.randn(5, 2, dtype=torch.float64),
        torch.arange(5)[:, None].int(),
    ]
    columns = [(part.shape[1], part.dtype) for part in parts]
    for rows in (5, 0):
        packed = pack([part[:rows] for part in parts])
        for found, part in zip(unpack(packed, columns), parts, strict=True):
            assert torch.equal(found, part[:rows])


def test_names() -> None:
    """An exchange that is unknown is refused, with those that are known."""
    with pytest.raises(PipelineError, match="unknown all-to-all") as caught:
        make_exchange("mpi", None)
    assert caught.value.findings[0].expected == "'torch' or 'deepep'"


def without_library(rank: int, group: ProcessGroup) -> str:
    with pytest.raises(PipelineError) as caught:
        make_exchange("deepep", group)
    return str(caught.value)


@slow
def test_deepep_is_not_installed(four: Ranks) -> None:
    """DeepEP is chosen by name, and the error says what to install."""
    for said in four.run(without_library, on=range(2)):
        assert "deepep" in said and "deep_ep" in said


def test_experts_that_cannot_be_shared_out() -> None:
    """Every rank of a group holds equally many experts."""
    with pytest.raises(PipelineError, match="3 experts cannot be shared out to 2 ranks"):
        Experts(4, 4, 3, 0, 2)


def test_what_is_no_layer() -> None:
    """A stage says which part a layer lacks."""
    with pytest.raises(PipelineError, match="Linear is not a layer") as caught:
        ExpertStage([nn.Linear(2, 2)])
    assert "no attention" in str(caught.value)
    assert not isinstance(nn.Linear(2, 2), Layer)


def test_balance() -> None:
    """The loss of an even router is `balance`; of one that sends all to one expert, `experts` of
    it.
    """
    router = Router(2, 4, 1, balance=0.5)
    with torch.no_grad():
        router.score.weight.zero_()
        router.score.weight[0, 0] = 100.0
    steep = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    assert router(steep)[2].item() == pytest.approx(0.5 * 4)
    shares, experts = torch.full((8, 4), 0.25), torch.arange(8)[:, None] % 4
    assert router._loss(shares, experts).item() == pytest.approx(0.5)


@cache
def exchange_of(group: ProcessGroup) -> Exchange:
    return make_exchange("torch", group)


def travel(rank: int, group: ProcessGroup) -> tuple[Arrived, Tensor, Tensor | None]:
    """Rank 0 has tokens for expert 3, for 0 and 1, and for none; rank 1 has no token."""
    exchange = exchange_of(group)
    tokens = torch.tensor([[1.0], [2.0], [3.0]])[: 3 if rank == 0 else 0]
    experts = torch.tensor([[3, -1], [0, 1], [-1, -1]])[: len(tokens)]
    weights = torch.tensor([[0.5, 0.0], [0.25, 0.75], [0.0, 0.0]])[: len(tokens)]
    arrived = exchange.spread(tokens, experts, weights, 4, exchange.mark()).wait()
    back = exchange.gather(arrived.tokens * 10, arrived.route, None, arrived.weights).wait()
    again = exchange.spread_again(tokens, arrived.route, None).wait()
    assert torch.equal(again, arrived.tokens)
    return Arrived(*(arrived.tokens, arrived.experts, arrived.weights, arrived.counts)), *back


@slow
def test_what_travels(four: Ranks) -> None:
    """A token arrives once on each rank that it chose, and what is sent back is summed."""
    (first, sums, weights), (second, nothing, _) = four.run(travel, on=range(2))
    assert first.tokens.tolist() == [[2.0]] and first.experts.tolist() == [[0, 1]]
    assert first.weights.tolist() == [[0.25, 0.75]] and first.counts == [1, 1]
    assert second.tokens.tolist() == [[1.0]] and second.experts.tolist() == [[1, -1]]
    assert second.counts == [0, 1]
    assert sums.tolist() == [[10.0], [20.0], [0.0]] and nothing.shape == (0, 1)
    assert weights is not None and weights.tolist() == [[0.5, 0.0], [0.25, 0.75], [0.0, 0.0]]


def emulated(rank: int, group: ProcessGroup) -> tuple[bool, float, float]:
    exchange = EmulatedExchange(group, 0.05)
    before = time.monotonic()
    first = exchange.spread_again(torch.ones(2, 1), None)
    second = exchange.gather(torch.ones(2, 1), None)
    apart = second.end() - first.end()
    second.wait()
    return first.end() >= before + 0.05, apart, second.end() - time.monotonic()


@slow
def test_emulated(four: Ranks) -> None:
    """Emulated all-to-alls take their time one after the other, and are waited for to their end."""
    for takes, apart, left in four.run(emulated, on=range(2)):
        assert takes and apart >= 0.05 - 1e-9 and left <= 0


def measured(rank: int, group: ProcessGroup) -> tuple[dict[str, float], dict[str, float]]:
    exchange, x = exchange_of(group), torch.randint(BYTES, (2, LENGTH))
    mixed = exchange_times(make_stage([0, 1], 4, exchange), [x], repeats=2)
    dense = exchange_times(make_stage([0], 4, exchange), [x], repeats=1)
    return mixed, dense


@slow
def test_measured(four: Ranks) -> None:
    """All members are told the same times; dense layers have none."""
    (one, nothing), (other, _) = four.run(measured, on=range(2))
    assert one == other and nothing == {}
    assert one.keys() == {"dispatch", "combine"} and min(one.values()) > 0


def fails(rank: int, group: ProcessGroup) -> str:
    exchange = make_exchange("torch", group or dist.group.WORLD)
    experts = torch.zeros(2, 1, dtype=torch.long)
    bad = exchange.spread(torch.ones(2, 1), experts, torch.ones(1, 1), 4, None)
    with pytest.raises((RuntimeError, IndexError)) as caught:
        bad.wait()
    return type(caught.value).__name__


@slow
def test_errors_reach_who_waits(fresh: Callable[[int], Ranks]) -> None:
    """What goes wrong on the lane is raised where its result is waited for."""
    ranks = fresh(2)
    assert len(ranks.run(fails)) == 2
