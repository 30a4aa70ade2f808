"""An expert stage run part by part on real processes has the gradients of the plain model."""

from __future__ import annotations

from functools import cache
from itertools import zip_longest

import pytest
import torch
from moe import (
    EVEN,
    STEEP,
    TOTAL,
    assert_gradients,
    batch_of,
    gradients_of,
    loss_of,
    make_stage,
    plain_gradients,
)
from ranks import Ranks
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh

from pipec.runtime.experts import Exchange, Layout, Parts, make_exchange, make_layout

pytestmark = pytest.mark.slow

LAYERS, MICROBATCHES = 3, 4


@cache
def placed(ranks: int, experts: int) -> tuple[Layout, Exchange]:
    """No pipeline: `experts` ranks share the experts, and the others have copies of them."""
    mesh = init_device_mesh(
        "cpu", (1, ranks // experts, experts), mesh_dim_names=("pipeline", "data", "expert")
    )
    layout = make_layout(mesh)
    return layout, make_exchange("torch", layout.expert)


def in_order(parts: Parts, batch: list[tuple[Tensor, Tensor]]) -> None:
    """One microbatch after the other."""
    for number in range(len(batch)):
        for part in range(parts.count):
            output = parts.forward(part, number)
        finish(parts, number, output, batch)
        for part in reversed(range(parts.count)):
            parts.backward(part, number)


def interleaved(parts: Parts, batch: list[tuple[Tensor, Tensor]]) -> None:
    """The forward of each microbatch in turn with the backward of the one before."""
    forward, backward = range(parts.count), range(parts.count - 1, -1, -1)
    for number in range(len(batch) + 1):
        ahead = forward if number < len(batch) else ()
        behind = backward if number else ()
        for one, other in zip_longest(ahead, behind):
            if one is not None:
                output = parts.forward(one, number)
            if other is not None:
                parts.backward(other, number - 1)
        if number < len(batch):
            finish(parts, number, output, batch)


def deferred(parts: Parts, batch: list[tuple[Tensor, Tensor]]) -> None:
    """Two forwards in turn, then two backwards, and W much later and in another order."""
    for number in range(len(batch)):
        parts.defer(number)
    for first in range(0, len(batch), 2):
        for part in range(parts.count):
            outputs = [parts.forward(part, number) for number in (first, first + 1)]
        for number in (first + 1, first):
            finish(parts, number, outputs[number - first], batch)
        for part in reversed(range(parts.count)):
            for number in (first + 1, first):
                parts.backward(part, number)
    for part in range(0, parts.count, 2):
        for number in reversed(range(len(batch))):
            parts.weights(part, number)


def finish(parts: Parts, number: int, output: Tensor, batch: list[tuple[Tensor, Tensor]]) -> None:
    loss = loss_of(output, batch[number][1])
    seed = torch.full_like(loss, 1 / len(batch))
    parts.begin_backward(number, (loss,), (seed,))


ORDERS = {"in order": in_order, "interleaved": interleaved, "deferred": deferred}


def compare(
    rank: int, group: ProcessGroup, experts: int, order: str, bias: float, empty: int | None
) -> list[Tensor]:
    """Two steps, each compared; `empty` is a rank whose microbatches have no tokens."""
    layout, exchange = placed(4, experts)
    batches = [batch_of(one, MICROBATCHES, 0 if one == empty else 2) for one in range(4)]
    whole = make_stage(range(LAYERS), LAYERS, bias=bias)
    (expected,) = plain_gradients([whole], batches)
    stage = make_stage(range(LAYERS), LAYERS, exchange, bias)
    stage.loss_scale = 1 / MICROBATCHES
    parts = Parts(stage, MICROBATCHES)
    for _ in range(2):
        stage.zero_grad()
        for number, (x, _) in enumerate(batches[rank]):
            parts.begin(number, (x,))
        ORDERS[order](parts, batches[rank])
        layout.average_gradients({0: stage})
        assert_gradients(gradients_of(stage), expected, exchange.rank, exchange.size)
    return [expected["layers.1.experts.up"][number].norm() for number in range(TOTAL)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("experts", [1, 2, 4])
def test_orders(four: Ranks, experts: int, order: str) -> None:
    """However parts of microbatches are interleaved, and with W apart, on 1, 2 and 4 ranks."""
    norms = four.run(compare, experts, order, EVEN, None)[0]
    assert all(norm > 0 for norm in norms)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("experts", [2, 4])
def test_uneven(four: Ranks, experts: int, order: str) -> None:
    """All tokens to two experts of one rank, none to the others."""
    norms = four.run(compare, experts, order, STEEP, None)[0]
    assert [bool(norm > 0) for norm in norms] == [True, True, False, False]


@pytest.mark.parametrize("bias", [EVEN, STEEP])
@pytest.mark.parametrize("order", ORDERS)
def test_a_rank_without_tokens(four: Ranks, order: str, bias: float) -> None:
    """A rank that has no token sends none, and takes its part in everything."""
    four.run(compare, 2, order, bias, 1)


def evaluate(rank: int, group: ProcessGroup, experts: int) -> None:
    _, exchange = placed(4, experts)
    stage, whole = make_stage(range(LAYERS), LAYERS, exchange), make_stage(range(LAYERS), LAYERS)
    parts = Parts(stage, 1)
    ((x, _),) = batch_of(rank, 1)
    with torch.no_grad():
        parts.begin(0, (x,))
        for part in range(parts.count):
            found = parts.forward(part, 0)
        expected = whole(x)
    assert not found.requires_grad
    assert torch.allclose(found, expected, rtol=1e-10)


def test_without_gradients(four: Ranks) -> None:
    """Under no_grad the output is that of the whole model, and nothing is kept."""
    four.run(evaluate, 2)


def as_a_module(rank: int, group: ProcessGroup, experts: int, bias: float) -> None:
    layout, exchange = placed(4, experts)
    batches = [batch_of(one, MICROBATCHES) for one in range(4)]
    (expected,) = plain_gradients([make_stage(range(LAYERS), LAYERS, bias=bias)], batches)
    stage = make_stage(range(LAYERS), LAYERS, exchange, bias)
    for x, y in batches[rank]:
        stage.loss_scale = 1 / MICROBATCHES
        (loss_of(stage(x), y) / MICROBATCHES).backward()
    layout.average_gradients({0: stage})
    assert_gradients(gradients_of(stage), expected, exchange.rank, exchange.size)


@pytest.mark.parametrize("bias", [EVEN, STEEP])
@pytest.mark.parametrize("experts", [1, 4])
def test_as_a_module(four: Ranks, experts: int, bias: float) -> None:
    """Called as an ordinary module, a stage has the same gradients."""
    four.run(as_a_module, experts, bias)
