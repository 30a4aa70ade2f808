"""What ends a step: every rank says what is wrong, and where in the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from piped import WIDTH, batch_of, compiled, loss_of
from ranks import Ranks
from refusing import refused, stages_for
from torch import Tensor, nn
from torch.distributed import ProcessGroup

import pipec
from pipec.runtime import Pipeline, PipelineError

pytestmark = pytest.mark.slow


class Returning(nn.Module):
    """A stage that returns whatever it is told to."""

    def __init__(self, value: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.value = nn.Linear(WIDTH, WIDTH).double(), value

    def forward(self, x: Tensor) -> Any:
        return self.value(self.linear(x))


VALUES: dict[str, Callable[[Tensor], Any]] = {
    "str": lambda y: (y, "text"),
    "dict": lambda y: {"y": y},
    "None": lambda y: None,
    "sparse_coo": lambda y: y.to_sparse(),
    "raises": lambda y: y @ torch.ones(3),
}


def returning(rank: int, group: ProcessGroup, what: str) -> list[str]:
    plan = compiled("1f1b", 3, 2)
    values = {1: VALUES[what]}
    stages = {s: Returning(values.get(s, lambda y: y)) for s in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=nn.functional.mse_loss, group=group, timeout=20)
    x = torch.ones(4, WIDTH, dtype=torch.float64)
    said = [refused(lambda: pipe.step(x, x))[0], refused(lambda: pipe.step(x, x))[0]]
    pipe.close()
    return said


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("str", "stage 1 returned something that cannot be sent to the next stage"),
        ("dict", "stage 1 returned something that cannot be sent to the next stage"),
        ("None", "stage 1 returned something that cannot be sent to the next stage"),
        ("sparse_coo", "stage 1 returned a tensor that cannot be sent to the next stage"),
        ("raises", "RuntimeError: size mismatch"),
    ],
)
def test_a_stage_misbehaves(four: Ranks, what: str, cause: str) -> None:
    """All ranks name the rank, the instruction and the cause; the next step is refused."""
    said = four.run(returning, what, on=(0, 1, 2))
    expected = f"rank 1 failed at index 1, `F main 1 0`: {cause}"
    for rank, (first, second) in enumerate(said):
        assert first.startswith(expected), first
        assert rank == 1 or f"rank {rank} " in first[len(expected) :]
        assert second.startswith(expected) and "failed before and cannot go on" in second


def changing(rank: int, group: ProcessGroup, sizes: tuple[int, int]) -> str:
    plan = compiled("1f1b", 2, 2)
    stages = {stage: Returning(lambda y: y) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=nn.functional.mse_loss, group=group, timeout=20)
    for size in sizes[:-1]:
        x = torch.ones(2 * size, WIDTH, dtype=torch.float64)
        pipe.step(x, x)
    x = torch.ones(2 * sizes[-1], WIDTH, dtype=torch.float64)
    said = "; ".join(filter(None, refused(lambda: pipe.step(x, x))))
    pipe.close()
    return said


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (2, 2, 1)])
def test_other_shapes(four: Ranks, sizes: tuple[int, ...]) -> None:
    """A batch of another shape is an error that names both shapes and the way out."""
    zero, one = four.run(changing, sizes, on=(0, 1))
    assert "`F main 0 0`: stage 0 returned something else than before" in zero
    assert f"float64[{sizes[0]}, 6]" in zero and f"float64[{sizes[-1]}, 6]" in zero
    assert "forget_shapes()" in zero
    assert "stage 0 returned something else than before" in one


def unequal_list(rank: int, group: ProcessGroup) -> str:
    plan = compiled("gpipe", 2, 2)
    stages = {stage: Returning(lambda y: y) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=nn.functional.mse_loss, group=group, timeout=20)
    x = [torch.ones(size, WIDTH, dtype=torch.float64) for size in (2, 3)]
    said = refused(lambda: pipe.step(x, x))[0]
    pipe.close()
    return said


def test_unequal_microbatches(four: Ranks) -> None:
    """Microbatches of different shapes in one step are an error on all ranks, not a hang."""
    for said in four.run(unequal_list, on=(0, 1)):
        assert "`F main 0 1`: stage 0 returned something else than before" in said


def bad_batch(rank: int, group: ProcessGroup, mistake: str) -> str:
    plan = compiled("1f1b", 2, 3)
    pipe = Pipeline(plan, stages_for(plan, rank), loss_fn=loss_of, group=group, timeout=20)
    x, y = batch_of(3)
    given: tuple[Any, Any]
    match mistake:
        case "not divisible":
            given = (x[:5], y)
        case "wrong list":
            given = ([x, x], y)
        case "no tensor":
            given = ("text", y)
        case "no batch":
            given = (None, y)
        case _:
            given = (x, None)
    said = "; ".join(filter(None, refused(lambda: pipe.step(*given))))
    pipe.close()
    return said


@pytest.mark.parametrize(
    ("mistake", "rank", "words"),
    [
        ("not divisible", 0, "the batch cannot be cut into 3 equal microbatches"),
        ("not divisible", 0, "a first dimension that 3 divides; shape (5, 3); drop or pad"),
        ("wrong list", 0, "the list of batch has the wrong length; 3 microbatches"),
        ("no tensor", 0, "the batch cannot be cut into microbatches; a tensor"),
        ("no batch", 0, "rank 0 holds the first stage and got no batch; call step(batch, target)"),
        ("no target", 1, "`F main 1 0`: this rank holds the last stage (1) and got no target"),
    ],
)
def test_bad_batch(four: Ranks, mistake: str, rank: int, words: str) -> None:
    """A batch that cannot be cut is an error on the rank that needs it, and ends the others."""
    said = four.run(bad_batch, mistake, on=(0, 1))
    assert words in said[rank]
    assert words.split("; ", maxsplit=1)[0] in said[1 - rank]


def no_loss(rank: int, group: ProcessGroup, loss_fn: Any) -> str:
    plan = compiled("1f1b", 2, 2)
    pipe = Pipeline(plan, stages_for(plan, rank), loss_fn=loss_fn, group=group, timeout=20)
    said = "; ".join(filter(None, refused(lambda: pipe.step(*batch_of(2)))))
    pipe.close()
    return said


def per_element(scores: Tensor, target: Tensor) -> Tensor:
    return scores.sum(-1)


def test_no_loss(four: Ranks) -> None:
    """A last stage without a loss, or a loss of several numbers, says what to do."""
    zero, one = four.run(no_loss, None, on=(0, 1))
    assert "stage 1 is the last one and there is no loss_fn" in zero
    assert "shape (2, 3, 11); give Pipeline a loss_fn, or let the last stage return its loss" in one
    _, one = four.run(no_loss, per_element, on=(0, 1))
    assert "the loss_fn did not return a loss; a tensor with one element; shape (2, 3)" in one


def train_inference(rank: int, group: ProcessGroup) -> str:
    plan = compiled("forward", 2, 2)
    pipe = Pipeline(plan, stages_for(plan, rank), loss_fn=loss_of, group=group, timeout=20)
    said = refused(lambda: pipe.step(*batch_of(2)))[0]
    pipe.eval(*batch_of(2))
    pipe.close()
    return said


def test_no_backward(four: Ranks) -> None:
    """A plan without backward cannot train, and still evaluates."""
    said = four.run(train_inference, on=(0, 1))
    assert said == ["plan `forward` has no backward"] * 2


class Exploding(nn.Module):
    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear, self.calls = nn.Linear(WIDTH, WIDTH).double(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * (float("nan") if self.calls == 5 else 1.0)


def exploding(rank: int, group: ProcessGroup, check: bool) -> str | None:
    plan = compiled("1f1b", 2, 3)
    stages = {stage: Exploding(stage) for stage in plan.stages(rank)}
    loss_fn = nn.functional.mse_loss
    pipe = Pipeline(plan, stages, loss_fn=loss_fn, group=group, timeout=20, check_finite=check)
    x = torch.ones(6, WIDTH, dtype=torch.float64)
    pipe.step(x, x)
    said = refused(lambda: pipe.step(x, x))[0] if check else str(pipe.step(x, x))
    pipe.close()
    return said


def test_not_a_number(four: Ranks) -> None:
    """With check_finite, a loss that is NaN ends the step on all ranks and names the microbatch."""
    for said in four.run(exploding, True, on=(0, 1)):
        assert "rank 1 failed at index" in said and "`F main 1 1`" in said
        assert "the loss of microbatch 1 is nan" in said
    assert "nan" in four.run(exploding, False, on=(0, 1))[1]


def in_source(rank: int, group: ProcessGroup) -> str:
    plan = pipec.compile("1f1b", P=2, M=2)
    stages = {stage: Returning(VALUES["dict"]) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=nn.functional.mse_loss, group=group, timeout=20)
    x = torch.ones(4, WIDTH, dtype=torch.float64)
    try:
        pipe.step(x, x)
    except PipelineError as error:
        pipe.close()
        return str(error)
    return ""


def test_the_line_that_made_it(four: Ranks) -> None:
    """The error on every rank points at the line of the `.pipe` file that made the instruction."""
    for said in four.run(in_source, on=(0, 1)):
        assert said.startswith("1f1b.pipe:") or "/1f1b.pipe:" in said.split(" ")[0]


def closed(rank: int, group: ProcessGroup) -> str:
    plan = compiled("1f1b", 2, 2)
    pipe = Pipeline(plan, stages_for(plan, rank), loss_fn=loss_of, group=group, timeout=20)
    pipe.step(*batch_of(2))
    pipe.close()
    pipe.close()
    return refused(lambda: pipe.step(*batch_of(2)))[0]


def test_closed(four: Ranks) -> None:
    """A closed pipeline says that it is closed; closing it twice is no mistake."""
    assert four.run(closed, on=(0, 1)) == ["the pipeline is closed"] * 2
