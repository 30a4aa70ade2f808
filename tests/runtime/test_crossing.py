"""What crosses from stage to stage, on real processes: kinds of tensors, types and shapes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from piped import (
    PER_MICROBATCH,
    TOKENS,
    WIDTH,
    assert_same,
    batch_of,
    gradients_of,
    loss_of,
    make_stage,
    stages_of,
    unpipelined,
)
from ranks import Ranks
from stepping import DOUBLE, Make, compare, expect, modules, pipeline, several_batch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from pipec import Channels
from pipec.runtime import TensorSpec

pytestmark = pytest.mark.slow


# --- tensors --------------------------------------------------------------------------------------


class Several(nn.Module):
    """Passes on vectors, an integer mask, a float without gradient, and one that nobody uses."""

    def __init__(self, stage: int, stages: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear, self.side = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        self.last = stage == stages - 1

    def forward(
        self, x: Tensor, mask: Tensor, scale: Tensor, unused: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        y = self.linear(x).masked_fill(mask == 0, 0.0) * scale
        if self.last:
            return y
        return y, mask, scale, self.side(x)


def several(rank: int, group: ProcessGroup, schedule: str, count: int, wires: str) -> int:
    make: Make = lambda stage, stages: Several(stage, stages).double()  # noqa: E731
    channels = None if wires == "tagged" else Channels(wires)
    loss_fn = functional.mse_loss
    pipe = pipeline(rank, group, schedule, count, make, loss_fn=loss_fn, channels=channels)
    *batch, target = several_batch(count)
    parts = expect(make, stages_of(pipe.plan), batch, target, loss_fn, count)
    for _ in range(2):
        for module in modules(pipe).values():
            module.zero_grad()
        pipe.step(tuple(batch), target)
        for stage, module in modules(pipe).items():
            # what nobody uses has no gradient in the model, and zeros in the pipeline
            assert not module.side.weight.grad.any() if stage < len(parts) - 1 else True
            for parameter in module.side.parameters():
                parameter.grad = None
        compared = compare(pipe, parts)
    pipe.close()
    return compared


@pytest.mark.parametrize("wires", ["tagged", "pair"])
@pytest.mark.parametrize(("schedule", "ranks", "count"), [("1f1b", 2, 3), ("zbv", 2, 4)])
def test_several_tensors(four: Ranks, schedule: str, ranks: int, count: int, wires: str) -> None:
    """Tensors, integer masks, tensors without gradient and unused outputs cross together."""
    for compared in four.run(several, schedule, count, wires, on=range(ranks)):
        assert compared == 2 * (1 if schedule == "1f1b" else 2)


class Narrow(nn.Module):
    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.bfloat16()).tanh()


def bfloat16(rank: int, group: ProcessGroup) -> int:
    make: Make = lambda stage, stages: Narrow(stage)  # noqa: E731
    loss_fn = lambda y, target: functional.mse_loss(y.double(), target)  # noqa: E731
    pipe = pipeline(rank, group, "zb1p", 3, make, loss_fn=loss_fn)
    x, _, _, target = several_batch(3)
    parts = expect(make, 2, (x,), target, loss_fn, 3)
    pipe.step(x, target)
    compared = compare(pipe, parts, tolerance=2e-2)
    pipe.close()
    return compared


def test_other_types(four: Ranks) -> None:
    """What crosses stages may be of another type than the batch, such as bfloat16."""
    assert four.run(bfloat16, on=(0, 1)) == [2, 2]


class Passing(nn.Module):
    """Hands its input on as it is, beside something computed from it: the input is an output."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.linear(x), x if kept is None else x + kept


def passing(rank: int, group: ProcessGroup) -> int:
    make: Make = lambda stage, stages: Passing(stage).double()  # noqa: E731
    loss_fn = lambda pair, target: functional.mse_loss(pair[0] + pair[1], target)  # noqa: E731
    pipe = pipeline(rank, group, "interleavedzb", 4, make, loss_fn=loss_fn)
    x, _, _, target = several_batch(4)
    parts = expect(make, 4, (x,), target, loss_fn, 4)
    for _ in range(2):
        for module in modules(pipe).values():
            module.zero_grad()
        pipe.step(x, target)
        compared = compare(pipe, parts)
    pipe.close()
    return compared


def test_an_input_handed_on(four: Ranks) -> None:
    """A stage may return its input itself, and the loss may take several outputs."""
    assert four.run(passing, on=(0, 1)) == [4, 4]


class Odd(nn.Module):
    """Tensors of unusual shape: without dimensions, without elements, transposed, a view."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        if more:
            mean, empty, turned, whole = more
            x = x + mean + empty.sum() + turned.t() + whole[:, ::2]
        y = self.linear(x)
        return y, y.mean(), y[:0], y.t(), y.repeat_interleave(2, 1)


def odd(rank: int, group: ProcessGroup, schedule: str, wires: str) -> int:
    make: Make = lambda stage, stages: Odd(stage).double()  # noqa: E731
    loss_fn = lambda several, target: functional.mse_loss(several[0], target)  # noqa: E731
    channels = None if wires == "tagged" else Channels(wires)
    pipe = pipeline(rank, group, schedule, 4, make, loss_fn=loss_fn, channels=channels)
    x, _, _, target = several_batch(4)
    parts = expect(make, stages_of(pipe.plan), (x,), target, loss_fn, 4)
    for _ in range(2):
        for module in modules(pipe).values():
            module.zero_grad()
        pipe.step(x, target)
        compared = compare(pipe, parts)
    pipe.close()
    return compared


@pytest.mark.parametrize("wires", ["tagged", "pair"])
@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_unusual_shapes(four: Ranks, schedule: str, wires: str) -> None:
    """Numbers, empty tensors, transposed ones and views cross stages as anything else does."""
    assert all(four.run(odd, schedule, wires, on=(0, 1)))


def mixed(rank: int, group: ProcessGroup, schedule: str, tolerance: float) -> int:
    make: Make = lambda stage, stages: make_stage(stage, stages, torch.float32)  # noqa: E731
    pipe = pipeline(rank, group, schedule, 4, make, loss_fn=loss_of)
    x, y = batch_of(4)
    with torch.autocast("cpu", torch.bfloat16):
        parts = expect(make, stages_of(pipe.plan), (x,), y, loss_of, 4)
        pipe.step(x, y)
    compared = compare(pipe, parts, tolerance)
    pipe.close()
    return compared


@pytest.mark.parametrize(("schedule", "tolerance"), [("1f1b", 1e-5), ("interleavedzb", 1e-2)])
def test_autocast(four: Ranks, schedule: str, tolerance: float) -> None:
    """A step inside autocast gives what the model gives there.

    With B and W apart the gradient of a weight that is used twice is summed in its own type, not
    in bfloat16, so it is not quite the same.
    """
    assert all(four.run(mixed, schedule, tolerance, on=(0, 1)))


# --- shapes ---------------------------------------------------------------------------------------


def with_shapes(rank: int, group: ProcessGroup, said_by: Sequence[int]) -> int:
    spec = TensorSpec((PER_MICROBATCH, 3, WIDTH), DOUBLE)
    shapes = {1: [spec], 3: [torch.empty(spec.shape, dtype=DOUBLE, requires_grad=True)]}
    pipe = pipeline(
        rank,
        group,
        "interleaved",
        4,
        make_stage,
        loss_fn=loss_of,
        shapes=shapes if rank in said_by else None,
    )
    _, _, expected = unpipelined(4, 4, DOUBLE)
    x, y = batch_of(4)
    pipe.eval(x, y)
    pipe.step(x, y)
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


@pytest.mark.parametrize("said_by", [(0, 1), (0,), (1,)])
def test_declared_shapes(four: Ranks, said_by: Sequence[int]) -> None:
    """Shapes may be declared for some stages, by any rank, also if `eval` comes first."""
    assert all(four.run(with_shapes, said_by, on=(0, 1)))


def other_lengths(rank: int, group: ProcessGroup, schedule: str) -> list[int]:
    pipe = pipeline(rank, group, schedule, 4, make_stage, loss_fn=loss_of)
    stages = stages_of(pipe.plan)
    compared = []
    for length in (3, 5, 2):
        generator = torch.Generator().manual_seed(length)
        x, y = torch.randint(0, TOKENS, (2, 8, length), generator=generator)
        parts = expect(make_stage, stages, (x,), y, loss_of, 4)
        for _ in range(2):
            for module in modules(pipe).values():
                module.zero_grad()
            pipe.step(x, y)
            compared.append(compare(pipe, parts))
        pipe.forget_shapes()
    pipe.close()
    return compared


@pytest.mark.parametrize("schedule", ["1f1b", "dualpipe"])
def test_other_lengths(four: Ranks, schedule: str) -> None:
    """After forget_shapes, sequences may have another length."""
    for compared in four.run(other_lengths, schedule, on=(0, 1)):
        assert len(compared) == 6 and all(compared)
