"""What the tests of the pipeline share: a model in stages, its un-pipelined gradients, plans."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipec.compiler import Settings, build, certify, plan_of
from pipec.program.plan import Plan

WIDTH, TOKENS, LENGTH, PER_MICROBATCH = 6, 11, 3, 2

Gradients = dict[str, Tensor | None]


class First(nn.Module):
    """Token ids -> vectors: an embedding, and a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.table(tokens)).tanh()


class Middle(nn.Module):
    """A norm, a layer that is used twice, a frozen one, and an elementwise parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.twice = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.frozen, self.scale = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.ones(WIDTH))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.twice(functional.gelu(self.twice(self.norm(x))))
        return x + self.scale * self.frozen(y)


class Last(nn.Module):
    """Vectors -> scores of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.score = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.norm(x))


def make_stage(stage: int, stages: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """One stage of the model, the same wherever and whenever it is made."""
    torch.manual_seed(100 + stage)
    if stages == 1:
        return nn.Sequential(First(), Middle(), Last()).to(dtype)
    made = First() if stage == 0 else Last() if stage == stages - 1 else Middle()
    return made.to(dtype)


def loss_of(scores: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), target.flatten())


def batch_of(microbatches: int) -> tuple[Tensor, Tensor]:
    """Token ids and what follows them."""
    generator = torch.Generator().manual_seed(microbatches)
    shape = (2, microbatches * PER_MICROBATCH, LENGTH)
    x, y = torch.randint(0, TOKENS, shape, generator=generator)
    return x, y


@cache
def unpipelined(
    stages: int, microbatches: int, dtype: torch.dtype, reduction: str = "mean"
) -> tuple[list[Tensor], list[Tensor], list[Gradients]]:
    """Per microbatch the output and the loss, and per stage the gradients, of the whole model."""
    parts = [make_stage(stage, stages, dtype) for stage in range(stages)]
    outputs, losses = [], []
    x, y = batch_of(microbatches)
    for tokens, target in zip(x.chunk(microbatches), y.chunk(microbatches), strict=True):
        outputs.append(nn.Sequential(*parts)(tokens))
        losses.append(loss_of(outputs[-1], target))
    total = torch.stack(losses).sum()
    (total / microbatches if reduction == "mean" else total).backward()
    gradients = [gradients_of(part) for part in parts]
    return [one.detach() for one in outputs], [one.detach() for one in losses], gradients


def gradients_of(module: nn.Module) -> Gradients:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_same(found: Gradients, expected: Gradients, tolerance: float, what: str) -> int:
    """Compares gradients by their relative error; how many there were."""
    assert found.keys() == expected.keys()
    count = 0
    for name, gradient in expected.items():
        mine = found[name]
        if gradient is None or mine is None:
            assert mine is gradient, f"{what}.{name}: found {mine}, expected {gradient}"
            continue
        assert_close(mine, gradient, tolerance, f"{what}.{name}")
        count += 1
    return count


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    error = (found - expected).norm() / expected.norm()
    assert error <= tolerance, f"{what}: relative error {error}"


@cache
def compiled(schedule: str, ranks: int, microbatches: int) -> Plan:
    """A library schedule; with ` --grouped` behind its name, its exchanges in one launch each."""
    name, *options = schedule.split()
    settings = Settings(grouped=bool(options))
    made = build(name, {"P": ranks, "M": microbatches}, settings)
    return plan_of(made, certify(made, settings))


def total_of(plan: Plan) -> int:
    """The microbatches of a step, over all flows."""
    return sum(flow.microbatches for flow in plan.program.placement.flows)


def stages_of(plan: Plan) -> int:
    return plan.program.placement.flows[0].stages
