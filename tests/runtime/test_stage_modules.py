"""What stages may be like, and several pipelines at once, on real processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from piped import (
    WIDTH,
    assert_same,
    batch_of,
    compiled,
    gradients_of,
    loss_of,
    make_stage,
    stages_of,
    unpipelined,
)
from ranks import Ranks
from stepping import DOUBLE, Make, accumulating, compare, expect, modules, pipeline, several_batch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from pipec.runtime import Pipeline

pytestmark = pytest.mark.slow


# --- modules --------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Dropout whose masks depend on nothing but the stage and how often it was called."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear, self.stage, self.calls = nn.Linear(WIDTH, WIDTH), stage, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        with torch.random.fork_rng():
            torch.manual_seed(1000 * self.stage + self.calls)
            return functional.dropout(self.linear(x), 0.5, self.training)


def dropping(rank: int, group: ProcessGroup, schedule: str) -> int:
    make: Make = lambda stage, stages: Dropping(stage).double()  # noqa: E731
    pipe = pipeline(rank, group, schedule, 4, make, loss_fn=functional.mse_loss)
    x, _, _, target = several_batch(4)
    parts = expect(make, stages_of(pipe.plan), (x,), target, functional.mse_loss, 4)
    pipe.step(x, target)
    compared = compare(pipe, parts)
    pipe.close()
    return compared


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_dropout(four: Ranks, schedule: str) -> None:
    """With the same seeds, dropout drops the same."""
    assert all(four.run(dropping, schedule, on=(0, 1)))


def hooked(rank: int, group: ProcessGroup, schedule: str) -> list[int]:
    pipe = pipeline(rank, group, schedule, 5, make_stage, loss_fn=loss_of)
    calls = [0, 0, 0, 0]

    def count(which: int, *_: Any) -> None:
        calls[which] += 1

    for module in modules(pipe).values():
        module.register_forward_pre_hook(partial(count, 0))
        module.register_forward_hook(partial(count, 1))
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(count, 2))
                parameter.register_post_accumulate_grad_hook(partial(count, 3))
    for _ in range(2):
        pipe.step(*batch_of(5))
    pipe.close()
    return calls


@pytest.mark.parametrize("schedule", ["1f1b", "zb1p"])
def test_hooks(four: Ranks, schedule: str) -> None:
    """Hooks of modules and of parameters run once for each microbatch and step."""
    calls = four.run(hooked, schedule, on=(0, 1))
    assert calls == [[10, 10, 10 * 3, 10 * 3], [10, 10, 10 * 3, 10 * 3]]


class Shared(nn.Module):
    """Two stages of one rank with the same weight."""

    def __init__(self, weight: nn.Linear) -> None:
        super().__init__()
        self.shared, self.norm = weight, nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.shared(x).tanh())


def shared_by_stages(rank: int, group: ProcessGroup, schedule: str, mirrored: bool) -> int:
    """Stages s and S-1-s, or s and s+P, have one layer in common; always on one rank."""
    plan = compiled(schedule, 2, 4)
    count = stages_of(plan)

    def make_all() -> list[nn.Module]:
        torch.manual_seed(3)
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(count // 2)]
        return [
            Shared(layers[min(s, count - 1 - s) if mirrored else s % (count // 2)]).double()
            for s in range(count)
        ]

    mine, parts = make_all(), make_all()
    stages = {stage: mine[stage] for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=functional.mse_loss, group=group, timeout=20)
    x, _, _, target = several_batch(4)
    for a, b in zip(x.chunk(4), target.chunk(4), strict=True):
        (functional.mse_loss(nn.Sequential(*parts)(a), b) / 4).backward()
    compared = 0
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        pipe.step(x, target)
        compared += compare(pipe, parts)
    pipe.close()
    return compared


@pytest.mark.parametrize(
    ("schedule", "mirrored"),
    [("interleaved", False), ("interleavedzb", False), ("zbv", True), ("dualpipe", True)],
)
def test_shared_between_stages(four: Ranks, schedule: str, mirrored: bool) -> None:
    """A parameter of two stages of one rank gets both gradients, also where copies are summed."""
    assert all(four.run(shared_by_stages, schedule, mirrored, on=(0, 1)))


class Buffered(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH).t()[:WIDTH].t().double())
        self.register_buffer("shift", torch.randn(WIDTH).double())
        self.register_buffer("seen", torch.tensor(seed))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight[:, :WIDTH] + self.shift


def equal_at_first(rank: int, group: ProcessGroup) -> dict[int, list[Tensor]]:
    make: Make = lambda stage, stages: Buffered(10 * rank + stage)  # noqa: E731
    pipe = pipeline(rank, group, "dualpipe", 4, make, loss_fn=functional.mse_loss)
    state = {stage: [*module.state_dict().values()] for stage, module in modules(pipe).items()}
    pipe.close()
    return state


def test_copies_start_equal(four: Ranks) -> None:
    """Copies of a stage made with other numbers are made equal, buffers and strides included."""
    zero, one = four.run(equal_at_first, on=(0, 1))
    for stage in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(zero[stage], one[stage], strict=True))
    assert not torch.equal(zero[0][0], zero[1][0])


# --- several pipelines ----------------------------------------------------------------------------


def two_pipelines(rank: int, group: ProcessGroup) -> int:
    pipes = [
        pipeline(rank, group, schedule, count, make_stage, loss_fn=loss_of)
        for schedule, count in (("1f1b", 3), ("dualpipev", 4))
    ]
    compared = 0
    for _ in range(2):
        for pipe, count in zip(pipes, (3, 4), strict=True):
            for module in modules(pipe).values():
                module.zero_grad()
            pipe.step(*batch_of(count))
        for pipe, count in zip(pipes, (3, 4), strict=True):
            _, _, expected = unpipelined(stages_of(pipe.plan), count, DOUBLE)
            for stage, module in modules(pipe).items():
                compared += assert_same(
                    gradients_of(module), expected[stage], 1e-10, f"{pipe.plan.name} {stage}"
                )
    for pipe in pipes:
        pipe.close()
    return compared


def test_two_pipelines(four: Ranks) -> None:
    """Two pipelines in one process do not disturb each other."""
    assert all(four.run(two_pipelines, on=(0, 1)))


@pytest.mark.parametrize("members", [(1, 3), (1, 2, 3), (2, 3)])
def test_some_ranks_only(four: Ranks, members: tuple[int, ...]) -> None:
    """A pipeline runs on any ranks of the job, whatever groups they have been in before."""
    assert all(four.run(accumulating, "1f1b", 3, on=members))


def side_by_side(rank: int, group: ProcessGroup | None) -> int:
    everyone = torch.distributed.get_rank()
    pairs = [torch.distributed.new_group([0, 1]), torch.distributed.new_group([2, 3])]
    return accumulating(everyone % 2, pairs[everyone // 2], "dualpipe", 4)


def test_side_by_side(four: Ranks) -> None:
    """Two pipelines of two ranks run at once, as with data parallelism around them."""
    assert all(four.run(side_by_side))


def reversed_group(rank: int, group: ProcessGroup | None) -> int:
    turned = torch.distributed.new_group([3, 1, 0, 2], sort_ranks=False)
    return accumulating(torch.distributed.get_rank(turned), turned, "zbv", 7)


def test_any_order_of_ranks(four: Ranks) -> None:
    """The plan's ranks are the group's, also where those are in another order than the job's."""
    assert all(four.run(reversed_group))
