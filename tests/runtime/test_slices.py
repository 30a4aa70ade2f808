"""Sequences in slices on real processes: gradients are those of the model on whole sequences."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from piped import TOKENS, WIDTH, Gradients, assert_same, gradients_of, loss_of
from ranks import Ranks
from refusing import refused
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from pipec import Channels
from pipec.compiler import Settings, build, certify, plan_of
from pipec.examples.train_lm import batch_of as example_batch
from pipec.examples.train_lm import make_stage
from pipec.program.plan import Plan
from pipec.program.reading import parse_listing
from pipec.runtime import Pipeline
from pipec.source import Source

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
) -> tuple[int, list[dict[int, float]]]:
    """Two steps, each compared with the whole model, with an evaluation behind each.

    How many gradients were compared, and the losses of each step and of each evaluation.
    """
    plan, sequences = compiled(schedule, *sizes), sizes[1]
    count = plan.program.placement.flows[0].stages
    _, gradients = whole(count, sequences)
    stages = {stage: Stage(stage, count) for stage in plan.stages(rank)}
    channels = None if wires == "tagged" else Channels(wires)
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=group, channels=channels, timeout=20)
    compared, losses = 0, []
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        pipe.step(*batch_of(sequences))
        losses.append({number: float(loss) for number, loss in pipe.losses.items()})
        for stage, module in stages.items():
            compared += assert_same(gradients_of(module), gradients[stage], 1e-10, f"{stage}")
        pipe.eval(*batch_of(sequences))
        losses.append({number: float(loss) for number, loss in pipe.losses.items()})
    pipe.close()
    return compared, losses


def check(four: Ranks, schedule: str, sizes: tuple[int, int, int], wires: str) -> None:
    """Gradients were compared on every rank, and the mean of all losses is that of the model."""
    ranks, sequences, slices = sizes
    answers = four.run(stepping, schedule, sizes, wires, on=range(ranks))
    assert all(compared for compared, _ in answers)
    expected, _ = whole(compiled(schedule, *sizes).program.placement.flows[0].stages, sequences)
    for each in zip(*(losses for _, losses in answers), strict=True):
        found = {number: loss for some in each for number, loss in some.items()}
        assert set(found) == set(range(sequences * slices))
        assert fmean(found.values()) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("schedule", ["seq1f1b", "seqzb1p"])
def test_library(four: Ranks, schedule: str, sizes: tuple[int, int, int]) -> None:
    """Gradients and losses equal those of whole sequences, with BW, and with B and W apart."""
    for wires in ("tagged", "rank"):
        check(four, schedule, sizes, wires)


BOTH = """
schedule both(P, M, slices):
    flow down(stages=P, microbatches=M * slices / 2, slices=slices): rank = stage
    flow up  (stages=P, microbatches=M * slices / 2, slices=slices): rank = P - 1 - stage
    greedy on rank r:
        prefer B > F > W
"""


def test_two_flows_by_a_policy(four: Ranks, tmp_path: Path) -> None:
    """Sequences from both ends, in an order that the compiler has made; copies add up."""
    path = tmp_path / "both.pipe"
    path.write_text(BOTH, encoding="utf-8")
    for sizes in ((2, 4, 3), (4, 2, 2)):
        check(four, str(path), sizes, "pair")


CUTS = (6, 4, 2)
"""The lengths of three slices that are not equal."""


def uneven(rank: int, group: ProcessGroup) -> int:
    plan = compiled("seqzb1p", 2, 2, 3)
    x, y = batch_of(2)
    _, gradients = whole(2, 2)
    stages = {stage: Stage(stage, 2) for stage in plan.stages(rank)}

    def share(scores: Tensor, target: Tensor) -> Tensor:
        return (
            functional.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="sum")
            / y.numel()
        )

    pipe = Pipeline(plan, stages, loss_fn=share, group=group, reduction="sum", timeout=20)
    compared = 0
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        pipe.step(
            *([part for one in each.chunk(2) for part in one.split(CUTS, 1)] for each in (x, y))
        )
        for stage, module in stages.items():
            compared += assert_same(gradients_of(module), gradients[stage], 1e-10, f"{stage}")
    pipe.close()
    return compared


def test_uneven_slices(four: Ranks) -> None:
    """A list may have slices of different lengths, the same ones for each sequence."""
    assert all(four.run(uneven, on=(0, 1)))


def test_the_example_runs_slices_as_it_runs_sequences() -> None:
    """The stages of `train_lm` give slice after slice what they give for the whole."""
    stage = make_stage(0, 1)
    x, _ = example_batch(2)
    carried, found = None, []
    for part in x.split((40, 30, 26), 1):
        scores, carried = stage(part, carried=carried)
        found.append(scores)
    torch.testing.assert_close(torch.cat(found, 1), stage(x), rtol=1e-4, atol=1e-4)


class Alone(nn.Module):
    """Not a stage for slices."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Careless(nn.Module):
    """Forgets to return what it carries."""

    def forward(self, x: Tensor, carried: Any) -> Tensor:
        return x


def refusing(rank: int, group: ProcessGroup) -> list[tuple[str | None, ...]]:
    """What is said of stages, plans and batches that do not fit."""
    plan = compiled("seq1f1b", 1, 2, 4)
    opened = parse_listing(Source("x", OPENED))
    said = [
        refused(lambda: Pipeline(plan, {0: Alone()}, group=group)),
        refused(lambda: Pipeline(replace(plan, program=opened), {0: Stage(0, 1)}, group=group)),
    ]
    for stage, x in ((Careless(), torch.ones(2, 4)), (Stage(0, 1), torch.ones(2, 6))):
        pipe = Pipeline(plan, {0: stage}, loss_fn=loss_of, group=group, timeout=20)
        said.append(refused(lambda pipe=pipe, x=x: pipe.step(x, x)))  # type: ignore[misc]
        pipe.close()
    return said


OPENED = """
ranks 1
flow main microbatches 2 slices 2 ranks 0
chunk 0: attention mlp
rank 0:
    F main 0 0 attention.0
"""


def test_what_does_not_fit(four: Ranks) -> None:
    """Stages that carry nothing, opened chunks, and batches that cannot be cut are told apart."""
    ((alone, opened, careless, short),) = four.run(refusing, on=(0,))
    assert alone[0] == "plan `seq1f1b` has slices, and stage 0 carries nothing between them"
    assert alone[1:3] == ("`forward(x, carried)`, which returns `output, carried`", "`forward(x)`")
    assert opened[0] == "plan `seq1f1b` opens the chunks of a flow with slices"
    assert "stage 0 of a flow with slices did not return what it carries" in str(careless[0])
    assert careless[2:] == (
        "Tensor",
        "return `output, carried`; `output, None` where nothing is carried",
    )
    assert short[:3] == (
        "the batch cannot be cut into 4 equal slices",
        "a second dimension that 4 divides",
        "shape (1, 6)",
    )
