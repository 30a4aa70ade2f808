"""Plans whose parts are not those of a stage are refused at load, in words; and what fits them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from moe import batch_of, loss_of, make_layer, make_stage
from ranks import Ranks
from torch import Tensor, nn
from torch.distributed import ProcessGroup

import pipec
from pipec.program.parts import parse_layout
from pipec.runtime import Pipeline, PipelineError
from pipec.runtime.experts import ExpertStage, make_exchange
from pipec.runtime.experts.opened import covers

FULL = "attention dispatch mlp combine"


def found(stage: nn.Module, layers: str) -> list[list[int]]:
    return [list(cover) for cover in covers(3, stage, parse_layout(layers))]


@pytest.mark.parametrize(
    ("layers", "at"),
    [
        (FULL, "from `out.1` on"),
        (f"3 x {FULL}", "from `attention.2` on"),
        ("attention dispatch experts combine | " + FULL, "from `experts.0` on"),
        ("embedding | 2 x " + FULL, "from `embedding.0` on"),
        ("attention mlp | attention mlp", "from `mlp.1` on"),
        (f"{FULL} | attention", "which end too early"),
    ],
)
def test_other_parts(layers: str, at: str) -> None:
    """Too few or too many layers and other names: what does not fit is named."""
    with pytest.raises(PipelineError) as caught:
        found(make_stage([0, 1], 4), layers)
    (finding,) = caught.value.findings
    assert finding.message == f"the parts of stage 3 are not those of the plan, {at}"
    assert finding.found == "layers of attention mlp | attention dispatch mlp combine"
    assert finding.hint is not None and "`layers`" in finding.hint


def test_another_module() -> None:
    """A module that is no expert stage has no parts."""
    with pytest.raises(PipelineError, match="the plan opens stage 3 into parts") as caught:
        found(nn.Linear(2, 2), FULL)
    assert caught.value.findings[0].found == "Linear"


def test_what_fits() -> None:
    """All-to-alls of a dense layer may be left out; the last part may have another name."""
    mixed = make_stage([0, 1], 4)
    assert found(mixed, f"2 x {FULL}") == [[part] for part in range(9)]
    short = [[0, 1], [2, 3], [4], [5], [6], [7], [8]]
    assert found(mixed, f"attention mlp | {FULL}") == short
    assert found(mixed, f"attention mlp | {FULL} | head") == short
    dense = ExpertStage([make_layer(0)])
    assert found(dense, "attention mlp") == [[0, 1], [2, 3, 4]]


def refused(rank: int, group: ProcessGroup) -> str:
    plan = pipec.compile("1f1b", P=2, M=2, layers=f"3 x {FULL}")
    stage = make_stage([2 * rank, 2 * rank + 1], 4)
    with pytest.raises(PipelineError) as caught:
        Pipeline(plan, {rank: stage}, loss_fn=loss_of, group=group, timeout=20)
    return str(caught.value)


@pytest.mark.slow
def test_at_load(four: Ranks) -> None:
    """Every rank is told."""
    first, second = four.run(refused, on=range(2))
    assert "the parts of stage 0 are not those of the plan" in first
    assert "the parts of stage 1 are not those of the plan" in second


class Breaks(nn.Module):
    """A head that fails when it is called the third time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(8, 11).double(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise ValueError("the head broke")
        return self.linear(x)


def breaks(rank: int, group: ProcessGroup) -> None:
    """Ranks 0 and 1 are the pipeline of expert rank 0, ranks 2 and 3 that of 1; rank 3 breaks."""
    groups = [torch.distributed.new_group(pair) for pair in ([0, 1], [2, 3], [0, 2], [1, 3])]
    exchange = make_exchange("torch", groups[2 + rank % 2])
    plan = pipec.compile("1f1b", P=2, M=4, layers=f"2 x {FULL}")
    place = rank % 2
    stage = make_stage([2 * place, 2 * place + 1], 4, exchange)
    if rank == 3:
        stage.after = Breaks()
    pipe = Pipeline(plan, {place: stage}, loss_fn=loss_of, group=groups[rank // 2], timeout=20)
    x, y = (torch.cat(parts) for parts in zip(*batch_of(rank // 2, 4), strict=True))
    pipe.step(x, y)


@pytest.mark.slow
def test_failure_reaches_all_pipelines(fresh: Callable[[int], Ranks]) -> None:
    """When a rank fails, its pipeline says why, and the pipelines that share its experts end."""
    answers = fresh(4).answers(breaks)
    assert [answer.kind for answer in answers] == ["PipelineError"] * 4
    assert all("the head broke" in answer.error for answer in answers[2:])
    assert all(answer.seconds < 10 for answer in answers)
