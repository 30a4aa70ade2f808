"""Steps and evaluations of a pipeline, and the batches they are given, on real processes."""

from __future__ import annotations

import pytest
import torch
from piped import (
    WIDTH,
    assert_close,
    assert_same,
    batch_of,
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

pytestmark = pytest.mark.slow


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "ranks", "count"),
    [("1f1b", 2, 3), ("zbv", 4, 7), ("dualpipe", 4, 8), ("dualpipev", 2, 4)],
)
def test_steps_add_up(four: Ranks, schedule: str, ranks: int, count: int) -> None:
    """Gradients of three steps add up, with evaluations in between that leave them alone."""
    assert all(four.run(accumulating, schedule, count, on=range(ranks)))


def in_place(rank: int, group: ProcessGroup) -> int:
    pipe = pipeline(rank, group, "dualpipe", 4, make_stage, loss_fn=loss_of)
    _, _, expected = unpipelined(2, 4, DOUBLE)
    compared = 0
    for _ in range(3):
        pipe.step(*batch_of(4))
        for stage, module in modules(pipe).items():
            compared += assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
            module.zero_grad(set_to_none=False)
    pipe.close()
    return compared


def test_gradients_zeroed_in_place(four: Ranks) -> None:
    """Summed gradients stay right if the optimizer zeroes them instead of dropping them."""
    assert all(four.run(in_place, on=(0, 1)))


def sum_reduction(rank: int, group: ProcessGroup, schedule: str, count: int) -> int:
    pipe = pipeline(rank, group, schedule, count, make_stage, loss_fn=loss_of, reduction="sum")
    _, losses, expected = unpipelined(stages_of(pipe.plan), count, DOUBLE, "sum")
    loss = pipe.step(*batch_of(count))
    if loss is not None:
        mine = torch.stack([losses[number] for number in pipe.losses]).sum()
        assert_close(loss, mine, 1e-10, "the summed loss")
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


@pytest.mark.parametrize(("schedule", "count"), [("1f1b", 3), ("dualpipe", 4)])
def test_sum(four: Ranks, schedule: str, count: int) -> None:
    """reduction="sum" adds up losses and gradients instead of averaging them."""
    assert all(four.run(sum_reduction, schedule, count, on=(0, 1)))


def outputs_on_request(rank: int, group: ProcessGroup, keep: bool) -> set[int]:
    pipe = pipeline(rank, group, "1f1b", 3, make_stage, loss_fn=loss_of, keep_outputs=keep)
    outputs, _, _ = unpipelined(2, 3, DOUBLE)
    pipe.step(*batch_of(3))
    for number, (output,) in pipe.outputs.items():
        assert_close(output, outputs[number], 1e-10, f"output {number}")
        assert not output.requires_grad
    kept = set(pipe.outputs)
    pipe.close()
    return kept


def test_outputs(four: Ranks) -> None:
    """A step keeps outputs only where that was asked for."""
    assert four.run(outputs_on_request, True, on=(0, 1)) == [set(), {0, 1, 2}]
    assert four.run(outputs_on_request, False, on=(0, 1)) == [set(), set()]


# --- batches --------------------------------------------------------------------------------------


def listed(rank: int, group: ProcessGroup, schedule: str, count: int, pairs: bool) -> int:
    pipe = pipeline(rank, group, schedule, count, make_stage, loss_fn=loss_of)
    _, _, expected = unpipelined(stages_of(pipe.plan), count, DOUBLE)
    x, y = (list(part.chunk(count)) for part in batch_of(count))
    pipe.step([(part,) for part in x] if pairs else x, [(part,) for part in y] if pairs else y)
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("schedule", "count"), [("1f1b", 3), ("dualpipe", 4)])
def test_lists(four: Ranks, schedule: str, count: int, pairs: bool) -> None:
    """A list holds the microbatches themselves, as tensors or as tuples."""
    assert all(four.run(listed, schedule, count, pairs, on=(0, 1)))


def only_where_needed(rank: int, group: ProcessGroup) -> int:
    pipe = pipeline(rank, group, "1f1b", 6, make_stage, loss_fn=loss_of)
    _, _, expected = unpipelined(4, 6, DOUBLE)
    x, y = batch_of(6)
    pipe.step(x if rank == 0 else None, y if rank == 3 else None)
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


def test_only_where_needed(four: Ranks) -> None:
    """Only the first rank needs the batch and only the last one the target."""
    assert all(four.run(only_where_needed))


class WithLoss(nn.Module):
    def __init__(self, stage: int, stages: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear, self.last = nn.Linear(WIDTH, WIDTH), stage == stages - 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).tanh()
        return y.square().mean() if self.last else y


def without_loss_fn(rank: int, group: ProcessGroup) -> tuple[int, bool]:
    make: Make = lambda stage, stages: WithLoss(stage, stages).double()  # noqa: E731
    pipe = pipeline(rank, group, "zb1p", 3, make)
    x, *_ = several_batch(3)
    parts = expect(make, 2, (x,), None, None, 3)
    trained = pipe.step(x)
    compared = compare(pipe, parts)
    evaluated = pipe.eval(x)
    assert (trained is None) == (evaluated is None) == (rank == 0)
    if trained is not None and evaluated is not None:
        assert_close(evaluated, trained, 1e-10, "the loss of eval")
    pipe.close()
    return compared, trained is not None


def test_without_loss_fn(four: Ranks) -> None:
    """The last stage may return its loss itself, in training and in evaluation."""
    assert four.run(without_loss_fn, on=(0, 1)) == [(2, False), (2, True)]
