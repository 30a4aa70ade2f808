"""Sequences in slices on real processes: gradients are those of the model on whole sequences."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from piped import TOKENS, WIDTH, Gradients, assert_close, assert_same, gradients_of, loss_of
from ranks import Ranks
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from pipec import Channels
from pipec.compiler import Settings, build, certify, plan_of
from pipec.program.plan import Plan
from pipec.runtime import Pipeline

pytestmark = pytest.mark.slow

ROWS, LENGTH = 2, 12
"""Of one sequence: how many are computed together, and how long they are."""

SIZES = ((1, 2, 3), (2, 1, 2), (2, 3, 4), (4, 2, 3))
"""P, M and slices."""


class Attention(nn.Module):
    """Causal attention over a sequence of which the keys and values so far are handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        if past is not None:
            key, value = torch.cat([past[0], key], 1), torch.cat([past[1], value], 1)
        sees = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool)
        sees = sees.tril(key.shape[1] - query.shape[1])
        mixed = functional.scaled_dot_product_attention(query, key, value, sees)
        return x + mixed, (key, value)


class Stage(nn.Module):
    """One of `stages`: two layers of attention, and in between a layer that nothing is carried for.

    An odd stage carries the keys and values of each slice apart, which pass it unchanged.
    """

    def __init__(self, stage: int, stages: int):
        super().__init__()
        torch.manual_seed(stage)
        self.first, self.last, self.apart = stage == 0, stage == stages - 1, stage % 2 == 1
        self.table = nn.Embedding(TOKENS, WIDTH) if self.first else None
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH)) if self.first else None
        self.attention = nn.ModuleList([Attention(), Attention()])
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.score = nn.Linear(WIDTH, TOKENS) if self.last else None
        self.double()

    def forward(self, x: Tensor, carried: Any = None) -> tuple[Tensor, Any]:
        begin, past = carried or (0, [])
        if self.table is not None and self.position is not None:
            x = self.table(x) + self.position[begin : begin + x.shape[1]]
        known = _joined(past) if self.apart else past
        new = []
        for number, layer in enumerate(self.attention):
            x, kept = layer(x, known[number] if known else None)
            new.append(kept)
            x = x + self.middle(x).tanh()
        if self.apart:
            new = [*past, [(k[:, begin:], v[:, begin:]) for k, v in new]]
        return x if self.score is None else self.score(x), (begin + _length(x), new)


def _length(x: Tensor) -> int:
    return x.shape[1]


def _joined(past: list[list[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    """The keys and the values of each layer, of all slices so far."""
    layers = [zip(*layer, strict=True) for layer in zip(*past, strict=True)]
    return [(torch.cat(keys, 1), torch.cat(values, 1)) for keys, values in layers]


def batch_of(sequences: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sequences)
    x, y = torch.randint(0, TOKENS, (2, sequences * ROWS, LENGTH), generator=generator)
    return x, y


@cache
def whole(stages: int, sequences: int) -> tuple[Tensor, list[Gradients]]:
    """The loss and the gradients of the model on whole sequences."""
    parts = [Stage(stage, stages) for stage in range(stages)]
    x, y = batch_of(sequences)
    for part in parts:
        x, _ = part(x)
    loss = loss_of(x, y)
    loss.backward()
    return loss.detach(), [gradients_of(part) for part in parts]


@cache
def compiled(schedule: str, ranks: int, sequences: int, slices: int) -> Plan:
    made = build(schedule, {"P": ranks, "M": sequences, "slices": slices})
    return plan_of(made, certify(made, Settings()))


def stepping(
    rank: int, group: ProcessGroup, schedule: str, sizes: tuple[int, int, int], wires: str
) -> tuple[int, set[int]]:
    """Two steps, with an evaluation in between, each compared with the whole model."""
    plan, sequences = compiled(schedule, *sizes), sizes[1]
    count = plan.program.placement.flows[0].stages
    expected, gradients = whole(count, sequences)
    stages = {stage: Stage(stage, count) for stage in plan.stages(rank)}
    channels = None if wires == "tagged" else Channels(wires)
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=group, channels=channels, timeout=20)
    compared = 0
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        loss = pipe.step(*batch_of(sequences))
        for stage, module in stages.items():
            compared += assert_same(gradients_of(module), gradients[stage], 1e-10, f"{stage}")
        numbers = set(pipe.losses)
        for mean in (loss, pipe.eval(*batch_of(sequences))):
            if mean is not None:
                assert_close(mean, expected, 1e-10, "the mean loss")
    pipe.close()
    return compared, numbers


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("schedule", ["seq1f1b", "seqzb1p"])
def test_library(four: Ranks, schedule: str, sizes: tuple[int, int, int]) -> None:
    """Gradients and losses equal those of whole sequences, with BW, and with B and W apart."""
    ranks, sequences, slices = sizes
    for wires in ("tagged", "rank"):
        answers = four.run(stepping, schedule, sizes, wires, on=range(ranks))
        assert all(compared for compared, _ in answers)
        assert set.union(*(numbers for _, numbers in answers)) == set(range(sequences * slices))
